"""The order is a function of the log's contents and the journal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_ctr.errors import LogError, StateError
from stream_ctr.events.log import Entry, TopicPartition
from stream_ctr.pipeline.ordering.entry import OrderedEntry, OrderState
from stream_ctr.pipeline.ordering.journal import Decision, FileJournal, Journal
from stream_ctr.pipeline.ordering.order import Order
from tests.support.log_entries import (
    CLICKS,
    IMPRESSIONS,
    TOPICS,
    all_entries,
    click_value,
    fresh_order,
    fresh_state,
    impression_value,
    log_of,
    partitions,
)

Log = dict[TopicPartition, list[Entry]]


@st.composite
def logs(draw: st.DrawFn, most: int = 6) -> Log:
    """Two partitions a topic, times that go up and down, some entries that are no records."""
    values: dict[TopicPartition, list[bytes | None]] = {}
    for tp in partitions(2):
        make = impression_value if tp.topic == IMPRESSIONS else click_value
        times = draw(st.lists(st.none() | st.integers(0, 12), max_size=most))
        values[tp] = [None if t is None else make(f"{tp.partition}-{t}", t) for t in times]
    return log_of(values)


def sorted_oracle(log: Log) -> list[tuple[int, int, int, int]]:
    """All entries by (running maximum of event time, topic rank, partition, offset)."""
    places = []
    for tp, entries in log.items():
        latest = 0
        for entry in entries:
            if entry.value is not None:
                latest = max(latest, int(entry.value.split(b'"ts_ms":')[1].split(b",")[0].strip(b"}")))
            places.append((latest, TOPICS.index(tp.topic), tp.partition, entry.offset))
    return sorted(places)


def places(emitted: Sequence[OrderedEntry]) -> list[tuple[int, int, int, int]]:
    return [
        (o.partition_time_ms, TOPICS.index(o.entry.topic), o.entry.partition, o.entry.offset)
        for o in emitted
        if o.entry is not None
    ]


def state_after(emitted: Sequence[OrderedEntry], count: int = 2) -> OrderState:
    """What a pipeline would hold after these entries."""
    start = fresh_state(count)
    times, positions = dict(start.partition_times), dict(start.positions)
    for ordered in emitted:
        if ordered.entry is not None:
            tp = TopicPartition(ordered.entry.topic, ordered.entry.partition)
            times[tp], positions[tp] = ordered.partition_time_ms, ordered.entry.offset + 1
    if not emitted:
        return start
    last = emitted[-1]
    return OrderState(last.number + 1, last.time_ms, last.decisions, times, positions)


def test_impressions_come_before_clicks_at_equal_times() -> None:
    order = fresh_order(1)
    order.add([Entry(CLICKS, 0, 0, -1, None, click_value("a", 5))])
    order.add([Entry(IMPRESSIONS, 0, 0, -1, None, impression_value("a", 5))])
    assert [o.entry.topic for o in order.finish() if o.entry] == [IMPRESSIONS, CLICKS]


def test_nothing_is_emitted_before_every_active_partition_has_an_entry() -> None:
    order = fresh_order(1)
    order.add([Entry(IMPRESSIONS, 0, n, -1, None, impression_value(str(n), n)) for n in range(3)])
    assert order.emit(10) == []
    assert order.waiting_for() == [TopicPartition(CLICKS, 0)]
    order.add([Entry(CLICKS, 0, 0, -1, None, click_value("a", 1))])
    assert len(order.emit(10)) == 3
    assert order.buffered == 1
    assert order.waiting_for() == [TopicPartition(CLICKS, 0)]


def test_entry_that_is_no_record_takes_its_partitions_latest_time() -> None:
    order = fresh_order(1)
    values = [impression_value("a", 7), b"broken", impression_value("b", 3)]
    order.add(Entry(IMPRESSIONS, 0, n, -1, None, value) for n, value in enumerate(values))
    emitted = order.finish()
    assert [(o.partition_time_ms, o.record is None) for o in emitted] == [
        (7, False),
        (7, True),
        (7, False),
        (7, True),
    ]
    assert "malformed" in emitted[1].reason
    assert emitted[2].record is not None
    assert emitted[2].record.ts_ms == 3


def test_idle_partition_is_not_waited_for_until_it_has_an_entry() -> None:
    journal = Journal()
    order = fresh_order(1, journal)
    clicks = TopicPartition(CLICKS, 0)
    order.add([Entry(IMPRESSIONS, 0, 0, -1, None, impression_value("a", 5))])
    assert order.idle(order.waiting_for()) == [clicks]
    assert [o.time_ms for o in order.emit(10)] == [5]
    order.add([Entry(CLICKS, 0, 0, -1, None, click_value("a", 2))])
    assert order.idle_partitions() == []
    assert order.idle(order.waiting_for()) == [TopicPartition(IMPRESSIONS, 0)]
    late = order.emit(10)
    assert [(o.number, o.time_ms, o.partition_time_ms) for o in late] == [(1, 5, 2)]
    assert journal.decisions() == [
        Decision(0, "idle", clicks),
        Decision(1, "active", clicks),
        Decision(1, "idle", TopicPartition(IMPRESSIONS, 0)),
    ]


def test_partition_with_an_entry_waiting_cannot_become_idle() -> None:
    journal = Journal()
    order = fresh_order(1, journal)
    order.add([Entry(IMPRESSIONS, 0, 0, -1, None, impression_value("a", 5))])
    assert order.idle([TopicPartition(IMPRESSIONS, 0)]) == []
    assert journal.decisions() == []


@given(logs(), st.integers(1, 5), st.randoms(use_true_random=False))
def test_without_idle_partitions_the_order_is_the_sorted_one(log: Log, chunk: int, random: Random) -> None:
    """Nothing is known to be next once a partition has run dry, so what is emitted is a prefix."""
    order = fresh_order(2)
    emitted: list[OrderedEntry] = []
    entries = sorted(all_entries(log), key=lambda e: (random.random(), e.offset))
    queues = {tp: iter(items) for tp, items in log.items()}
    for entry in entries:
        order.add([next(queues[TopicPartition(entry.topic, entry.partition)])])
        emitted += order.emit(chunk)
    emitted += order.emit(10**6)
    expected = sorted_oracle(log)
    assert places(emitted) == expected[: len(emitted)]
    emitted += order.finish()
    assert places(emitted) == expected
    assert emitted[-1].entry is None
    assert [o.number for o in emitted] == list(range(len(emitted)))
    assert [o.time_ms for o in emitted] == sorted(o.time_ms for o in emitted)


Step = tuple[str, int]
STEPS = st.lists(
    st.tuples(st.sampled_from(["read", "read", "emit", "idle", "emit"]), st.integers(0, 7)), max_size=40
)


class Reader:
    """Reads the log in bits, as far as the test lets it."""

    def __init__(self, log: Log, positions: dict[TopicPartition, int]) -> None:
        self.log = log
        self.positions = dict(positions)

    def read(self, choice: int) -> list[Entry]:
        tp = sorted(self.log)[choice % len(self.log)]
        start, many = self.positions[tp], 1 + choice // len(self.log)
        entries = self.log[tp][start : start + many]
        self.positions[tp] += len(entries)
        return entries

    def read_all(self) -> list[Entry]:
        entries = [e for tp, items in self.log.items() for e in items[self.positions[tp] :]]
        self.positions = {tp: len(items) for tp, items in self.log.items()}
        return entries


def run(order: Order, reader: Reader, steps: Sequence[Step]) -> list[OrderedEntry]:
    emitted: list[OrderedEntry] = []
    for step, choice in steps:
        if step == "read":
            order.add(reader.read(choice))
        elif step == "emit":
            emitted += order.emit(1 + choice)
        else:
            waiting = order.waiting_for()
            order.idle(waiting[choice % len(waiting) :] if waiting else [])
    return emitted


def run_to_the_end(order: Order, reader: Reader) -> list[OrderedEntry]:
    order.add(reader.read_all())
    emitted = order.finish()
    while order.replaying or not emitted or emitted[-1].entry is not None:
        emitted += order.finish()
    return emitted


@given(logs(), STEPS)
def test_every_entry_is_emitted_once_in_partition_order_and_time_never_descends(
    log: Log, steps: list[Step]
) -> None:
    order = fresh_order(2)
    reader = Reader(log, fresh_state(2).positions)
    emitted = run(order, reader, steps)
    emitted += run_to_the_end(order, reader)
    for tp, entries in log.items():
        assert [o.entry for o in emitted if o.entry is not None and o.entry[:2] == tp] == entries
    assert [o.time_ms for o in emitted] == sorted(o.time_ms for o in emitted)
    assert [o.number for o in emitted] == list(range(len(emitted)))


@given(logs(), STEPS, STEPS)
def test_log_and_journal_determine_the_order(log: Log, steps: list[Step], others: list[Step]) -> None:
    """A second run with the first one's journal: other reads, other emits, other wishes for idleness."""
    journal = Journal()
    reader = Reader(log, fresh_state(2).positions)
    order = fresh_order(2, journal)
    emitted = run(order, reader, steps)
    emitted += run_to_the_end(order, reader)
    made = journal.decisions()

    again = fresh_order(2, journal)
    reader = Reader(log, fresh_state(2).positions)
    repeated = run(again, reader, others)
    repeated += run_to_the_end_of_replay(again, reader)
    assert repeated == emitted
    assert journal.decisions()[: len(made)] == made


def run_to_the_end_of_replay(order: Order, reader: Reader) -> list[OrderedEntry]:
    order.add(reader.read_all())
    return order.emit(10**6)


@settings(max_examples=60)
@given(logs(), st.lists(st.tuples(STEPS, st.floats(0, 1)), min_size=1, max_size=3), st.booleans())
def test_restarts_at_any_checkpoint_come_to_one_order(
    tmp_path_factory: pytest.TempPathFactory,
    log: Log,
    lives: list[tuple[list[Step], float]],
    trims: bool,
) -> None:
    """Each life emits something and dies; the next begins at a checkpoint somewhere within it.

    What the lives put together is what one uninterrupted run with the final journal emits.
    """
    path = tmp_path_factory.mktemp("journal") / "journal"
    kept: list[OrderedEntry] = []
    for steps, share in lives:
        state = state_after(kept)
        order = Order(TOPICS, state, FileJournal(path))
        emitted = run(order, Reader(log, state.positions), steps)
        kept += emitted[: round(len(emitted) * share)]
        if trims:
            FileJournal(path).trim(len(kept))
    state = state_after(kept)
    order = Order(TOPICS, state, FileJournal(path))
    kept += run_to_the_end(order, Reader(log, state.positions))
    for tp, entries in log.items():
        assert [o.entry for o in kept if o.entry is not None and o.entry[:2] == tp] == entries
    if not trims:
        journal = FileJournal(path)
        uninterrupted = fresh_order(2, journal)
        assert run_to_the_end_of_replay(uninterrupted, Reader(log, fresh_state(2).positions)) == kept
        assert not uninterrupted.replaying


def test_no_decision_is_made_before_the_journal_is_repeated() -> None:
    clicks = TopicPartition(CLICKS, 0)
    journal = Journal()
    journal.append([Decision(0, "idle", clicks)])
    journal.append([Decision(2, "active", clicks)])
    order = fresh_order(1, journal)
    order.add([Entry(CLICKS, 0, 0, -1, None, click_value("a", 0))])
    order.add([Entry(IMPRESSIONS, 0, n, -1, None, impression_value(str(n), n)) for n in range(2)])
    assert order.idle([TopicPartition(IMPRESSIONS, 0)]) == []
    emitted = order.emit(10)
    assert [o.entry.topic for o in emitted if o.entry] == [IMPRESSIONS, IMPRESSIONS]
    assert not order.replaying
    assert order.idle(order.waiting_for()) == [TopicPartition(IMPRESSIONS, 0)]
    assert [o.entry.topic for o in order.emit(10) if o.entry] == [CLICKS]


def test_end_mark_is_repeated_at_its_place() -> None:
    journal = Journal()
    order = fresh_order(1, journal)
    order.add([Entry(IMPRESSIONS, 0, 0, -1, None, impression_value("a", 5))])
    first = order.finish()
    order.add([Entry(IMPRESSIONS, 0, 1, -1, None, impression_value("b", 4))])
    first += order.finish()
    assert [o.entry is None for o in first] == [False, True, False, True]

    again = fresh_order(1, journal)
    again.add([Entry(IMPRESSIONS, 0, n, -1, None, impression_value("ab"[n], 5 - n)) for n in range(2)])
    assert again.emit(10) == first


def test_journal_of_another_run_is_refused() -> None:
    journal = Journal()
    journal.append([Decision(3, "idle", TopicPartition(CLICKS, 0))])
    state = fresh_state(1)
    behind = OrderState(5, 0, 0, state.partition_times, state.positions)
    with pytest.raises(StateError, match=r"holds 1 decisions before emission count 5, .* includes 0"):
        Order(TOPICS, behind, journal)
    with pytest.raises(StateError, match=r"holds 0 decisions .* includes 2"):
        Order(TOPICS, OrderState(5, 0, 2, state.partition_times, state.positions), Journal())


def test_journal_of_other_partitions_is_refused() -> None:
    journal = Journal()
    journal.append([Decision(0, "idle", TopicPartition(CLICKS, 4))])
    with pytest.raises(StateError, match=r"names clicks\[4\], which is not a partition of the topics read"):
        fresh_order(1, journal)


def test_entries_out_of_line_are_refused() -> None:
    order = fresh_order(1)
    entry = Entry(CLICKS, 0, 3, -1, None, click_value("a", 0))
    order.add([entry])
    with pytest.raises(LogError, match=r"clicks\[0\]: expected offset 4 or later, got 3"):
        order.add([entry])
    with pytest.raises(LogError, match=r"clicks\[1\] is not among the partitions"):
        order.add([entry._replace(partition=1)])
    order.add([entry._replace(offset=9)])
    assert order.buffered == 2


def test_record_far_ahead_does_not_move_the_order() -> None:
    order = Order(TOPICS, fresh_state(1), Journal(), max_ahead_seconds=1.0)
    order.add(
        [
            Entry(IMPRESSIONS, 0, 0, 100, None, impression_value("a", 90_000)),
            Entry(IMPRESSIONS, 0, 1, 100, None, impression_value("b", 150)),
        ]
    )
    emitted = order.finish()
    assert [o.time_ms for o in emitted] == [0, 150, 150]
    assert "ahead of the log's timestamp" in emitted[0].reason


def test_decision_that_cannot_be_journalled_is_not_made(tmp_path: Path) -> None:
    path = tmp_path / "state" / "journal"
    path.parent.mkdir()
    order = Order(TOPICS, fresh_state(1), FileJournal(path))
    order.add([Entry(IMPRESSIONS, 0, 0, -1, None, impression_value("a", 5))])
    path.rename(tmp_path / "away")
    with pytest.raises(StateError, match="cannot write it"):
        order.idle(order.waiting_for())
    with pytest.raises(StateError, match="cannot write it"):
        order.emit(1)
    (tmp_path / "away").rename(path)
    assert order.emit(1) == []
    assert order.idle(order.waiting_for()) == [TopicPartition(CLICKS, 0)]
    assert len(order.emit(1)) == 1
