"""Cases specific to Kafka: URLs, and brokers that are missing, stop, stall or recover."""

from __future__ import annotations

import logging
import signal
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from functools import partial

import pytest

from stream_ctr.errors import LogError, OffsetRangeError, UsageError
from stream_ctr.events.kafka import reader as kafka_reader
from stream_ctr.events.kafka.client import fetcher, kafka, servers_of
from stream_ctr.events.kafka.fetcher import BY_ID, install_fetcher
from stream_ctr.events.kafka.log import KafkaLog
from stream_ctr.events.kafka.reader import KafkaReader
from stream_ctr.events.limits import ReadLimits
from stream_ctr.events.log import Entry, LogReader, Record, TopicPartition
from tests.support.free_ports import free_port
from tests.support.kafka_broker import Broker


def records_of(*values: bytes) -> list[Record]:
    return [Record(b"key", value, 0, 0) for value in values]


def test_an_address_names_one_or_more_servers() -> None:
    assert servers_of("kafka://one:9092") == ["one:9092"]
    assert servers_of("kafka://one:9092,10.0.0.2:9093,[::1]:1") == ["one:9092", "10.0.0.2:9093", "[::1]:1"]


@pytest.mark.parametrize(
    "url",
    ["kafka://", "kafka://one", "kafka://one:0", "kafka://one:65536", "kafka://one:1,", "kafka://a:b@c:1"],
)
def test_another_form_of_address_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match=r"is not a log URL; write kafka://host:port\[,host:port\]$"):
        KafkaLog(url)


def test_an_unreachable_broker_is_one_line(caplog: pytest.LogCaptureFixture) -> None:
    url = f"kafka://127.0.0.1:{free_port()}"
    threads = threading.active_count()
    with pytest.raises(LogError) as raised:
        KafkaLog(url)
    assert str(raised.value) == (
        f"{url}: no broker can be reached (connection refused); check the address and that Kafka is running"
    )
    assert caplog.records == []
    assert threading.active_count() == threads


@pytest.fixture
def stranger() -> Iterator[socket.socket]:
    """A server that is not Kafka."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def test_a_silent_server_is_rejected(stranger: socket.socket) -> None:
    with pytest.raises(LogError, match=r"no broker can be reached \(no answer in time\)"):
        KafkaLog(f"kafka://127.0.0.1:{stranger.getsockname()[1]}", timeout_seconds=0.2)


def test_a_server_with_another_protocol_is_rejected(stranger: socket.socket) -> None:
    def answer() -> None:
        connection, _ = stranger.accept()
        with connection:
            connection.recv(100)
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    thread = threading.Thread(target=answer)
    thread.start()
    with pytest.raises(LogError, match="the server is not a Kafka broker"):
        KafkaLog(f"kafka://127.0.0.1:{stranger.getsockname()[1]}")
    thread.join()


def test_the_client_library_logs_nothing_by_default() -> None:
    assert not logging.getLogger("kafka.net.manager").isEnabledFor(logging.CRITICAL)


def recreate(log: KafkaLog, topic: str) -> None:
    """Delete a topic and create it again; returns when the new topic exists."""
    first = log.topic_id(topic)
    admin = kafka.KafkaAdminClient(bootstrap_servers=servers_of(log.url))
    admin.delete_topics([topic])
    admin.close()
    deadline = time.monotonic() + 60
    while True:  # a deletion takes a moment
        try:
            log.create_topic(topic, 1)
            second = log.topic_id(topic)
        except LogError:
            second = first
        if second != first:
            break
        assert time.monotonic() < deadline
    assert uuid.UUID(first) != uuid.UUID(second)


@pytest.mark.kafka
@pytest.mark.parametrize("version", [BY_ID, BY_ID - 1])
def test_a_recreated_topic_is_never_read(
    kafka_url: str, monkeypatch: pytest.MonkeyPatch, version: int
) -> None:
    """Not even if it holds more entries than the position. Brokers before 3.1 do not support ids in a
    fetch."""
    monkeypatch.setattr(kafka_reader, "install_fetcher", partial(install_fetcher, most_version=version))
    log = KafkaLog(kafka_url)
    topic = f"test-{uuid.uuid4()}"
    log.create_topic(topic, 1)
    log.append(topic, records_of(b"one", b"two"))
    place = TopicPartition(topic, 0)
    reader, early = log.reader({place: 0}), log.reader({place: 0})
    assert isinstance(reader, KafkaReader)
    assert [entry.value for entry in reader.poll(9, 30.0)] == [b"one", b"two"]
    assert reader._fetcher.version == version
    recreate(log, topic)
    log.append(topic, records_of(*(b"other" for _ in range(9))))

    def read_on(reader: LogReader) -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            assert {entry.value for entry in reader.poll(9, 1.0)} <= {b"one", b"two"}

    for each in (reader, early, reader):
        with pytest.raises(OffsetRangeError, match=f"'{topic}' was deleted and created again while"):
            read_on(each)
    assert reader.positions() == {place: 2}
    reader.close()
    early.close()
    log.close()


@pytest.mark.kafka
def test_added_partitions_are_detected(kafka_url: str) -> None:
    log = KafkaLog(kafka_url)
    topic = f"test-{uuid.uuid4()}"
    log.create_topic(topic, 2)
    reader = log.reader({TopicPartition(topic, 0): 0, TopicPartition(topic, 1): 0})
    reader.poll(1, 0.0)
    assert reader.partition_counts() == {topic: 2}
    admin = kafka.KafkaAdminClient(bootstrap_servers=servers_of(kafka_url))
    admin.create_partitions({topic: 3})
    admin.close()
    deadline = time.monotonic() + 60
    while reader.partition_counts() == {topic: 2}:
        assert reader.poll(1, 0.5) == []
        assert time.monotonic() < deadline
    assert reader.partition_counts() == {topic: 3}
    reader.close()
    log.close()


@pytest.mark.kafka
def test_a_compacted_topic_is_recognised(kafka_url: str) -> None:
    log = KafkaLog(kafka_url)
    own, compacted = f"test-{uuid.uuid4()}", f"test-{uuid.uuid4()}"
    log.create_topic(own, 1)
    admin = kafka.KafkaAdminClient(bootstrap_servers=servers_of(kafka_url))
    configs = {"cleanup.policy": "compact,delete"}
    admin.create_topics({compacted: {"num_partitions": 1, "configs": configs}}, wait_for_metadata=True)
    admin.close()
    assert [log.is_compacted(topic) for topic in (own, compacted, "missing")] == [False, True, False]
    log.close()


@pytest.mark.kafka
def test_a_batch_above_the_decompression_limit_is_skipped_with_its_place(kafka_url: str) -> None:
    log = KafkaLog(kafka_url)
    topic = f"test-{uuid.uuid4()}"
    log.create_topic(topic, 1)
    log.append(topic, records_of(b"before"))
    producer = kafka.KafkaProducer(
        bootstrap_servers=servers_of(kafka_url), compression_type="zstd", linger_ms=5000, batch_size=2**28
    )
    for _ in range(30):
        producer.send(topic, bytes(1_000_000), partition=0)
    producer.flush()
    producer.close()
    log.append(topic, records_of(b"after"))
    reader = log.reader({TopicPartition(topic, 0): 0}, ReadLimits(batch=20_000_000))
    found: list[Entry] = []
    deadline = time.monotonic() + 60
    while reader.positions() != {TopicPartition(topic, 0): 32}:
        found += reader.poll(100, 1.0)
        assert time.monotonic() < deadline
    assert [(entry.offset, entry.value) for entry in found] == [(0, b"before"), (30, None), (31, b"after")]
    assert found[1].unread is not None
    assert "30 records at offsets 1 to 30, compressed by zstd to " in found[1].unread.reason
    reader.close()
    log.close()


@pytest.mark.kafka
def test_fetched_data_of_partitions_that_are_not_polled_is_dropped_and_fetched_again(
    kafka_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka_reader, "HELD_BYTES", 100_000)
    log = KafkaLog(kafka_url)
    topic = f"test-{uuid.uuid4()}"
    log.create_topic(topic, 3)
    for partition in (0, 1):
        log.append(topic, [Record(b"%d" % i, bytes(50_000), 1, partition) for i in range(40)])
    places = [TopicPartition(topic, partition) for partition in range(3)]
    reader = log.reader(dict.fromkeys(places, 0))
    assert isinstance(reader, KafkaReader)
    found: list[Entry] = []
    deadline = time.monotonic() + 60
    while len(found) < 80:
        only = [places[1], places[2]] if len(found) < 20 else None
        found += reader.poll(3, 0.5, only)
        log.append(topic, [Record(b"new", b"%d" % len(found), 1, 2)])
        found = [entry for entry in found if entry.partition < 2]
        held = {place: batches.held_bytes for place, batches in reader._fetched.items()}
        assert sum(held.values()) <= 100_000 + 3 * 1_100_000
        assert time.monotonic() < deadline
    for partition in (0, 1):
        assert [entry.offset for entry in found if entry.partition == partition] == list(range(40))
    reader.close()
    log.close()


@pytest.mark.kafka
def test_an_aborted_transaction_is_not_read_and_blocks_nothing(kafka_url: str) -> None:
    """As a stream engine writes: control records take up offsets, also at the end of the partition."""
    log = KafkaLog(kafka_url)
    topic = f"test-{uuid.uuid4()}"
    log.create_topic(topic, 1)
    producer = kafka.KafkaProducer(
        bootstrap_servers=servers_of(kafka_url), transactional_id=topic, enable_idempotence=True
    )
    producer.init_transactions()
    for value in (b"kept", b"taken back", b"kept too", b"taken back too"):
        producer.begin_transaction()
        producer.send(topic, value, partition=0)
        producer.flush()
        if value.startswith(b"kept"):
            producer.commit_transaction()
        else:
            producer.abort_transaction()
    producer.close()
    place = TopicPartition(topic, 0)
    reader = log.reader({place: 0})
    found: list[Entry] = []
    deadline = time.monotonic() + 60
    while reader.positions() != reader.end_offsets():
        found += reader.poll(1, 1.0)
        assert time.monotonic() < deadline
    assert [(entry.offset, entry.value) for entry in found] == [(0, b"kept"), (4, b"kept too")]
    assert reader.positions() == {place: 8}
    reader.close()
    log.close()


@pytest.mark.kafka
def test_entries_are_read_in_compiled_code(kafka_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With other internals of the client library, reading would silently be five times slower."""
    log = KafkaLog(kafka_url)
    topic = f"test-{uuid.uuid4()}"
    log.create_topic(topic, 1)
    log.append(topic, records_of(b"one", b"two"))
    monkeypatch.delattr(fetcher.Fetcher.PartitionRecords, "take")  # disables kafka-python's own parsing
    reader = log.reader({TopicPartition(topic, 0): 0})
    assert [entry.value for entry in reader.poll(9, 30.0)] == [b"one", b"two"]
    reader.close()
    log.close()


@pytest.mark.kafka
def test_records_damaged_on_the_brokers_disk_are_one_line(broker: Broker) -> None:
    log = KafkaLog(broker.url)
    log.create_topic("events", 1)
    for value in (b"whole", b"damaged"):
        log.append("events", records_of(value))
    segment = broker.data / "logs" / "events-0" / f"{0:020}.log"
    content = segment.read_bytes()
    with segment.open("r+b") as file:
        file.seek(content.index(b"damaged"))
        file.write(b"D")
    reader = log.reader({TopicPartition("events", 0): 0})
    assert [entry.value for entry in reader.poll(9, 30.0)] == [b"whole"]
    with pytest.raises(LogError) as raised:
        reader.poll(9, 30.0)
    assert str(raised.value) == (
        f"{broker.url}: events[0]: the record batch at offset 1 does not match its checksum; restart, and "
        "if the error recurs, restore the topic: the broker's copy is damaged"
    )
    assert reader.positions() == {TopicPartition("events", 0): 1}
    reader.close()
    log.close()


@pytest.mark.kafka
def test_records_of_any_event_time_stay(kafka_url: str) -> None:
    """With default topic settings Kafka would drop the first within minutes and reject the second."""
    log = KafkaLog(kafka_url)
    topic = f"test-{uuid.uuid4()}"
    log.create_topic(topic, 1)
    log.append(topic, [Record(b"old", b"", 0), Record(b"ahead", b"", 4_102_444_800_000)])
    assert log.end_offsets(topic) == {0: 2}
    log.close()


@pytest.mark.kafka
def test_acknowledged_records_are_in_the_brokers_files(broker: Broker) -> None:
    log = KafkaLog(broker.url)
    log.create_topic("impressions", 2)
    value = bytes(range(256)) * 3
    log.append("impressions", [Record(b"event-1", value, 0, 1)])
    segment = broker.data / "logs" / "impressions-1" / f"{0:020}.log"
    assert value in segment.read_bytes()
    assert "Created log for partition impressions-1" in (broker.data / "server.log").read_text()
    log.close()


@pytest.mark.kafka
@pytest.mark.slow
def test_a_broker_killed_mid_stream_loses_nothing_and_the_reader_repeats_nothing(broker: Broker) -> None:
    log = KafkaLog(broker.url, append_timeout_seconds=60)
    log.create_topic("events", 1)
    reader = log.reader({TopicPartition("events", 0): 0})
    appended, found = 0, list[Entry]()
    restarted = threading.Event()

    def append() -> None:
        nonlocal appended
        while appended < 200 or not restarted.is_set():
            log.append("events", records_of(*(b"%d" % i for i in range(appended, appended + 10))))
            appended += 10

    writer = threading.Thread(target=append)
    writer.start()
    while len(found) < 100:
        found += reader.poll(30, 1.0)
    broker.kill()
    deadline = time.monotonic() + 60
    while reader.healthy:
        found += reader.poll(30, 0.5)
        assert time.monotonic() < deadline
    assert reader.poll(30, 0.5) == []
    assert writer.is_alive()
    broker.start()
    restarted.set()
    writer.join(60)
    assert not writer.is_alive()
    deadline = time.monotonic() + 60
    while len(found) < log.end_offsets("events")[0]:
        found += reader.poll(30, 1.0)
        assert time.monotonic() < deadline
    assert [entry.offset for entry in found] == list(range(len(found)))
    # A batch whose acknowledgement was lost with the broker is appended again: at least once, in order.
    assert list(dict.fromkeys(entry.value for entry in found)) == [b"%d" % i for i in range(appended)]
    assert len(found) - appended in (0, 10)
    assert reader.healthy
    assert log.end_offsets("events") == {0: len(found)}
    reader.close()
    log.close()


def append_in_the_end(log: KafkaLog, value: bytes) -> None:
    """Append to a broker that has restarted and may still be recovering."""
    deadline = time.monotonic() + 60
    while True:
        try:
            return log.append("events", records_of(value))
        except LogError:
            assert time.monotonic() < deadline


@pytest.mark.kafka
@pytest.mark.slow
def test_appends_fail_in_time_and_work_again_after_a_stall_and_a_kill(broker: Broker) -> None:
    log = KafkaLog(broker.url, timeout_seconds=2, append_timeout_seconds=2)
    patient = KafkaLog(broker.url)
    patient.create_topic("events", 1)
    patient.close()
    append_in_the_end(log, b"before")
    broker.send(signal.SIGSTOP)
    with pytest.raises(
        LogError, match=r"did not acknowledge records for topic 'events': no broker answered in"
    ):
        log.append("events", records_of(b"stalled"))
    with pytest.raises(LogError, match=r"no answer in time|no broker answered in time"):
        log.append("events", records_of(b"still stalled"))
    broker.send(signal.SIGCONT)
    append_in_the_end(log, b"after stall")
    broker.kill()
    with pytest.raises(LogError):
        log.append("events", records_of(b"killed"))
    with pytest.raises(LogError, match="Kafka failed to describe topic 'events'"):
        log.end_offsets("events")
    broker.start()
    append_in_the_end(log, b"after kill")
    reader = log.reader({TopicPartition("events", 0): 0})
    values: list[bytes | None] = []
    while b"after kill" not in values:
        values += [entry.value for entry in reader.poll(10, 1.0)]
    # An append that failed may still have reached the broker before it was repeated.
    kept = [value for value in values if value and value[:5] in (b"befor", b"after")]
    assert list(dict.fromkeys(kept)) == [b"before", b"after stall", b"after kill"]
    reader.close()
    log.close()
