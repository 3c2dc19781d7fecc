"""The event log on Apache Kafka."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from stream_ctr.config.log import SecurityConfig
from stream_ctr.errors import LogError, LogUnavailableError
from stream_ctr.events import validation
from stream_ctr.events.kafka.client import OffsetSpec, abandon, errors, kafka, reason, servers_of
from stream_ctr.events.kafka.handshake import check_reachable
from stream_ctr.events.kafka.security import Access
from stream_ctr.events.limits import DEFAULT_LIMITS, ReadLimits
from stream_ctr.events.log import LogReader, Record, TopicPartition

_REQUEST_TIMEOUT_SECONDS = 5.0
_RETRY_PAUSE_SECONDS = 0.1

# Events are kept until they are trimmed, whatever their event time: by default Kafka would drop events
# older than a week at once, and reject events an hour ahead of its clock.
_TOPIC_CONFIG = {
    "cleanup.policy": "delete",
    "retention.ms": "-1",
    "retention.bytes": "-1",
    "message.timestamp.type": "CreateTime",
    "message.timestamp.after.max.ms": str(2**63 - 1),
    "max.message.bytes": str(validation.MAX_RECORD_BYTES + 64 * 1024),
}

_Answer = TypeVar("_Answer")


class KafkaLog:
    """An :class:`~stream_ctr.events.log.EventLog` on a Kafka cluster of version 2.8 or newer.

    The threads of a process may share it. While the broker is unavailable, requests are retried for
    ``timeout_seconds`` and appends for ``append_timeout_seconds``; then they raise a LogError.

    Raises:
        LogError: no broker can be reached, or it rejects the login.
        UsageError: the URL is malformed.
        ConfigError: the security settings are invalid.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout_seconds: float = 10.0,
        append_timeout_seconds: float = 30.0,
        security: SecurityConfig | None = None,
    ) -> None:
        self.url = url
        servers_of(url)
        self.access = Access(security or SecurityConfig())
        self._timeout_seconds = timeout_seconds
        self._append_timeout_seconds = append_timeout_seconds
        self._producer: kafka.KafkaProducer | None = None
        self._producer_lock = threading.Lock()
        self._partition_counts: dict[str, int] = {}
        check_reachable(url, timeout_seconds, self.access)
        try:
            self._admin = kafka.KafkaAdminClient(
                bootstrap_servers=servers_of(url),
                bootstrap_timeout_ms=int(1000 * timeout_seconds),
                request_timeout_ms=int(1000 * min(timeout_seconds, _REQUEST_TIMEOUT_SECONDS)),
                reconnect_backoff_max_ms=1000,
                **self.access.options(),
            )
        except errors.KafkaError as error:
            raise LogUnavailableError(
                f"{url}: the server is not a Kafka broker, or it is not ready: {error}"
            ) from error
        try:
            cluster = self._ask("return the cluster's id", self._admin.describe_cluster)
        except LogError:
            self._admin.close()
            raise
        self._log_id = str(cluster["cluster_id"])

    def _ask(self, action: str, request: Callable[[], _Answer]) -> _Answer:
        """Retry a request to the broker until it is answered or times out; errors name the action."""
        deadline = time.monotonic() + self._timeout_seconds
        while True:
            try:
                return request()
            except (errors.KafkaError, RuntimeError) as error:  # RuntimeError while a controller is elected
                if not getattr(error, "retriable", True) or time.monotonic() >= deadline:
                    raise LogError(f"{self.url}: Kafka failed to {action}: {reason(error)}") from error
            time.sleep(_RETRY_PAUSE_SECONDS)

    def log_id(self) -> str:
        """Kafka's cluster id."""
        return self._log_id

    def create_topic(self, topic: str, partitions: int) -> None:
        """Create the topic with the cluster's default replication and without retention limits. Do nothing
        if it exists with that many partitions, whatever its other settings.
        """
        there = self.ensure_topic(topic, partitions)
        if there != partitions:
            raise validation.other_partitions(self.url, topic, there, partitions)

    def ensure_topic(self, topic: str, partitions: int) -> int:
        """Create the topic unless it exists; returns its number of partitions."""
        validation.check_topic(self.url, topic, partitions)

        def create() -> None:
            try:
                self._admin.create_topics(
                    {topic: {"num_partitions": partitions, "configs": _TOPIC_CONFIG}},
                    wait_for_metadata=True,
                )
            except errors.TopicAlreadyExistsError:
                self._admin.wait_for_topics([topic])

        self._ask(f"create topic {topic!r}", create)
        return self.partitions(topic)

    def is_compacted(self, topic: str) -> bool:
        """Whether the topic's cleanup.policy has ``compact``. False if this client may not read it."""
        name = "cleanup.policy"
        resource = kafka.admin.ConfigResource("topic", topic, [name])
        try:
            found = self._ask(
                f"return the settings of topic {topic!r}",
                lambda: self._admin.describe_configs([resource], config_filter="all"),
            )
        except LogError:
            return False
        return "compact" in str(found.get("topic", {}).get(topic, {}).get(name, {}).get("value", ""))

    def _describe(self, topic: str) -> kafka.TopicDescription:
        found = self._ask(f"describe topic {topic!r}", lambda: self._admin.describe_topics([topic]))[0]
        code = found["error_code"]
        if code == errors.UnknownTopicOrPartitionError.errno:
            raise validation.no_such_topic(self.url, topic)
        if code:
            raise LogError(
                f"{self.url}: Kafka failed to describe topic {topic!r}: {errors.for_code(code).__name__}"
            )
        return found

    def topic_id(self, topic: str) -> str:
        """The topic's id, which Kafka assigns at its creation (KIP-516)."""
        return str(self._describe(topic)["topic_id"])

    def partitions(self, topic: str) -> int:
        """Number of partitions of the topic."""
        return len(self._describe(topic)["partitions"])

    def start_offsets(self, topic: str) -> dict[int, int]:
        """First offset still held, by partition."""
        return self._offsets(topic, OffsetSpec.EARLIEST)

    def end_offsets(self, topic: str) -> dict[int, int]:
        """One past the last offset, by partition."""
        return self._offsets(topic, OffsetSpec.LATEST)

    def _offsets(self, topic: str, spec: OffsetSpec) -> dict[int, int]:
        wanted = {kafka.TopicPartition(topic, partition): spec for partition in range(self.partitions(topic))}
        found = self._ask(
            f"return the offsets of topic {topic!r}",
            lambda: self._admin.list_partition_offsets(wanted, timeout_ms=1000 * self._timeout_seconds),
        )
        return {place.partition: found[place].offset for place in wanted}

    def append(self, topic: str, records: Sequence[Record]) -> None:
        """Append in order; all in-sync replicas have acknowledged when it returns.

        Retries go through one idempotent producer, so that a broker that recovers in time stores each
        record once.
        """
        if topic not in self._partition_counts:
            self._partition_counts[topic] = self.partitions(topic)
        places = validation.place_records(self.url, topic, records, self._partition_counts[topic])
        producer = self._open_producer()
        try:
            futures = [
                producer.send(
                    topic,
                    record.value,
                    record.key,
                    headers=list(record.headers),
                    partition=place,
                    timestamp_ms=record.timestamp_ms,
                )
                for place, record in zip(places, records, strict=True)
            ]
            producer.flush(self._append_timeout_seconds + 1.0)
        except (errors.KafkaError, ValueError) as error:
            raise self._not_acknowledged(topic, producer, error) from error
        for future in futures:
            if not future.succeeded():
                raise self._not_acknowledged(topic, producer, future.exception)

    def _open_producer(self) -> kafka.KafkaProducer:
        with self._producer_lock:
            if self._producer is None:
                check_reachable(self.url, self._timeout_seconds, self.access)
                timeout_ms = int(1000 * self._append_timeout_seconds)
                # A batch is sent when it is full or flushed, not when its first record arrives.
                linger_ms = min(100, timeout_ms // 10)
                try:
                    self._producer = kafka.KafkaProducer(
                        bootstrap_servers=servers_of(self.url),
                        bootstrap_timeout_ms=int(1000 * self._timeout_seconds),
                        acks="all",
                        enable_idempotence=True,
                        delivery_timeout_ms=timeout_ms,
                        request_timeout_ms=min(10_000, timeout_ms - linger_ms),
                        max_block_ms=timeout_ms,
                        linger_ms=linger_ms,
                        batch_size=512 * 1024,
                        max_request_size=validation.MAX_RECORD_BYTES + 64 * 1024,
                        reconnect_backoff_max_ms=1000,
                        allow_auto_create_topics=False,
                        metrics_enabled=False,
                        **self.access.options(),
                    )
                except errors.KafkaError as error:
                    raise LogError(f"{self.url}: Kafka does not accept records: {reason(error)}") from error
            return self._producer

    def _not_acknowledged(
        self, topic: str, producer: kafka.KafkaProducer, error: BaseException | None
    ) -> LogError:
        """Abandon the producer and return the error to raise.

        A producer whose batch timed out while a broker was stalled never sends again (kafka-python 3.0), and
        a producer that still held records could deliver them after later ones.
        """
        with self._producer_lock:
            if self._producer is producer:
                self._producer = None
            self._partition_counts.pop(topic, None)
        abandon(producer)
        return LogError(
            f"{self.url}: Kafka did not acknowledge records for topic {topic!r}: {reason(error)}; "
            "some of them may be in the log"
        )

    def reader(self, offsets: Mapping[TopicPartition, int], limits: ReadLimits = DEFAULT_LIMITS) -> LogReader:
        """A reader at these offsets, with a connection of its own."""
        # Imported here: it loads compiled code, which a process that only writes does not need.
        from stream_ctr.events.kafka.reader import KafkaReader

        ends = {}
        topics: dict[str, tuple[str, int]] = {}
        for topic in {place.topic for place in offsets}:
            # Read the id before the offsets: the reader then detects a topic that is recreated in between.
            described = self._describe(topic)
            topics[topic] = str(described["topic_id"]), len(described["partitions"])
            first, last = self.start_offsets(topic), self.end_offsets(topic)
            for place, offset in offsets.items():
                if place.topic == topic:
                    if place.partition not in first:
                        raise validation.no_such_partition(self.url, place, len(first))
                    validation.check_offset(
                        self.url, place, offset, first[place.partition], last[place.partition]
                    )
                    ends[place] = last[place.partition]
        check_reachable(self.url, self._timeout_seconds, self.access)
        return KafkaReader(self, offsets, ends, topics, self.access, self._timeout_seconds, limits)

    def trim(self, topic: str, partition: int, before_offset: int) -> None:
        """Make Kafka delete the records before an offset; does nothing if they were deleted already.

        Raises:
            OffsetRangeError: the offset is beyond the end.
        """
        ends = self.end_offsets(topic)
        place = TopicPartition(topic, partition)
        if partition not in ends:
            raise validation.no_such_partition(self.url, place, len(ends))
        if before_offset > ends[partition]:
            raise validation.beyond_end(self.url, place, before_offset, ends[partition])
        if before_offset > 0:  # -1 would mean the end
            self._ask(
                f"delete the records of topic {topic!r} before offset {before_offset}",
                lambda: self._admin.delete_records({kafka.TopicPartition(*place): before_offset}),
            )

    def close(self) -> None:
        """Close the connections; readers stay open until they are closed."""
        with self._producer_lock:
            if self._producer is not None:
                abandon(self._producer)
                self._producer = None
        self._admin.close()
