"""Order, journal and pipeline over a real log: runs that die and go on against one that never stopped."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from stream_ctr.batch import Batch
from stream_ctr.events.log import EventLog, Record
from stream_ctr.events.open import open_log
from stream_ctr.events.records import FeatureValue
from stream_ctr.pipeline.ordering.journal import FileJournal
from stream_ctr.pipeline.ordering.order import Order
from stream_ctr.pipeline.stream import Pipeline
from stream_ctr.state.state import State
from tests.pipeline.test_stream import assert_same, concatenated, fresh_pipeline
from tests.support.log_entries import CLICKS, IMPRESSIONS, TOPICS, click_value, impression_value

PARTITIONS = 2


@pytest.fixture
def log(tmp_path: Path) -> Iterator[EventLog]:
    opened = open_log(f"sqlite:///{tmp_path / 'log'}", create=True)
    for topic in TOPICS:
        opened.create_topic(topic, PARTITIONS)
    yield opened
    opened.close()


def fill(log: EventLog, random: Random, start: int, count: int) -> None:
    """Impressions a millisecond apart, clicks on a third of them, a broken entry now and then."""
    impressions, clicks = [], []
    for number in range(start, start + count):
        event_id, broken = f"event-{number}", random.random() < 0.05
        features: dict[str, FeatureValue] = {"site": random.choice("xyz"), "price": random.random()}
        value = b"broken" if broken else impression_value(event_id, number, features)
        impressions.append(Record(event_id.encode(), value, number))
        if random.random() < 0.35:
            time = number + random.randrange(8)
            clicks.append(Record(event_id.encode(), click_value(event_id, time), time))
    log.append(IMPRESSIONS, impressions)
    log.append(CLICKS, clicks)


def live(log: EventLog, pipeline: Pipeline, journal: FileJournal, random: Random, rounds: int) -> list[Batch]:
    """Read, order and apply as a daemon does; chance stands for the wall clock."""
    order = Order(TOPICS, pipeline.stage.progress.order_state(), journal)
    reader = log.reader(pipeline.stage.progress.positions())
    batches = []
    for _ in range(rounds):
        if random.random() < 0.7:
            order.add(reader.poll(1 + random.randrange(20), 0.0))
        if random.random() < 0.3:
            order.idle(order.waiting_for())
        batches.append(pipeline.apply(order.emit(1 + random.randrange(9))).batch)
    reader.close()
    return batches


def finished(log: EventLog, pipeline: Pipeline, journal: FileJournal) -> list[Batch]:
    order = Order(TOPICS, pipeline.stage.progress.order_state(), journal)
    reader = log.reader(pipeline.stage.progress.positions())
    while entries := reader.poll(1000, 0.0):
        order.add(entries)
    reader.close()
    batches = []
    while order.buffered or order.replaying:
        entries_in_order = order.emit(7) or order.finish()
        batches.append(pipeline.apply(entries_in_order).batch)
    return batches


@pytest.mark.parametrize("seed", range(5))
def test_runs_that_die_come_to_what_one_run_comes_to(log: EventLog, tmp_path: Path, seed: int) -> None:
    random = Random(seed)
    path = tmp_path / "journal"
    saved: State | None = None
    kept: list[Batch] = []
    for life in range(5):
        fill(log, random, 40 * life, 40)
        pipeline = fresh_pipeline(PARTITIONS)
        if saved is not None:
            pipeline.load_state(saved)
        journal = FileJournal(path)
        kept += live(log, pipeline, journal, random, 30)
        saved = pipeline.state()
        # What this life does from here on is lost: it dies before another checkpoint.
        live(log, pipeline, journal, random, random.randrange(20))
    pipeline = fresh_pipeline(PARTITIONS)
    assert saved is not None
    pipeline.load_state(saved)
    kept += finished(log, pipeline, FileJournal(path))

    uninterrupted = fresh_pipeline(PARTITIONS)
    batches = finished(log, uninterrupted, FileJournal(path))
    assert_same(concatenated(batches), concatenated(kept))
    assert uninterrupted.state().equals(pipeline.state())
    assert uninterrupted.stage.progress.positions() == {
        tp: log.end_offsets(tp.topic)[tp.partition] for tp in uninterrupted.stage.progress.positions()
    }
    assert uninterrupted.outcomes["rejected"] > 0
    assert uninterrupted.outcomes["positives"] > 20
    assert FileJournal(path).decisions()
