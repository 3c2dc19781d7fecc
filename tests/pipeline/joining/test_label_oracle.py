"""Labels are a function of the log: order and joiner against a brute-force join of the whole log.

The oracle knows nothing of order, partitions or arrival: an impression is positive if any click with its
event id has an event time at most the window after its own. Logs are drawn with rare and frequent clicks,
silences from seconds to weeks, several partitions, skewed reading and clocks ahead on one partition. They are
read both at once and as they are written.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from random import Random

import pytest

from stream_ctr.config.join import JoinConfig, OrderConfig
from stream_ctr.daemon.intake import IdleClock
from stream_ctr.events.log import Entry, TopicPartition
from stream_ctr.joining.pipeline import JoinPipeline
from stream_ctr.pipeline.ordering.entry import OrderedEntry
from stream_ctr.pipeline.ordering.journal import Journal
from stream_ctr.pipeline.ordering.order import Order
from tests.support.log_entries import CLICKS, IMPRESSIONS, TOPICS, click_value, fresh_state, impression_value

CASES = int(os.environ.get("STREAM_CTR_TEST_LABEL_CASES", "100"))
"""Logs drawn by each test; set it higher for a longer search."""
WINDOW_MS = 60_000
JOIN = JoinConfig()
ORDER = OrderConfig()
GRACE_MS = int(JOIN.grace_seconds * 1000)
START_MS = 1_700_000_000_000
SECOND, MINUTE, HOUR, DAY = 1000, 60_000, 3_600_000, 86_400_000


@dataclass
class Happening:
    """One record, when it truly happened and when the log shows it."""

    event_id: str
    click: bool
    true_ms: int
    ts_ms: int
    arrival_ms: int
    partition: int


@dataclass
class DrawnLog:
    """A log in the order of its arrival."""

    partitions: int
    happenings: list[Happening]
    spoiled: set[str] = field(default_factory=set)
    """Event ids with a record whose own clock was ahead."""

    def entries(self) -> list[Entry]:
        offsets: dict[TopicPartition, int] = {}
        entries = []
        for item in self.happenings:
            tp = TopicPartition(CLICKS if item.click else IMPRESSIONS, item.partition)
            offset = offsets[tp] = offsets.get(tp, -1) + 1
            value = (click_value if item.click else impression_value)(item.event_id, item.ts_ms)
            entries.append(Entry(*tp, offset, -1, None, value))
        return entries


def brute_force_labels(log: DrawnLog) -> dict[str, int]:
    """Label of each impression by its event id, from all pairs of records with that id."""
    shown = {item.event_id: item.ts_ms for item in log.happenings if not item.click}
    labels = dict.fromkeys(shown, 0)
    for item in log.happenings:
        if item.click and item.ts_ms - shown[item.event_id] <= WINDOW_MS:
            labels[item.event_id] = 1
    return labels


def draw_log(random: Random, wrong: Sequence[str], most_delay_ms: int) -> DrawnLog:
    """Impressions and clicks of several partitions; arrival is at most ``most_delay_ms`` after the event."""
    partitions = random.choice([1, 1, 2, 3, 5])
    rate = 10 ** random.uniform(-5, 0)
    gap_ms = 10 ** random.uniform(0, 5)
    silence_ms = int(10 ** random.uniform(3, 9.2))
    silence_share = random.choice([0.0, 0.01, 0.1, 0.5])
    count = random.randint(1, 150)
    must_click = random.randrange(count)
    time_ms, happenings = START_MS, []
    for number in range(count):
        time_ms += int(random.expovariate(1.0) * gap_ms)
        if random.random() < silence_share:
            time_ms += silence_ms
        where = random.randrange(partitions)
        times = [(False, time_ms)]
        if random.random() < rate or number == must_click:
            delays = [0, WINDOW_MS, random.randint(0, WINDOW_MS), random.randint(0, WINDOW_MS)]
            times.append((True, time_ms + random.choice(delays)))
        if random.random() < 0.05:  # a click after the window, alone or as a repeat
            times.append((True, time_ms + WINDOW_MS + random.randint(1, 2 * WINDOW_MS)))
        for click, at_ms in times:
            delay_ms = random.choice([0, random.randint(0, most_delay_ms)])
            happenings.append(Happening(f"e{number}", click, at_ms, at_ms, at_ms + delay_ms, where))
    happenings.sort(key=lambda item: item.arrival_ms)
    log = DrawnLog(partitions, happenings)
    if wrong:
        set_clock_ahead(log, random, random.choice(wrong))
    return log


def set_clock_ahead(log: DrawnLog, random: Random, which: str) -> None:
    """Let records of one partition be ahead by minutes to days: one, some, a run of them, or all."""
    topic, partition = random.random() < 0.5, random.randrange(log.partitions)
    items = [item for item in log.happenings if item.click == topic and item.partition == partition]
    ahead_ms = int(10 ** random.uniform(5, 8))
    start = random.randrange(len(items)) if items else 0
    chosen: dict[str, Callable[[int], bool]] = {
        "one": lambda index: index == start,
        "some": lambda index: random.random() < 0.3,
        "run": lambda index: start <= index < start + 40,
        "all": lambda index: True,
    }
    is_wrong = chosen[which]
    for index, item in enumerate(items):
        # Nothing can contradict the first record of a log that is read as it is written.
        if is_wrong(index) and item is not log.happenings[0]:
            item.ts_ms += ahead_ms
            log.spoiled.add(item.event_id)


class Reading:
    """Order and joiner of a process that reads the log."""

    def __init__(
        self, log: DrawnLog, clock: Callable[[], int] | None, journal: Journal | None = None
    ) -> None:
        self.order = Order(
            TOPICS,
            fresh_state(log.partitions),
            Journal(),
            ORDER.max_ahead_seconds,
            ORDER.max_lead_seconds,
            clock=clock,
        )
        self.pipeline = JoinPipeline(JOIN, IMPRESSIONS, CLICKS, log.partitions)
        self.labels: dict[str, int] = {}

    def apply(self, entries: list[OrderedEntry]) -> None:
        for record in self.pipeline.apply(entries).records:
            assert record.record.key is not None
            event_id = record.record.key.decode()
            assert event_id not in self.labels
            assert record.record.value is not None
            self.labels[event_id] = int(b'"label":1' in record.record.value)

    def finish(self) -> dict[str, int]:
        while True:
            entries = self.order.finish()
            self.apply(entries)
            if entries and entries[-1].entry is None:
                return self.labels


def read_at_once(log: DrawnLog, random: Random) -> dict[str, int]:
    """Read the finished log in chunks, some partitions before others; none is idle before its end."""
    years_later = START_MS + 3000 * DAY
    reading = Reading(log, random.choice([None, lambda: years_later]))
    queues: dict[TopicPartition, deque[Entry]] = {}
    for entry in log.entries():
        queues.setdefault(TopicPartition(entry.topic, entry.partition), deque()).append(entry)
    weights = {tp: random.choice([1, 1, 10, 100]) for tp in sorted(queues)}
    while queues:
        waiting = [tp for tp in reading.order.waiting_for() if tp in queues]
        names = waiting if waiting and random.random() < 0.7 else sorted(queues)
        tp = random.choices(names, [weights[name] for name in names])[0]
        chunk = [queues[tp].popleft() for _ in range(min(len(queues[tp]), random.choice([1, 3, 50])))]
        if not queues[tp]:
            del queues[tp]
        reading.order.add(chunk)
        ended = [name for name in reading.order.waiting_for() if name not in queues]
        if random.random() < 0.3:
            reading.order.idle(ended)
        reading.apply(reading.order.emit(random.choice([1, 7, 1000])))
    return reading.finish()


def read_live(log: DrawnLog, *, years_later: bool) -> dict[str, int]:
    """Read each entry when it arrives, with the daemon's own rule for what is idle.

    ``years_later``: an old stream is written again at its own pace, so that the wall clock tells nothing.
    """
    now = [log.happenings[0].arrival_ms]
    reading = Reading(log, lambda: now[0] + 3000 * DAY * years_later)
    clock = IdleClock(ORDER.idle_seconds, lambda: now[0] / 1000)
    ends = dict.fromkeys(fresh_state(log.partitions).positions, 0)

    def step() -> None:
        reading.order.idle(clock.idle(reading.order.waiting_for(), ends, ends))
        reading.apply(reading.order.emit(10_000))

    for arrival_ms, entries in by_arrival(log):
        for pause_ms in (100, 500, 1100, 2500):  # the daemon polls while nothing arrives
            if now[0] + pause_ms < arrival_ms:
                now[0] += pause_ms
                step()
        now[0] = max(now[0], arrival_ms)
        for entry in entries:
            ends[TopicPartition(entry.topic, entry.partition)] += 1
        reading.order.add(entries)
        step()
    return reading.finish()


def by_arrival(log: DrawnLog) -> Iterator[tuple[int, list[Entry]]]:
    batch: list[Entry] = []
    last_ms = log.happenings[0].arrival_ms
    for item, entry in zip(log.happenings, log.entries(), strict=True):
        if item.arrival_ms != last_ms:
            yield last_ms, batch
            batch, last_ms = [], item.arrival_ms
        batch.append(entry)
    yield last_ms, batch


def check(log: DrawnLog, labels: dict[str, int], seed: int) -> None:
    expected = brute_force_labels(log)
    assert labels.keys() == expected.keys(), f"seed {seed}: an impression was dropped"
    honest = expected.keys() - log.spoiled
    wrong = {event_id for event_id in honest if labels[event_id] != expected[event_id]}
    assert not wrong, f"seed {seed}: {sorted(wrong)} have another label than the log says"


ANY = ("one", "some", "run", "all")


@pytest.mark.parametrize("wrong", [(), ANY], ids=["right clocks", "one clock ahead"])
def test_a_log_read_at_once_gives_the_labels_of_a_brute_force_join(wrong: Sequence[str]) -> None:
    for seed in range(CASES):
        random = Random(seed)
        log = draw_log(random, wrong, most_delay_ms=HOUR)
        check(log, read_at_once(log, random), seed)


@pytest.mark.parametrize(
    ("wrong", "years_later"),
    # A stream that is not of today has only its other records to contradict a clock.
    [((), False), (ANY, False), ((), True), (("one", "some"), True)],
    ids=["right clocks", "one clock ahead", "an old stream", "an old stream, one clock ahead"],
)
def test_a_log_read_as_it_is_written_gives_the_labels_of_a_brute_force_join(
    wrong: Sequence[str], years_later: bool
) -> None:
    most_delay_ms = GRACE_MS - int(ORDER.max_lead_seconds * 1000) - SECOND
    for seed in range(CASES):
        log = draw_log(Random(seed), wrong, most_delay_ms)
        check(log, read_live(log, years_later=years_later), seed)
