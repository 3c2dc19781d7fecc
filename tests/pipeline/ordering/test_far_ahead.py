"""Records far ahead of what the order has reached: silences and wrong clocks, rule by rule."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_ctr.events.log import Entry, TopicPartition
from stream_ctr.pipeline.ordering.entry import OrderedEntry, OrderState
from stream_ctr.pipeline.ordering.journal import Decision, FileJournal, Journal
from stream_ctr.pipeline.ordering.order import AGREEING, Order
from stream_ctr.pipeline.ordering.partition_queue import LOOKAHEAD
from stream_ctr.pipeline.ordering.progress import Progress
from tests.support.log_entries import CLICKS, IMPRESSIONS, TOPICS, click_value, fresh_state, impression_value

LEAD_SECONDS = 10.0
HOUR = 3_600_000
T = 1_700_000_000_000
SHOWN, CLICKED = TopicPartition(IMPRESSIONS, 0), TopicPartition(CLICKS, 0)


def entries_of(tp: TopicPartition, times: Sequence[int], first: int = 0) -> list[Entry]:
    make = impression_value if tp.topic == IMPRESSIONS else click_value
    return [
        Entry(*tp, first + n, -1, None, make(f"{tp.topic}-{first + n}", time)) for n, time in enumerate(times)
    ]


def order_over(
    journal: Journal | None = None, clock: Callable[[], int] | None = None, start: OrderState | None = None
) -> Order:
    return Order(
        TOPICS, start or fresh_state(1), journal or Journal(), float("inf"), LEAD_SECONDS, clock=clock
    )


def times(emitted: Sequence[OrderedEntry]) -> list[tuple[str, int, int]]:
    """Topic, own time and place in the order of each entry, counted from T."""
    return [
        (o.entry.topic, (o.record.ts_ms if o.record else 0) - T, o.time_ms - T)
        for o in emitted
        if o.entry is not None
    ]


def finish(order: Order) -> list[OrderedEntry]:
    emitted = order.finish()
    for _ in range(100):
        if emitted and emitted[-1].entry is None:
            return emitted
        emitted += order.finish()
    raise AssertionError("the order does not come to its end")


def test_a_click_hours_after_the_click_before_is_ordered_by_the_impressions_around_it() -> None:
    order = order_over()
    order.add(entries_of(SHOWN, [T + n * 60_000 for n in range(300)]))
    order.add(entries_of(CLICKED, [T + 30_000, T + 4 * HOUR + 30_000]))
    own = [(topic, at) for topic, at, _ in times(finish(order))]
    clicks = [place for place, (topic, _) in enumerate(own) if topic == CLICKS]
    assert [own[place - 1] for place in clicks] == [(IMPRESSIONS, 0), (IMPRESSIONS, 4 * HOUR)]


def test_after_a_silence_of_all_partitions_time_moves_on_at_the_first_record() -> None:
    order = order_over()
    order.add(entries_of(SHOWN, [T, *(T + 9 * HOUR + n for n in range(AGREEING + 1))]))
    order.add(entries_of(CLICKED, [T, *(T + 9 * HOUR + n for n in range(AGREEING + 1))]))
    order.idle(order.waiting_for())
    places = [place for _, _, place in times(finish(order))]
    assert places[2:4] == [9 * HOUR, 9 * HOUR]


@pytest.mark.parametrize("run", [1, 2, 100, LOOKAHEAD])
def test_a_wrong_clock_moves_nobody_while_a_right_one_follows_within_the_look_ahead(run: int) -> None:
    order = order_over()
    order.add(entries_of(SHOWN, [T, *[T + 9 * HOUR] * run, T + 1000]))
    order.add(entries_of(CLICKED, [T + 2000]))
    assert max(place for _, _, place in times(finish(order))) == 2000


def test_a_head_far_ahead_is_waited_for_until_enough_of_its_partition_is_read() -> None:
    order = order_over()
    order.add(entries_of(SHOWN, [T + n for n in range(5)]))
    order.add(entries_of(CLICKED, [T]))
    order.idle(order.waiting_for())
    assert len(order.emit(10)) == 2
    order.add(entries_of(CLICKED, [T + 9 * HOUR], first=1))
    assert order.emit(10) == []
    assert order.waiting_for() == [CLICKED]
    order.add(entries_of(CLICKED, [T + 1], first=2))
    assert times(order.emit(10)) == []
    order.idle(order.waiting_for())
    assert [(topic, at) for topic, at, _ in times(order.emit(3))] == [
        (IMPRESSIONS, 1),
        (CLICKS, 9 * HOUR),
        (CLICKS, 1),
    ]


def test_a_contradiction_that_arrives_later_takes_the_head_out_of_the_way() -> None:
    """Live: a record from the future is the last of its partition, and the others must not wait for it."""
    journal = Journal()
    order = order_over(journal)
    order.add(entries_of(SHOWN, [T, T + 50 * HOUR]))
    order.add(entries_of(CLICKED, [T + 100, T + 5000]))
    order.idle(order.waiting_for())
    assert times(order.emit(10)) == [(IMPRESSIONS, 0, 0), (CLICKS, 100, 100), (CLICKS, 5000, 5000)]
    order.add(entries_of(SHOWN, [T + 6000], first=2))
    order.add(entries_of(CLICKED, [T + 7000], first=2))
    assert times(order.emit(10)) == [
        (IMPRESSIONS, 50 * HOUR, 6000),
        (IMPRESSIONS, 6000, 6000),
    ]
    assert [d.change for d in journal.decisions()] == ["bound", "bound", "bound"]


def test_one_record_alone_after_a_silence_does_not_move_time_until_enough_agree() -> None:
    order = order_over()
    order.add(entries_of(SHOWN, [T]))
    order.add(entries_of(CLICKED, [T]))
    while order.buffered:
        order.idle(order.waiting_for())
        order.emit(10)
    order.idle(order.waiting_for())
    places = []
    for number in range(AGREEING + 1):
        order.add(entries_of(SHOWN, [T + 9 * HOUR + number * 100], first=1 + number))
        order.idle(order.waiting_for())
        places += [place for _, _, place in times(order.emit(10))]
    # Time moves to the least that was agreed on.
    assert places == [*[0] * (AGREEING - 1), 9 * HOUR, 9 * HOUR + AGREEING * 100]


def test_the_wall_clock_confirms_a_record_of_now_and_refuses_one_of_the_future() -> None:
    now, journal = [T + 9 * HOUR], Journal()
    order = order_over(journal, lambda: now[0])
    order.add(entries_of(SHOWN, [T, T + 9 * HOUR - 2000, *[T + 32 * HOUR] * 60, T + 9 * HOUR]))
    order.add(entries_of(CLICKED, [T]))
    order.idle(order.waiting_for())
    places = [place for _, _, place in times(finish(order))]
    assert places == [0, 0, *[9 * HOUR - 2000] * 61, 9 * HOUR]
    # The clock was consulted once: what it said is part of the order.
    assert [d for d in journal.decisions() if d.change == "clock"] == [
        Decision(0, "clock", None, T + 9 * HOUR)
    ]


Steps = list[tuple[str, int]]
TIMES = st.sampled_from([0, 500, 3000, 20_000, HOUR, HOUR + 500, HOUR + 30_000, 9 * HOUR, 9 * HOUR + 100])
LOGS = st.tuples(st.lists(TIMES, max_size=12), st.lists(TIMES, max_size=8))
STEPS = st.lists(
    st.tuples(st.sampled_from(["shown", "clicked", "emit", "idle"]), st.integers(1, 4)), max_size=30
)


def run(
    order: Order, log: dict[TopicPartition, list[Entry]], start: OrderState, steps: Steps
) -> list[OrderedEntry]:
    positions = dict(start.positions)
    emitted: list[OrderedEntry] = []
    for step, number in steps:
        if step == "emit":
            emitted += order.emit(number)
        elif step == "idle":
            order.idle(order.waiting_for())
        else:
            tp = SHOWN if step == "shown" else CLICKED
            order.add(log[tp][positions[tp] : positions[tp] + number])
            positions[tp] = min(positions[tp] + number, len(log[tp]))
    order.add(entry for tp in (SHOWN, CLICKED) for entry in log[tp][positions[tp] :])
    return emitted


def state_after(emitted: Sequence[OrderedEntry]) -> OrderState:
    progress = Progress([SHOWN, CLICKED])
    if emitted:
        progress.note(emitted)
    return progress.order_state()


@settings(max_examples=300, deadline=None)
@given(LOGS, STEPS, STEPS, st.floats(0, 1), st.booleans(), st.booleans())
def test_a_restart_with_the_journal_continues_the_same_order(
    tmp_path_factory: pytest.TempPathFactory,
    drawn: tuple[list[int], list[int]],
    steps: Steps,
    others: Steps,
    share: float,
    clocked: bool,
    trims: bool,
) -> None:
    """Reads, emissions and wishes differ after the restart; what the journal holds does not."""
    log = {tp: entries_of(tp, [T + t for t in ts]) for tp, ts in zip((SHOWN, CLICKED), drawn, strict=True)}
    clock = (lambda: T + 2 * HOUR) if clocked else None
    path = tmp_path_factory.mktemp("state") / "journal"
    start = fresh_state(1)
    order = order_over(FileJournal(path), clock)
    whole = run(order, log, start, steps)
    whole += finish(order)
    for tp in (SHOWN, CLICKED):
        assert [o.entry for o in whole if o.entry is not None and o.entry[:2] == tp] == log[tp]
    assert [o.time_ms for o in whole] == sorted(o.time_ms for o in whole)

    kept = whole[: round(len(whole) * share)]
    journal = FileJournal(path)
    if trims:
        journal.trim(len(kept))
    state = state_after(kept)
    again = order_over(FileJournal(path), clock, state)
    rest = run(again, log, state, others)
    while len(rest) < len(whole) - len(kept):
        rest += again.emit(100) or finish(again)
    assert rest[: len(whole) - len(kept)] == whole[len(kept) :]


def test_a_journal_of_the_format_before_is_read(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    path.write_bytes(
        b'{"format":1,"count":3,"decisions":2,"idle":[["clicks",0]]} 56f457ee\n'
        b'[[5,"active","clicks",0]] dfd14cff\n'
    )
    journal = FileJournal(path)
    assert journal.base.idle == {CLICKED}
    assert (journal.base.bounds, journal.base.clock_ms) == ({}, 0)
