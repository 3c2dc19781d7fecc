"""Impressions reach a real log, even after an outage; lost ones are counted."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import msgspec
import pytest

from stream_ctr.config.log import LogConfig
from stream_ctr.errors import LogError, UsageError
from stream_ctr.events.log import EventLog, Record, TopicPartition
from stream_ctr.events.open import open_log
from stream_ctr.events.records import RECORD_VERSION, Impression
from stream_ctr.events.sqlite.log import SqliteLog
from stream_ctr.experiments.shared_files import read_gaps
from stream_ctr.serving.metrics import ServeMetrics
from stream_ctr.serving.ranking.byte_queue import size_of
from stream_ctr.serving.ranking.impression_log import BATCH_BYTES, ImpressionLog, encode_impression
from stream_ctr.serving.ranking.log_gaps import LogGaps
from tests.support.served_arms import sample

create = partial(open_log, create=True)


def record(number: int, site: str = "a") -> Record:
    return encode_impression(
        Impression(
            v=RECORD_VERSION, event_id=f"event-{number}", ts_ms=1000 + number, features={"site": site}
        ),
        1000 + number,
    )


def logged(url: str) -> list[Impression]:
    """All impressions of a log, in the order of their times."""
    log = open_log(url)
    try:
        places = {TopicPartition("impressions", n): 0 for n in range(log.partitions("impressions"))}
        reader = log.reader(places)
        entries = []
        while more := reader.poll(1000, 0.05):
            entries += more
        reader.close()
    finally:
        log.close()
    found = []
    for entry in entries:
        assert entry.value is not None
        found.append(msgspec.json.decode(entry.value, type=Impression))
        assert entry.key == found[-1].event_id.encode()
    return sorted(found, key=lambda impression: impression.ts_ms)


def eventually(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    """Wait for another thread to bring the condition about."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.005)


def metric(metrics: ServeMetrics, name: str) -> float:
    return sample(metrics.render().decode(), f"stream_ctr_serve_{name}")


def test_impressions_are_in_the_log_when_it_is_closed(tmp_path: Path) -> None:
    config = LogConfig(url=f"sqlite:///{tmp_path}/log.db")
    metrics = ServeMetrics()
    impressions = ImpressionLog(config, 10_000, 2**30, create, metrics)
    impressions.start()
    for number in range(1200):
        impressions.put(record(number))
    impressions.close()
    assert [i.event_id for i in logged(config.url)] == [f"event-{n}" for n in range(1200)]
    assert metric(metrics, "impressions_logged_total") == 1200
    assert metric(metrics, "impressions_dropped_total") == 0
    assert metric(metrics, "log_up") == 1


def test_a_log_unavailable_at_startup_is_retried(tmp_path: Path) -> None:
    config = LogConfig(url=f"sqlite:///{tmp_path}/log.db")
    metrics = ServeMetrics()
    impressions = ImpressionLog(config, 100, 2**30, open_log, metrics)
    impressions.start()
    for number in range(5):
        impressions.put(record(number))
    eventually(lambda: metric(metrics, "log_failures_total") >= 2)
    assert metric(metrics, "log_up") == 0
    create(config.url).close()
    eventually(lambda: metric(metrics, "impressions_logged_total") == 5)
    impressions.close()
    assert [i.event_id for i in logged(config.url)] == [f"event-{n}" for n in range(5)]
    assert metric(metrics, "log_up") == 1


class Outage(SqliteLog):
    """A real log that can be taken away: appends fail before or after they took place."""

    def __init__(self, url: str) -> None:
        super().__init__(url, create=True)
        self.away = threading.Event()
        self.after = False
        self.appended: list[int] = []
        """Bytes of each append."""

    def append(self, topic: str, records: Sequence[Record]) -> None:
        if self.away.is_set():
            if self.after:
                super().append(topic, records)
            raise LogError("the log is away")
        super().append(topic, records)
        self.appended.append(sum(map(size_of, records)))

    def close(self) -> None:
        """The connection stays for the next try."""


def outage(tmp_path: Path) -> tuple[Outage, Callable[[str], EventLog], LogConfig]:
    config = LogConfig(url=f"sqlite:///{tmp_path}/log.db")
    log = Outage(config.url)
    return log, lambda _url: log, config


def test_during_an_outage_impressions_wait_and_the_overflow_is_counted(tmp_path: Path) -> None:
    log, opener, config = outage(tmp_path)
    metrics = ServeMetrics()
    impressions = ImpressionLog(config, 10, 2**30, opener, metrics)
    impressions.start()
    log.away.set()
    impressions.put(record(0))
    eventually(lambda: metric(metrics, "log_failures_total") >= 1)
    for number in range(1, 31):
        impressions.put(record(number))
    assert metric(metrics, "impressions_dropped_total") == 20
    assert metric(metrics, "impressions_queued") == 10
    log.away.clear()
    impressions.close()
    assert [i.event_id for i in logged(config.url)] == [f"event-{n}" for n in range(11)]
    assert metric(metrics, "impressions_logged_total") == 11


def test_during_an_outage_the_queue_is_bounded_in_bytes(tmp_path: Path) -> None:
    """What the append under way holds counts, too."""
    log, opener, config = outage(tmp_path)
    metrics, folder = ServeMetrics(), tmp_path / "experiment"
    gaps = LogGaps(folder, metrics.routing)
    impressions = ImpressionLog(config, 1000, 4_000_000, opener, metrics, gaps)
    impressions.start()
    log.away.set()
    large = [record(number, "x" * 500_000) for number in range(20)]
    for each in large:
        impressions.put(each)
        assert metric(metrics, "impressions_queued_bytes") <= 4_000_000
    eventually(lambda: metric(metrics, "log_failures_total") >= 1)
    impressions.put(large[0])
    assert metric(metrics, "impressions_dropped_total") == 14
    impressions.put(record(100))
    assert metric(metrics, "impressions_dropped_total") == 14, "what is small has room"
    log.away.clear()
    eventually(lambda: metric(metrics, "impressions_queued_bytes") == 0)
    impressions.close()
    assert {i.event_id for i in logged(config.url)} == {f"event-{n}" for n in (*range(7), 100)}
    assert sum(gap.dropped for gap in read_gaps(folder)) == 14


def test_a_batch_is_bounded_in_bytes(tmp_path: Path) -> None:
    log, opener, config = outage(tmp_path)
    impressions = ImpressionLog(config, 1000, 2**30, opener, ServeMetrics())
    impressions.start()
    log.away.set()
    for number in range(40):
        impressions.put(record(number, "x" * 500_000))
    log.away.clear()
    impressions.close(timeout_seconds=60.0)
    assert len(logged(config.url)) == 40
    assert max(log.appended) <= BATCH_BYTES + 501_000


def test_an_append_that_only_seemed_to_fail_duplicates_events_and_loses_none(tmp_path: Path) -> None:
    log, opener, config = outage(tmp_path)
    log.after = True
    metrics = ServeMetrics()
    impressions = ImpressionLog(config, 10, 2**30, opener, metrics)
    impressions.start()
    log.away.set()
    impressions.put(record(7))
    eventually(lambda: metric(metrics, "log_failures_total") >= 1)
    log.away.clear()
    impressions.close()
    found = [i.event_id for i in logged(config.url)]
    assert len(found) >= 2
    assert set(found) == {"event-7"}
    assert metric(metrics, "impressions_logged_total") == 1


def test_an_exit_during_an_outage_counts_what_it_drops(tmp_path: Path) -> None:
    log, opener, config = outage(tmp_path)
    metrics = ServeMetrics()
    impressions = ImpressionLog(config, 100, 2**30, opener, metrics)
    impressions.start()
    log.away.set()
    for number in range(30):
        impressions.put(record(number))
    impressions.close(timeout_seconds=0.2)
    assert metric(metrics, "impressions_dropped_total") == 30
    assert logged(config.url) == []


def test_a_wrong_address_is_an_error_at_the_start() -> None:
    impressions = ImpressionLog(LogConfig(url="amqp://x"), 10, 2**30, create, ServeMetrics())
    with pytest.raises(UsageError, match="amqp://x"):
        impressions.start()
    impressions.close()


def test_a_replaced_log_file_is_reopened(tmp_path: Path) -> None:
    config = LogConfig(url=f"sqlite:///{tmp_path}/log.db")
    metrics = ServeMetrics()
    impressions = ImpressionLog(config, 100, 2**30, create, metrics)
    impressions.start()
    impressions.put(record(1))
    eventually(lambda: metric(metrics, "impressions_logged_total") == 1)
    for path in tmp_path.glob("log.db*"):
        path.unlink()
    impressions.put(record(2))
    impressions.close()
    assert [i.event_id for i in logged(config.url)] == ["event-2"]


def test_a_topic_with_a_different_partition_count_is_used_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = LogConfig(url=f"sqlite:///{tmp_path}/log.db", partitions=3)
    log = open_log(config.url, create=True)
    log.create_topic("impressions", 5)
    log.create_topic("clicks", 4)
    log.close()
    metrics = ServeMetrics()
    with caplog.at_level("WARNING", logger="stream_ctr.serving"):
        impressions = ImpressionLog(config, 100, 2**30, create, metrics)
        impressions.start()
        for number in range(50):
            impressions.put(record(number))
        impressions.close()
    assert len(logged(config.url)) == 50
    assert metric(metrics, "impressions_dropped_total") == 0
    assert caplog.messages == [
        "topic impressions has 5 partitions, log.partitions = 3: using the topic's number",
        "topic impressions has 5 partitions, topic clicks has 4: trainers reject this; add partitions to the "
        "smaller topic until both have 5",
    ]
