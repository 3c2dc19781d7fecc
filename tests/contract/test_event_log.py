"""The contract of event logs, tested on the embedded log and on a real Kafka broker."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from stream_ctr.errors import LogError, OffsetRangeError
from stream_ctr.events.dead_letters import DeadLetters, list_dead_letters
from stream_ctr.events.limits import ReadLimits
from stream_ctr.events.log import Entry, EventLog, LogReader, Record, TopicPartition
from stream_ctr.events.open import open_log
from stream_ctr.events.partitioner import partition_of

PARTITIONS = 3


@pytest.fixture(params=["sqlite", pytest.param("kafka", marks=pytest.mark.kafka)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/events.db"
    return str(request.getfixturevalue("kafka_url"))


@pytest.fixture
def log(url: str) -> Iterator[EventLog]:
    log = open_log(url, create=True)
    yield log
    log.close()


@pytest.fixture
def topic(log: EventLog) -> str:
    name = f"test-{uuid.uuid4()}"
    log.create_topic(name, PARTITIONS)
    return name


OpenReader = Callable[[dict[int, int]], LogReader]


@pytest.fixture
def open_reader(log: EventLog, topic: str) -> Iterator[OpenReader]:
    """Opens readers of the topic by partition and offset, and closes them after the test."""
    readers = []

    def open_(offsets: dict[int, int]) -> LogReader:
        readers.append(log.reader({TopicPartition(topic, p): offset for p, offset in offsets.items()}))
        return readers[-1]

    yield open_
    for reader in readers:
        reader.close()


def take(reader: LogReader, count: int, *, at_once: int = 1000) -> list[Entry]:
    """Poll until ``count`` entries came; fails when they do not within a minute."""
    entries: list[Entry] = []
    deadline = time.monotonic() + 60
    while len(entries) < count:
        assert time.monotonic() < deadline, f"{len(entries)} of {count} entries came"
        entries += reader.poll(at_once, 1.0)
    return entries


def numbered(count: int, partition: int | None = 0) -> list[Record]:
    return [Record(b"key-%d" % i, b"value-%d" % i, 1000 + i, partition) for i in range(count)]


def test_what_is_appended_is_read_byte_for_byte(log: EventLog, topic: str, open_reader: OpenReader) -> None:
    records = [
        Record(b"key", bytes(range(256)), 0, 0),
        Record(None, b"no key", 1_384_214_400_000, 0),
        Record(b"no value", None, 4_102_444_800_000, 0),  # 2100: a clock far ahead
        Record(b"", b"", 7, 0),
        Record("ключ".encode(), b"\x00" * 5_000_000, 8, 0),
        Record(b"headed", b"", 9, 0, (("a", b"\xff"), ("a", b""), ("b", bytes(8)))),
    ]
    log.append(topic, records)
    assert take(open_reader({0: 0}), 6) == [
        Entry(topic, 0, offset, record.timestamp_ms, record.key, record.value, record.headers)
        for offset, record in enumerate(records)
    ]
    assert log.start_offsets(topic) == {0: 0, 1: 0, 2: 0}
    assert log.end_offsets(topic) == {0: 6, 1: 0, 2: 0}


def test_headers_stay_with_their_records(log: EventLog, topic: str, open_reader: OpenReader) -> None:
    log.append(topic, [Record(b"k", b"%d" % i, 1, 0, (("n", b"%d" % i),) * (i % 3)) for i in range(9)])
    log.trim(topic, 0, 4)
    found = take(open_reader({0: 4}), 5, at_once=2)
    assert [(e.offset, e.headers) for e in found] == [(i, (("n", b"%d" % i),) * (i % 3)) for i in range(4, 9)]


def test_a_key_goes_to_the_partition_that_kafka_gives_it(
    log: EventLog, topic: str, open_reader: OpenReader
) -> None:
    records = numbered(60, partition=None)
    log.append(topic, records)
    entries = take(open_reader(dict.fromkeys(range(PARTITIONS), 0)), 60)
    assert {entry.key: entry.partition for entry in entries} == {
        record.key: partition_of(record.key, PARTITIONS) for record in records
    }
    assert {entry.partition for entry in entries} == {0, 1, 2}


def test_each_partition_keeps_the_order_of_its_appends(
    log: EventLog, topic: str, open_reader: OpenReader
) -> None:
    for start in range(0, 30, 10):
        log.append(topic, [Record(None, b"%d" % i, i, i % PARTITIONS) for i in range(start, start + 10)])
    by_partition = defaultdict(list)
    for entry in take(open_reader(dict.fromkeys(range(PARTITIONS), 0)), 30):
        by_partition[entry.partition].append((entry.offset, entry.value))
    assert by_partition == {
        p: list(enumerate(b"%d" % i for i in range(p, 30, PARTITIONS))) for p in range(PARTITIONS)
    }


def test_a_poll_returns_at_most_the_requested_entries_and_resumes(
    log: EventLog, topic: str, open_reader: OpenReader
) -> None:
    log.append(topic, numbered(25))
    reader = open_reader({0: 3})
    first = take(reader, 1, at_once=7)
    assert 1 <= len(first) <= 7
    assert reader.positions() == {TopicPartition(topic, 0): 3 + len(first)}
    rest = take(reader, 22 - len(first), at_once=7)
    assert [entry.offset for entry in first + rest] == list(range(3, 25))
    assert reader.positions() == reader.end_offsets() == {TopicPartition(topic, 0): 25}
    assert reader.poll(7, 0.0) == []
    assert reader.healthy


def test_a_poll_returns_at_most_the_requested_bytes(log: EventLog, topic: str) -> None:
    for partition in range(2):
        log.append(topic, [Record(b"%d" % i, bytes(20_000), 1, partition) for i in range(20)])
    limits = ReadLimits(record=100_000, poll=100_000)
    reader = log.reader({TopicPartition(topic, p): 0 for p in range(PARTITIONS)}, limits)
    found: list[Entry] = []
    deadline = time.monotonic() + 60
    while len(found) < 40:
        entries = reader.poll(1000, 1.0, max_bytes=50_000 if len(found) % 2 else None)
        sizes = reader.taken_bytes()
        assert set(sizes) == {entry[:2] for entry in entries}
        assert sum(sizes.values()) >= sum(len(entry.value or b"") for entry in entries)
        # SQLite reads several rows at once, so the last piece may exceed the limit.
        assert sum(len(entry.value or b"") for entry in entries) < 100_000 + 20_000 * 64
        found += entries
        assert time.monotonic() < deadline
    assert reader.poll(1000, 0.0, max_bytes=1) == []
    for partition in range(2):
        assert [e.offset for e in found if e.partition == partition] == list(range(20))
    reader.close()


def test_a_large_record_is_left_in_the_log_and_the_next_one_is_read(log: EventLog, topic: str) -> None:
    headers = (("h", b"x"),)
    records = [Record(b"a", b"1", 5, 0, headers), Record(b"b", bytes(2_000_000), 6, 0, headers)]
    log.append(topic, [*records, Record(b"c", b"3", 7, 0, headers)])
    reader = log.reader({TopicPartition(topic, 0): 0}, ReadLimits(record=1_000_000))
    first, large, last = take(reader, 3)
    assert (first[4:], last[4:]) == ((b"a", b"1", headers, None), (b"c", b"3", headers, None))
    assert large[:7] == (topic, 0, 1, 6, None, None, ())
    assert large.unread is not None
    assert 2_000_000 < large.unread.size_bytes < 2_000_100
    assert "more than the limit of 1000000; it was not read" in large.unread.reason
    reader.close()


def test_a_reader_says_which_topics_it_reads(log: EventLog, topic: str, open_reader: OpenReader) -> None:
    reader = open_reader({0: 0})
    reader.poll(1, 0.0)
    assert reader.topic_ids() == {topic: log.topic_id(topic)}
    assert reader.partition_counts() == {topic: PARTITIONS}
    assert not log.is_compacted(topic)


def test_a_topic_that_must_exist_keeps_its_partitions(log: EventLog, topic: str) -> None:
    assert log.ensure_topic(topic, 7) == PARTITIONS
    assert log.ensure_topic(f"{topic}-new", 2) == log.partitions(f"{topic}-new") == 2


def test_a_poll_can_leave_partitions_where_they_are(
    log: EventLog, topic: str, open_reader: OpenReader
) -> None:
    for partition in range(PARTITIONS):
        log.append(topic, numbered(20, partition))
    reader = open_reader(dict.fromkeys(range(PARTITIONS), 0))
    take(reader, 5, at_once=5)
    before = reader.positions()
    wanted = {TopicPartition(topic, 1)}
    found: list[Entry] = []
    while reader.positions()[TopicPartition(topic, 1)] < 20:
        found += reader.poll(4, 1.0, only=wanted)
    assert reader.poll(4, 0.0, only=wanted) == []
    assert {entry.partition for entry in found} <= {1}
    assert all(reader.positions()[place] == before[place] for place in before if place not in wanted)
    rest = take(reader, 60 - sum(reader.positions().values()))
    offsets = defaultdict(list)
    for entry in rest:
        offsets[entry.partition].append(entry.offset)
    assert offsets == {p: list(range(before[TopicPartition(topic, p)], 20)) for p in (0, 2) if offsets[p]}
    assert set(reader.positions().values()) == {20}


def test_a_waiting_poll_sees_what_another_connection_appends(
    url: str, log: EventLog, topic: str, open_reader: OpenReader
) -> None:
    reader = open_reader({0: 0})
    assert reader.poll(10, 0.0) == []
    found: list[Entry] = []
    waiting = threading.Thread(target=lambda: found.extend(reader.poll(10, 20.0)))
    waiting.start()
    other = open_log(url)
    other.append(topic, numbered(1))
    other.close()
    waiting.join()
    assert [entry.value for entry in found] == [b"value-0"]


def test_ids_stay_with_the_log_and_the_topic(url: str, log: EventLog, topic: str) -> None:
    other = open_log(url)
    second = f"test-{uuid.uuid4()}"
    other.create_topic(second, 1)
    assert other.log_id() == log.log_id() != ""
    assert other.topic_id(topic) == log.topic_id(topic)
    assert other.topic_id(second) != other.topic_id(topic)
    assert (other.partitions(topic), other.partitions(second)) == (PARTITIONS, 1)
    other.close()


def test_creating_a_topic_again_does_nothing_or_names_the_conflict(log: EventLog, topic: str) -> None:
    log.append(topic, numbered(4))
    before = log.topic_id(topic)
    log.create_topic(topic, PARTITIONS)
    assert (log.topic_id(topic), log.end_offsets(topic)[0]) == (before, 4)
    with pytest.raises(LogError, match=f"topic '{topic}' has 3 partitions, not 2; set partitions = 3"):
        log.create_topic(topic, 2)


@pytest.mark.parametrize("name", ["", "two words", "a/b", "ä", "..", "x" * 250])
def test_a_topic_needs_a_name_that_kafka_accepts(log: EventLog, name: str) -> None:
    with pytest.raises(LogError, match="invalid topic name"):
        log.create_topic(name, 1)


def test_a_topic_has_partitions(log: EventLog) -> None:
    with pytest.raises(LogError, match="must have 1 to 10000 partitions, got 0"):
        log.create_topic("empty", 0)


def test_a_missing_topic_is_named(log: EventLog) -> None:
    name = f"missing-{uuid.uuid4()}"
    calls: list[Callable[[], object]] = [
        lambda: log.append(name, numbered(1)),
        lambda: log.reader({TopicPartition(name, 0): 0}),
        lambda: log.topic_id(name),
        lambda: log.partitions(name),
        lambda: log.start_offsets(name),
        lambda: log.end_offsets(name),
        lambda: log.trim(name, 0, 0),
    ]
    for call in calls:
        with pytest.raises(LogError, match=f"topic '{name}' does not exist"):
            call()


def test_a_missing_partition_is_named(log: EventLog, topic: str) -> None:
    calls: list[Callable[[], object]] = [
        lambda: log.append(topic, [Record(b"good", b"", 0, 0), Record(b"bad", b"", 0, 3)]),
        lambda: log.reader({TopicPartition(topic, 3): 0}),
        lambda: log.trim(topic, 3, 0),
    ]
    for call in calls:
        with pytest.raises(LogError, match=f"topic '{topic}' has no partition 3, only 0 to 2"):
            call()
    assert set(log.end_offsets(topic).values()) == {0}


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (Record(None, None, 0), "neither key nor value"),
        (Record(b"", b"", -1), "timestamp -1 ms"),
        (Record(b"k", b"\0" * 2**25, 0), "33554433 bytes; the limit is 33554432"),
    ],
)
def test_an_invalid_record_rejects_the_whole_append(
    log: EventLog, topic: str, record: Record, message: str
) -> None:
    with pytest.raises(LogError, match=message):
        log.append(topic, [Record(b"good", b"", 0), record])
    assert set(log.end_offsets(topic).values()) == {0}


def test_trimmed_offsets_are_gone_and_never_used_again(
    log: EventLog, topic: str, open_reader: OpenReader
) -> None:
    log.append(topic, numbered(10))
    log.trim(topic, 0, 4)
    log.trim(topic, 0, 2)
    assert log.start_offsets(topic) == {0: 4, 1: 0, 2: 0}
    assert [entry.offset for entry in take(open_reader({0: 4}), 6)] == list(range(4, 10))
    log.trim(topic, 0, 10)
    assert (log.start_offsets(topic)[0], log.end_offsets(topic)[0]) == (10, 10)
    log.append(topic, numbered(1))
    assert [entry.offset for entry in take(open_reader({0: 10}), 1)] == [10]
    with pytest.raises(OffsetRangeError, match="ends at offset 11; the entries before offset 12 cannot be"):
        log.trim(topic, 0, 12)


def test_a_reader_outside_the_log_names_the_lost_range(log: EventLog, topic: str) -> None:
    log.append(topic, numbered(10))
    log.trim(topic, 0, 4)
    with pytest.raises(OffsetRangeError, match="begins at offset 4, so the entries 1 to 3 are lost"):
        log.reader({TopicPartition(topic, 1): 0, TopicPartition(topic, 0): 1})
    with pytest.raises(OffsetRangeError, match="ends at offset 10, so the entries 10 to 11 do not exist"):
        log.reader({TopicPartition(topic, 0): 12})


def test_a_reader_overtaken_by_a_trim_names_the_lost_range(
    log: EventLog, topic: str, open_reader: OpenReader
) -> None:
    log.append(topic, numbered(10))
    reader = open_reader({0: 0})
    log.trim(topic, 0, 4)
    for _ in range(2):  # it does not recover by itself either
        with pytest.raises(OffsetRangeError, match="begins at offset 4, so the entries 0 to 3 are lost"):
            take(reader, 1)


def test_repeated_dead_letters_are_listed_once(log: EventLog, topic: str) -> None:
    entries = [Entry("clicks", 1, offset, 5, b"key", b"\xff{") for offset in range(4)]
    for offsets in ((0, 1), (1, 2), (0, 1, 2, 3)):  # as after two restarts
        letters = DeadLetters(log, topic)
        for offset in offsets:
            letters.add(entries[offset], f"bad JSON at {offset}")
        letters.flush()
    listed = sorted(list_dead_letters(log, topic), key=lambda letter: letter.offset)
    assert [(x.topic, x.partition, x.offset, x.reason, x.key, x.value) for x in listed] == [
        ("clicks", 1, offset, f"bad JSON at {offset}", b"key", b"\xff{") for offset in range(4)
    ]
    assert sum(log.end_offsets(topic).values()) == 8  # the topic holds the repeats


_WRITER = """
import sys
from stream_ctr.events.log import Record
from stream_ctr.events.open import open_log
url, topic, name = sys.argv[1:]
log = open_log(url)
for start in range(0, 300, 10):
    log.append(topic, [Record(b"%s" % name.encode(), b"%d" % i, i, i % 3) for i in range(start, start + 10)])
log.close()
"""

_READER = """
import sys
from stream_ctr.events.log import TopicPartition
from stream_ctr.events.open import open_log
log = open_log(sys.argv[1])
reader = log.reader({TopicPartition(sys.argv[2], p): 0 for p in range(3)})
left = 900
while left:
    for entry in reader.poll(50, 1.0):
        print(entry.partition, entry.offset, entry.key.decode(), entry.value.decode())
        left -= 1
reader.close()
log.close()
"""


def test_several_processes_append_and_read_at_once(url: str, log: EventLog, topic: str) -> None:
    def run(code: str, *arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", code, url, topic, *arguments]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    readers = [run(_READER) for _ in range(2)]
    writers = [run(_WRITER, name) for name in "abc"]
    for writer in writers:
        assert writer.communicate(timeout=120)[0] == ""
        assert writer.returncode == 0
    assert log.end_offsets(topic) == {0: 300, 1: 300, 2: 300}
    for reader in readers:
        output, _ = reader.communicate(timeout=120)
        assert reader.returncode == 0
        rows = [line.split() for line in output.splitlines()]
        for partition in "012":
            assert [int(row[1]) for row in rows if row[0] == partition] == list(range(300))
            for name in "abc":
                values = [int(row[3]) for row in rows if (row[0], row[2]) == (partition, name)]
                assert values == list(range(int(partition), 300, 3))
