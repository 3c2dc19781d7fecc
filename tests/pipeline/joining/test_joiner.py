"""Labels: every interleaving against a slow dictionary, every outcome by name."""

from __future__ import annotations

import dataclasses
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_ctr.config.join import JoinConfig
from stream_ctr.errors import ConfigError, StateError
from stream_ctr.pipeline.joining.joiner import OUTCOMES, Joiner, Labelled
from stream_ctr.pipeline.joining.segments import SegmentFolder
from stream_ctr.state.durable_files import Files
from stream_ctr.state.state import Arrays, Json, State

WINDOW, HORIZON = 5, 12
CONFIG = JoinConfig(
    release="click", window_seconds=WINDOW / 1000, grace_seconds=0.0, horizon_seconds=HORIZON / 1000
)
"""Most cases are told with positives at their clicks, where place and label can be told apart."""
LATER = dataclasses.replace(CONFIG, release="window")
COPIES = dataclasses.replace(CONFIG, policy="fast")
CONFIGS = st.sampled_from([CONFIG, LATER, COPIES])
TIGHT = 2000
"""A budget of memory for some four records."""


@dataclass(frozen=True)
class Event:
    """One entry at its place: the order's time, and the record's own."""

    kind: str
    event_id: str
    time_ms: int
    ts_ms: int


@st.composite
def streams(draw: st.DrawFn, ahead: bool = True) -> list[Event]:
    """Order times that never descend; own times about that, now and then far behind or ahead."""
    events, now = [], draw(st.integers(0, 30))
    for _ in range(draw(st.integers(0, 40))):
        now += draw(st.sampled_from([0, 0, 1, 2, 5, 6, 13]))
        behind = draw(st.sampled_from([0, 0, 0, 1, 4, 6, 12, 13, 20] + [-1, -6, -30] * ahead))
        kind = draw(st.sampled_from(["impression", "impression", "click", "click", "click", "other"]))
        events.append(Event(kind, draw(st.sampled_from("abcd")), now, max(0, now - behind)))
    return events


class QuickFiles(Files):
    """Nothing here outlives the machine."""

    def sync_file(self, path: Path) -> None:
        """Not at all."""

    def sync_folder(self, path: Path) -> None:
        """Not at all."""


@contextmanager
def segment_folder() -> Iterator[SegmentFolder]:
    with tempfile.TemporaryDirectory() as name:
        yield SegmentFolder(Path(name) / "segments", QuickFiles())


def payload_of(number: int) -> bytes:
    return b"payload %d" % number


Row = tuple[int, str, float | None]
"""Number of an impression, predict or learn, label."""


def apply(joiner: Joiner, events: list[Event]) -> list[Row]:
    rows: list[Row] = []

    def learned(labelled: Labelled | None) -> None:
        if labelled is not None:
            assert labelled.payload == payload_of(labelled.number)
            assert labelled.final or labelled.label == 1.0
            rows.append((labelled.number, "learn" if labelled.final else "copy", labelled.label))

    for event in events:
        for labelled in joiner.advance(event.time_ms):
            learned(labelled)
        if event.kind == "impression" and joiner.admits(event.event_id, event.ts_ms):
            number = joiner.impressions
            rows.append((number, "predict", None))
            learned(joiner.hold(event.event_id, event.ts_ms, payload_of(number)))
        elif event.kind == "click":
            learned(joiner.click(event.event_id, event.ts_ms))
    return rows


@dataclass
class Shown:
    event_id: str
    place_ms: int
    ts_ms: int
    label: int | None = None
    clicked: bool = False

    @property
    def start_ms(self) -> int:
        return max(self.place_ms, self.ts_ms)


@dataclass
class SlowJoiner:
    """The documented rules over plain lists that forget nothing; every question is asked of all."""

    config: JoinConfig
    shown: list[Shown] = field(default_factory=list)
    waiting: list[list[int | str]] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    count: Counter[str] = field(default_factory=Counter)

    def label(self, item: Shown, label: int) -> None:
        item.label = label
        self.count["positives" if label else "negatives"] += 1
        self.rows.append((self.shown.index(item), "learn", float(label)))

    def close(self, ended: list[Shown]) -> None:
        for item in sorted(ended, key=lambda i: (i.start_ms + WINDOW, self.shown.index(i))):
            self.label(item, int(item.clicked))

    def clicked(self, item: Shown, ts_ms: int) -> None:
        age = max(0, ts_ms - item.ts_ms)
        if item.clicked:
            self.count["clicks_repeated"] += 1
        elif age > WINDOW:
            self.count["clicks_after_window"] += 1
        elif item.label == 0:
            self.count["clicks_too_late"] += 1
        else:
            self.count["clicks_joined"] += 1
            item.clicked = True
            if self.config.policy == "fast":
                self.rows.append((self.shown.index(item), "copy", 1.0))
            elif self.config.release == "click":
                self.label(item, 1)

    def step(self, event: Event) -> None:
        now = event.time_ms
        self.close([i for i in self.shown if i.label is None and i.start_ms + WINDOW < now])
        gone = [w for w in self.waiting if int(w[1]) + HORIZON < now]
        self.count["clicks_orphaned"] += len(gone)
        self.waiting = [w for w in self.waiting if w not in gone]
        known = [i for i in self.shown if i.event_id == event.event_id and i.start_ms + HORIZON >= now]
        held = [w for w in self.waiting if w[0] == event.event_id]
        late = now - event.ts_ms > HORIZON
        if event.kind == "click":
            self.click(event, known, held, late)
        elif event.kind == "impression" and known:
            self.count["impressions_repeated"] += 1
        elif event.kind == "impression" and late:
            self.count["impressions_late"] += 1
        elif event.kind == "impression":
            self.shown.append(Shown(event.event_id, now, event.ts_ms))
            self.rows.append((len(self.shown) - 1, "predict", None))
            if held:
                self.waiting.remove(held[0])
                self.count["clicks_first"] += 1
                self.clicked(self.shown[-1], int(held[0][2]))

    def click(self, event: Event, known: list[Shown], held: list[list[int | str]], late: bool) -> None:
        if known:
            self.clicked(known[-1], event.ts_ms)
        elif held:
            self.count["clicks_repeated"] += 1
            held[0][2] = min(int(held[0][2]), event.ts_ms)
        elif late:
            self.count["clicks_late"] += 1
        else:
            self.waiting.append([event.event_id, max(event.time_ms, event.ts_ms), event.ts_ms])


@settings(max_examples=300, deadline=None)
@given(streams(), st.booleans(), CONFIGS)
def test_labels_and_outcomes_are_those_of_the_slow_joiner(
    events: list[Event], ends: bool, config: JoinConfig
) -> None:
    compare_with_the_slow_joiner(Joiner(config), events, ends, config)


@settings(max_examples=200, deadline=None)
@given(streams(ahead=False), st.booleans(), CONFIGS)
def test_memory_on_disk_changes_no_label_and_no_outcome(
    events: list[Event], ends: bool, config: JoinConfig
) -> None:
    with segment_folder() as folder:
        joiner = Joiner(dataclasses.replace(config, memory_bytes=TIGHT), folder)
        compare_with_the_slow_joiner(joiner, events, ends, config)


def compare_with_the_slow_joiner(joiner: Joiner, events: list[Event], ends: bool, config: JoinConfig) -> None:
    slow = SlowJoiner(config)
    rows = apply(joiner, events)
    for event in events:
        slow.step(event)
    if ends:
        rows += [(item.number, "learn", item.label) for item in joiner.flush()]
        still_open = [i for i in slow.shown if i.label is None]
        if still_open:
            now = max(joiner.watermark_ms, max(i.start_ms for i in still_open) + WINDOW)
            slow.step(Event("other", "", now, now))
        slow.close([i for i in slow.shown if i.label is None])
        assert joiner.open_impressions == 0
    assert rows == slow.rows
    assert joiner.outcomes == {name: slow.count[name] for name in OUTCOMES}


@given(streams(), CONFIGS)
def test_every_click_and_impression_has_one_outcome(events: list[Event], config: JoinConfig) -> None:
    joiner = Joiner(config)
    apply(joiner, events)
    joiner.flush()
    joiner.advance(10**9)
    kinds, count = Counter(event.kind for event in events), joiner.outcomes
    assert kinds["click"] == sum(
        count[name] for name in OUTCOMES if name.startswith("clicks_") and name != "clicks_first"
    )
    assert kinds["impression"] == sum(
        count[name] for name in ("positives", "negatives", "impressions_repeated", "impressions_late")
    )
    assert count["positives"] == count["clicks_joined"] == sum(joiner.delays.counts)
    assert joiner.joined_value == count["clicks_joined"]


@settings(deadline=None)
@given(streams(), streams(), CONFIGS, st.sampled_from([TIGHT, 10**6]))
def test_state_round_trips_bit_for_bit_anywhere(
    before: list[Event], after: list[Event], config: JoinConfig, budget: int
) -> None:
    config = dataclasses.replace(config, memory_bytes=budget)
    with segment_folder() as folder:
        joiner, loaded = Joiner(config, folder), Joiner(config, folder)
        apply(joiner, before)
        saved = joiner.state()
        loaded.load_state(saved)
        assert loaded.state().equals(saved)
        shift = joiner.watermark_ms
        later = [Event(e.kind, e.event_id, e.time_ms + shift, e.ts_ms + shift) for e in after]
        assert apply(loaded, later) == apply(joiner, later)
        assert loaded.state().equals(joiner.state())
        assert loaded.memory_bytes == joiner.memory_bytes
        assert loaded.segments() == joiner.segments()


def joined(*events: tuple[str, str, int, int]) -> tuple[list[Row], dict[str, int]]:
    joiner = Joiner(CONFIG)
    rows = apply(joiner, [Event(*event) for event in events])
    return rows, {name: n for name, n in joiner.outcomes.items() if n}


@given(streams(ahead=False))
def test_released_at_the_window_impressions_are_learned_in_the_order_they_were_shown(
    events: list[Event],
) -> None:
    """The same labels as at the click, but what is learned is the stream as it was."""
    at_click, at_window = Joiner(CONFIG), Joiner(LATER)
    early = [*apply(at_click, events), *((i.number, "learn", i.label) for i in at_click.flush())]
    late = [*apply(at_window, events), *((i.number, "learn", i.label) for i in at_window.flush())]
    learned = [row for row in late if row[1] == "learn"]
    assert [row[0] for row in learned] == sorted(row[0] for row in learned)
    assert sorted(learned) == sorted(row for row in early if row[1] == "learn")
    for joiner in (at_click, at_window):
        joiner.advance(10**9)  # flushing moves them to different times: let what is held be forgotten
    assert at_window.outcomes == at_click.outcomes


def test_click_exactly_at_the_windows_end_counts() -> None:
    rows, count = joined(("impression", "a", 10, 10), ("click", "a", 15, 15))
    assert rows == [(0, "predict", None), (0, "learn", 1.0)]
    assert count == {"positives": 1, "clicks_joined": 1}


def test_click_after_the_windows_end_does_not() -> None:
    rows, count = joined(("impression", "a", 10, 10), ("click", "a", 16, 16))
    assert rows == [(0, "predict", None), (0, "learn", 0.0)]
    assert count == {"negatives": 1, "clicks_after_window": 1}


def test_window_that_ends_with_an_event_is_still_open() -> None:
    assert joined(("impression", "a", 10, 10), ("other", "", 15, 15))[1] == {}
    assert joined(("impression", "a", 10, 10), ("other", "", 16, 16))[1] == {"negatives": 1}


def test_windows_close_before_the_event_and_in_order() -> None:
    rows, _ = joined(("impression", "a", 1, 1), ("impression", "b", 1, 1), ("impression", "c", 30, 30))
    assert [(row[0], row[1]) for row in rows] == [
        (0, "predict"),
        (1, "predict"),
        (0, "learn"),
        (1, "learn"),
        (2, "predict"),
    ]


def test_click_that_arrives_too_late_through_the_log_is_counted_not_learned() -> None:
    """Its own time lies within the window, but the order had passed the window's end."""
    rows, count = joined(("impression", "a", 10, 10), ("click", "a", 17, 12))
    assert rows[-1] == (0, "learn", 0.0)
    assert count == {"negatives": 1, "clicks_too_late": 1}


def test_repeated_click_is_counted_once_learned() -> None:
    _, count = joined(("impression", "a", 1, 1), ("click", "a", 2, 2), ("click", "a", 3, 3))
    assert count == {"positives": 1, "clicks_joined": 1, "clicks_repeated": 1}


def test_click_before_its_impression_is_held_for_it() -> None:
    rows, count = joined(("click", "a", 1, 1), ("impression", "a", 3, 3))
    assert rows == [(0, "predict", None), (0, "learn", 1.0)]
    assert count == {"positives": 1, "clicks_joined": 1, "clicks_first": 1}


def test_click_held_from_long_before_has_no_negative_age() -> None:
    """A clock that is behind must not turn a click into a missed one."""
    _, count = joined(("click", "a", 1, 1), ("impression", "a", 13, 13))
    assert count == {"positives": 1, "clicks_joined": 1, "clicks_first": 1}


def test_earliest_of_several_held_clicks_is_the_one_that_counts() -> None:
    _, count = joined(("click", "a", 20, 20), ("click", "a", 20, 13), ("impression", "a", 20, 10))
    assert count == {"positives": 1, "clicks_joined": 1, "clicks_first": 1, "clicks_repeated": 1}


def test_held_click_after_the_window_leaves_the_impression_open() -> None:
    rows, count = joined(("click", "a", 20, 20), ("impression", "a", 20, 10), ("click", "a", 21, 12))
    assert rows == [(0, "predict", None), (0, "learn", 1.0)]
    assert count == {"positives": 1, "clicks_joined": 1, "clicks_first": 1, "clicks_after_window": 1}


def test_click_without_an_impression_is_orphaned_after_the_horizon() -> None:
    assert joined(("click", "a", 1, 1), ("other", "", 13, 13))[1] == {}
    assert joined(("click", "a", 1, 1), ("other", "", 14, 14))[1] == {"clicks_orphaned": 1}


def test_repeated_impression_within_the_horizon_is_dropped() -> None:
    rows, count = joined(("impression", "a", 1, 1), ("impression", "a", 13, 13))
    assert rows == [(0, "predict", None), (0, "learn", 0.0)]
    assert count == {"negatives": 1, "impressions_repeated": 1}


def test_impression_of_a_forgotten_id_is_a_new_one() -> None:
    rows, _ = joined(("impression", "a", 1, 1), ("impression", "a", 14, 14))
    assert rows == [(0, "predict", None), (0, "learn", 0.0), (1, "predict", None)]


def test_file_that_is_replayed_again_is_late_and_learned_once() -> None:
    file = [("impression", "a", 10), ("click", "a", 12), ("impression", "b", 40)]
    second = [(kind, name, 40, ts) for kind, name, ts in file]
    rows, count = joined(*[(kind, name, ts, ts) for kind, name, ts in file], *second)
    assert rows == [(0, "predict", None), (0, "learn", 1.0), (1, "predict", None)]
    assert count == {
        "positives": 1,
        "clicks_joined": 1,
        "impressions_late": 1,
        "clicks_late": 1,
        "impressions_repeated": 1,
    }


def test_late_impression_within_the_horizon_waits_a_whole_window_from_its_place() -> None:
    rows, count = joined(("impression", "a", 20, 10), ("click", "a", 25, 15))
    assert rows == [(0, "predict", None), (0, "learn", 1.0)]
    assert count == {"positives": 1, "clicks_joined": 1}


def test_end_of_the_log_closes_windows_at_their_ends() -> None:
    joiner = Joiner(CONFIG)
    apply(joiner, [Event("impression", name, time, time) for name, time in (("a", 1), ("b", 4))])
    assert [(item.number, item.label) for item in joiner.flush()] == [(0, 0.0), (1, 0.0)]
    assert joiner.watermark_ms == 4 + WINDOW
    assert joiner.flush() == []
    assert apply(joiner, [Event("click", "a", 4, 4)]) == []
    assert joiner.outcomes["clicks_too_late"] == 1


def test_memory_forgets_keys_with_the_label_and_ids_with_the_horizon() -> None:
    joiner = Joiner(CONFIG)
    for number in range(1000):
        apply(joiner, [Event("impression", str(number), number, number)])
        apply(joiner, [Event("click", f"no {number}", number, number)])
        state = joiner.state().arrays
        assert np.count_nonzero(np.diff(state["impressions.payloads_offsets"])) <= WINDOW + 1
        assert len(state["impressions.number"]) <= HORIZON + 1
        assert len(state["clicks.number"]) <= HORIZON + 1
    joiner.advance(10**6)
    assert (joiner.memory_bytes, joiner.open_impressions) == (0, 0)


@pytest.mark.parametrize(
    ("window", "horizon", "message"),
    [
        (-1.0, 1.0, "join.window_seconds must be between 0 and 1e.09, got -1.0"),
        (1.0, float("inf"), "join.horizon_seconds must be between 0 and 1e.09, got inf"),
        (float("nan"), 1.0, "join.window_seconds must be between 0 and 1e.09, got nan"),
        (2.0, 1.0, "join.horizon_seconds = 1 is shorter than join.window_seconds = 2"),
    ],
)
def test_impossible_windows_are_refused(window: float, horizon: float, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Joiner(JoinConfig(window_seconds=window, horizon_seconds=horizon))


@pytest.mark.parametrize(
    ("seconds", "milliseconds"), [(0.1, 100), (0.07, 70), (0.0015, 2), (0.0, 0), (8.2, 8200)]
)
def test_seconds_become_whole_milliseconds(seconds: float, milliseconds: int) -> None:
    assert Joiner(JoinConfig(window_seconds=seconds, horizon_seconds=60)).window_ms == milliseconds


def test_damaged_states_are_refused_and_change_nothing() -> None:
    joiner = Joiner(CONFIG)
    apply(joiner, [Event("impression", "ab", 1, 1), Event("click", "c", 1, 1)])
    saved = joiner.state()
    replaced: Arrays = {
        "impressions.number": np.zeros(0, np.int64),
        "impressions.ids_offsets": np.array([0, 9], np.int64),
        "impressions.ids_bytes": np.array([255, 255], np.uint8),
        "impressions.changes": np.zeros((1, 1), np.int64),
        "clicks.ts_ms": np.zeros(2, np.int64),
    }
    damaged = [State({**saved.arrays, name: array}, saved.values) for name, array in replaced.items()]
    damaged.append(State({k: v for k, v in saved.arrays.items() if k != "ahead.ts_ms"}, saved.values))
    damaged += [State(saved.arrays, {**saved.values, name: None}) for name in saved.values]
    memory = saved.values["memory"]
    assert isinstance(memory, dict)
    queue = memory["impressions"]
    assert isinstance(queue, dict)
    for name in ("head", "due", "end", "segments"):
        damage: Json = [["x"]] if name == "segments" else 7
        wrong: dict[str, Json] = {**memory, "impressions": {**queue, name: damage}}
        damaged.append(State(saved.arrays, {**saved.values, "memory": wrong}))
    for state in damaged:
        with pytest.raises(StateError, match="saved joiner is damaged"):
            joiner.load_state(state)
        assert joiner.state().equals(saved)


def test_impression_ahead_of_the_order_is_open_until_its_own_window_ends() -> None:
    events = [("impression", "a", 10, 40), ("other", "", 45, 45), ("click", "a", 45, 44)]
    rows, count = joined(*events)
    assert rows == [(0, "predict", None), (0, "learn", 1.0)]
    assert count == {"positives": 1, "clicks_joined": 1}
    rows, _ = joined(("impression", "a", 10, 40), ("other", "", 45, 45), ("other", "", 46, 46))
    assert rows[1:] == [(0, "learn", 0.0)]


def test_impressions_ahead_get_a_share_of_the_memory_and_no_more() -> None:
    joiner = Joiner(dataclasses.replace(LATER, memory_bytes=100_000))
    events = [Event("impression", str(n), 10, 10**9) for n in range(1000)]
    apply(joiner, [*events, Event("impression", "in time", 10, 10)])
    assert joiner.memory_bytes < 100_000 / 3
    assert joiner.outcomes["impressions_ahead"] == 1000 - (joiner.open_impressions - 1)


def test_values_of_joined_clicks_are_added_up_and_of_no_others() -> None:
    joiner = Joiner(LATER)
    apply(joiner, [Event("impression", "a", 1, 1)])
    joiner.click("a", 2, 2.5)
    joiner.click("a", 3, 100.0)
    joiner.click("b", 3, 0.25)
    joiner.click("b", 2, 100.0)
    apply(joiner, [Event("impression", "b", 3, 3)])
    assert joiner.joined_value == 2.75
    assert joiner.delays.sum_ms == 1


def test_memory_stays_inside_its_budget_and_segments_go_with_their_records() -> None:
    config = JoinConfig(window_seconds=1.0, grace_seconds=0.0, horizon_seconds=2.0, memory_bytes=50_000)
    with segment_folder() as folder:
        joiner, most, named = Joiner(config, folder), 0, set()
        for number in range(4000):
            apply(joiner, [Event("impression", f"e{number}", number, number)])
            if number % 5 == 0:
                apply(joiner, [Event("click", f"e{max(0, number - 700)}", number, number)])
            most = max(most, joiner.memory_bytes)
            named |= {segment.name for segment in joiner.segments()}
            assert joiner.open_impressions <= 1001
        assert most <= 50_000 + 600
        assert len(named) > 50 > len(joiner.segments())
        assert joiner.outcomes["positives"] + joiner.outcomes["negatives"] == 4000 - 1000 - 1
        joiner.flush()
        assert joiner.outcomes["clicks_joined"] == joiner.outcomes["positives"] == 660
        joiner.advance(10**6)
        assert joiner.segments() == []


def test_segment_that_cannot_be_written_says_so_and_leaves_the_memory_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    joiner = Joiner(dataclasses.replace(LATER, memory_bytes=TIGHT), SegmentFolder(tmp_path / "file"))
    with pytest.raises(StateError, match=r"the joiner's memory budget is used up .* join\.memory_bytes"):
        apply(joiner, [Event("impression", str(n), 1, 1) for n in range(9)])
    assert joiner.segments() == []
    assert joiner.memory_bytes > TIGHT


def test_segment_that_is_missing_or_cut_is_named(tmp_path: Path) -> None:
    folder = SegmentFolder(tmp_path / "segments", QuickFiles())
    config = dataclasses.replace(LATER, memory_bytes=TIGHT)
    joiner = Joiner(config, folder)
    apply(joiner, [Event("impression", str(n), 1, 1) for n in range(9)])
    saved, (first, *_) = joiner.state(), joiner.segments()
    path = tmp_path / "segments" / first.name
    whole = path.read_bytes()
    for content in (whole[:-1], whole[:100], b"", None):
        path.unlink()
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(StateError, match=first.name):
            Joiner(config, folder).load_state(saved)
        if content is None:
            path.write_bytes(whole)
    Joiner(config, folder).load_state(saved)


def test_a_click_that_is_ahead_is_held_by_its_own_time() -> None:
    """After a silence a click may be read before its impression, hours before the order gets there."""
    joiner, silence = Joiner(CONFIG), 10_000_000
    joiner.advance(1000)
    assert joiner.click("a", silence + 3) is None
    joiner.advance(silence)
    assert joiner.admits("a", silence)
    labelled = joiner.hold("a", silence, b"")
    assert labelled is not None
    assert labelled.label == 1.0
    joiner.click("b", silence + 500)
    joiner.advance(silence + 500 + HORIZON)
    assert joiner.outcomes["clicks_orphaned"] == 0
    joiner.advance(silence + 501 + HORIZON)
    assert joiner.outcomes["clicks_orphaned"] == 1


def test_clicks_ahead_are_bounded_and_counted() -> None:
    joiner = Joiner(dataclasses.replace(CONFIG, memory_bytes=4000))
    joiner.advance(1000)
    for number in range(20):
        joiner.click(f"c{number}", 10_000_000)
    assert joiner.outcomes["clicks_ahead"] > 10
    assert joiner.memory_bytes < 2000


def test_a_window_is_settled_its_grace_after_its_end() -> None:
    joiner = Joiner(dataclasses.replace(LATER, grace_seconds=0.002))
    joiner.advance(100)
    assert joiner.admits("a", 100)
    joiner.hold("a", 100, b"")
    assert joiner.advance(100 + WINDOW + 2) == []
    joiner.click("a", 100 + WINDOW)
    assert [item.label for item in joiner.advance(100 + WINDOW + 3)] == [1.0]
