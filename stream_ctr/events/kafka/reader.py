"""Reading Kafka by explicit offsets.

The reader assigns partitions and seeks positions; it uses no consumer group and commits nothing. It survives
an unavailable broker and returns nothing until the broker is back. It does not survive the loss of its topic:
entries of a topic that was deleted and created again are never returned.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Collection, Mapping
from typing import Final, NoReturn
from uuid import UUID

from stream_ctr.errors import LogError, OffsetRangeError
from stream_ctr.events import validation
from stream_ctr.events.kafka.client import errors, kafka, reason, servers_of
from stream_ctr.events.kafka.fetcher import BY_ID, Batches, install_fetcher
from stream_ctr.events.kafka.security import Access
from stream_ctr.events.limits import ReadLimits
from stream_ctr.events.log import Entry, EventLog, TopicPartition

# A poll without waiting time fetches nothing, and the first fetch also has to open a connection.
_FIRST_POLL_SECONDS = 0.5
_SHORTEST_POLL_SECONDS = 0.01

# Shortest interval between an idle reader's requests for the end offsets.
_HEALTH_SECONDS = 0.5

# How long an idle reader waits for the end offsets.
_HEALTH_TIMEOUT_MS = 500

_RETRY_PAUSE_SECONDS = 0.1

METADATA_SECONDS: Final = 5.0
"""Longest time until the reader detects that a topic was recreated or gained partitions."""
HELD_BYTES: Final = 64 * 1024 * 1024
"""Fetched bytes of all partitions that were not taken. Above this limit, the data of partitions that the
current poll does not read is dropped and fetched again later."""
_FETCH_BYTES: Final = 32 * 1024 * 1024
_PARTITION_BYTES: Final = (64 * 1024, 1024 * 1024)
"""Smallest and largest fetch of one partition. One batch is always returned, whatever its size."""


class KafkaReader:
    """A :class:`~stream_ctr.events.log.LogReader` on Kafka; one thread at a time.

    ``healthy`` turns false when the broker stops answering and true when it is back. In between, ``poll``
    returns nothing and the client reconnects with a growing pause of up to a second.
    """

    def __init__(
        self,
        log: EventLog,
        offsets: Mapping[TopicPartition, int],
        ends: Mapping[TopicPartition, int],
        topics: Mapping[str, tuple[str, int]],
        access: Access,
        request_timeout_seconds: float,
        limits: ReadLimits,
    ) -> None:
        """``topics`` holds the ids and partition counts of the topics that are read."""
        self.healthy = True
        self._least_wait_seconds = _FIRST_POLL_SECONDS
        self._health_due = 0.0
        self._log = log
        self._limits = limits
        self._positions = dict(offsets)
        self._ends = dict(ends)
        self._topics = dict(topics)
        self._rotation = list(offsets)
        self._fetched: dict[TopicPartition, Batches] = {}
        self._taken_bytes: dict[TopicPartition, int] = {}
        self._places = {place: kafka.TopicPartition(*place) for place in offsets}
        self._paused: set[kafka.TopicPartition] = set()
        self._topic_error: OffsetRangeError | None = None
        least, most = _PARTITION_BYTES
        try:
            self._consumer = kafka.KafkaConsumer(
                bootstrap_servers=servers_of(log.url),
                group_id=None,
                enable_auto_commit=False,
                auto_offset_reset="none",
                # Skips the records of aborted transactions.
                isolation_level="read_committed",
                allow_auto_create_topics=False,
                # A stalled broker neither answers nor closes connections: only this timeout ends the wait.
                request_timeout_ms=int(1000 * max(request_timeout_seconds, 1.0)),
                reconnect_backoff_max_ms=1000,
                metadata_max_age_ms=int(1000 * METADATA_SECONDS),
                fetch_max_bytes=_FETCH_BYTES,
                max_partition_fetch_bytes=min(most, max(least, _FETCH_BYTES // max(len(offsets), 1))),
                metrics_enabled=False,
                **access.options(),
            )
        except errors.KafkaError as error:
            raise LogError(f"{log.url}: Kafka cannot be read: {reason(error)}") from error
        ids = {topic: UUID(topic_id) for topic, (topic_id, _) in topics.items()}
        self._fetcher = install_fetcher(self._consumer, ids, limits)
        self._consumer.assign(list(self._places.values()))
        for place, offset in offsets.items():
            self._consumer.seek(self._places[place], offset)

    def poll(
        self,
        max_entries: int,
        timeout_seconds: float,
        only: Collection[TopicPartition] | None = None,
        max_bytes: int | None = None,
    ) -> list[Entry]:
        """The next entries; the first poll waits at least half a second if there are none."""
        if self._topic_error is not None:
            raise self._topic_error
        wanted = [place for place in self._rotation if only is None or place in only]
        # Rotate the partitions, so that one with many entries does not starve the others.
        self._rotation = self._rotation[1:] + self._rotation[:1]
        most_bytes = min(self._limits.poll, self._limits.poll if max_bytes is None else max_bytes)
        deadline = time.monotonic() + max(timeout_seconds, self._least_wait_seconds)
        while not (entries := self._take(wanted, max_entries, most_bytes)):
            left = deadline - time.monotonic()
            if left <= 0:
                if time.monotonic() >= self._health_due:
                    self._check_health()
                break
            self._fetch(left, wanted)
        self._skip_control_records()
        return entries

    def _take(self, wanted: list[TopicPartition], max_entries: int, max_bytes: int) -> list[Entry]:
        """Entries from the fetched data; only the entries that are returned are created."""
        entries: list[Entry] = []
        self._taken_bytes = {}
        left_bytes = max_bytes
        for place in wanted:
            batches = self._fetched.get(place)
            while batches is not None and len(entries) < max_entries and left_bytes > 0:
                taken, size_bytes = batches.take(max_entries - len(entries), left_bytes)
                entries += taken
                left_bytes -= size_bytes
                if taken:
                    self._positions[place] = taken[-1].offset + 1
                    self._taken_bytes[place] = self._taken_bytes.get(place, 0) + size_bytes
                if batches.done:
                    self._positions[place] = max(self._positions[place], batches.next_offset)
                    del self._fetched[place]
                    break
                if not taken:
                    if not entries:
                        self._fail(place, batches.failure)
                    return entries
        return entries

    def _fail(self, place: TopicPartition, failure: errors.KafkaError | None) -> NoReturn:
        """Raise the error that ends the reading of a fetch; the next poll fetches it again."""
        self._drop_fetched(place)
        what = f"{self._log.url}: {failure.args[0] if failure is not None and failure.args else failure}"
        if isinstance(failure, errors.UnsupportedCodecError):
            raise LogError(what) from failure
        raise LogError(
            f"{what}; restart, and if the error recurs, restore the topic: the broker's copy is damaged"
        ) from failure

    def _drop_fetched(self, place: TopicPartition) -> None:
        """Drop the fetched data of a partition; it is fetched again from the current position."""
        del self._fetched[place]
        self._consumer.seek(self._places[place], self._positions[place])

    def _skip_control_records(self) -> None:
        """Move past offsets without a record: control records of transactions.

        Otherwise a partition that ends with one would never be read to its end.
        """
        for place, name in self._places.items():
            if place not in self._fetched:
                self._positions[place] = max(self._positions[place], self._consumer.position(name) or 0)

    def _fetch(self, timeout_seconds: float, wanted: list[TopicPartition]) -> None:
        """Fetch the partitions that have no fetched data waiting.

        Every fetch is taken from the client as a whole and waits here: if a partition is paused halfway
        through a fetch, kafka-python 3.0 may never return the rest.
        """
        held = {place: batches.held_bytes for place, batches in self._fetched.items()}
        over_limit = sum(held.values()) > HELD_BYTES
        if over_limit:
            for place in held.keys() - set(wanted):
                self._drop_fetched(place)
        paused = {
            name
            for place, name in self._places.items()
            if place in self._fetched or (over_limit and place not in wanted)
        }
        self._consumer.resume(*(self._paused - paused))
        self._consumer.pause(*(paused - self._paused))
        self._paused = paused
        try:
            found = self._consumer.poll(timeout_ms=1000 * timeout_seconds, max_records=sys.maxsize)
        except (errors.OffsetOutOfRangeError, errors.LogTruncationError) as error:
            self._check_topics(ask_broker=True)
            raise self._out_of_range(error) from error
        except errors.KafkaError as error:
            if not error.retriable:
                raise LogError(f"{self._log.url}: Kafka cannot be read: {reason(error)}") from error
            time.sleep(min(_RETRY_PAUSE_SECONDS, timeout_seconds))
            return
        # Brokers before 3.1 do not support ids in a fetch: the data may belong to another topic.
        self._check_topics(ask_broker=bool(found) and self._fetcher.version < BY_ID)
        if found:
            self._answered()
        for name, (batches, *more) in found.items():
            self._fetched[TopicPartition(*name)] = batches
            if more:
                self._consumer.seek(name, batches.next_offset)

    def _check_topics(self, *, ask_broker: bool) -> None:
        """Compare the topic ids with those at the start: the client's cached ids, or with ``ask_broker`` the
        broker's answer to a new request.

        Raises:
            OffsetRangeError: a topic was deleted and created again, or the cluster is another one.
            LogError: the broker does not answer.
        """
        for topic, (topic_id, _) in self._topics.items():
            current = self._log.topic_id(topic) if ask_broker else self._consumer._cluster.topic_id(topic)
            if current is not None and str(current) != topic_id:
                self._topic_error = validation.recreated(
                    *(self._log.url, topic, topic_id, str(current)),
                    *(self._log.log_id(), self._consumer._cluster.cluster_id),
                )
                raise self._topic_error

    def _check_health(self) -> None:
        """Request the end offsets: an idle log answers, an unavailable broker does not."""
        self._health_due = time.monotonic() + _HEALTH_SECONDS
        try:
            ends = self._consumer.end_offsets(list(self._places.values()), timeout_ms=_HEALTH_TIMEOUT_MS)
        except errors.KafkaError:
            self.healthy = False
            self._least_wait_seconds = _FIRST_POLL_SECONDS
            return
        self._answered()
        self._ends = {TopicPartition(*place): end for place, end in ends.items()}

    def _answered(self) -> None:
        self.healthy = True
        self._least_wait_seconds = _SHORTEST_POLL_SECONDS
        self._health_due = time.monotonic() + _HEALTH_SECONDS

    def _out_of_range(self, error: errors.KafkaError) -> OffsetRangeError:
        """The error with the lost range; if the log does not answer, the error with Kafka's own message."""
        try:
            for place, position in self._positions.items():
                first = self._log.start_offsets(place.topic)[place.partition]
                last = self._log.end_offsets(place.topic)[place.partition]
                validation.check_offset(self._log.url, place, position, first, last)
        except OffsetRangeError as named:
            return named
        return OffsetRangeError(f"{self._log.url}: Kafka no longer holds the next entries: {reason(error)}")

    def positions(self) -> dict[TopicPartition, int]:
        """The offset of the next entry of each partition."""
        return dict(self._positions)

    def taken_bytes(self) -> dict[TopicPartition, int]:
        """Memory of the last poll's entries in bytes, by partition."""
        return self._taken_bytes

    def topic_ids(self) -> dict[str, str]:
        """Id of each topic, as of when the reader was opened; no other topic is read."""
        return {topic: topic_id for topic, (topic_id, _) in self._topics.items()}

    def partition_counts(self) -> dict[str, int]:
        """Number of partitions of each topic, as of the last metadata answer."""
        cluster = self._consumer._cluster
        return {
            topic: len(cluster.partitions_for_topic(topic) or ()) or count
            for topic, (_, count) in self._topics.items()
        }

    def end_offsets(self) -> dict[TopicPartition, int]:
        """End offsets as of the last fetch or, when idle, the last request for them."""
        for place, name in self._places.items():
            self._ends[place] = max(self._ends[place], self._consumer.highwater(name) or 0)
        return dict(self._ends)

    def close(self) -> None:
        """Close the reader's own connection."""
        self._consumer.close()
