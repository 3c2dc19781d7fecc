"""Reading Kafka by explicit offsets.

Partitions are assigned and positions sought; no consumer group takes part, and nothing is committed. A
reader outlives a broker that goes away: it returns nothing until the broker is back. It does not outlive its
topic: entries of a topic that was deleted and created again are never returned.
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
from stream_ctr.events.kafka.fetcher import BY_ID, Batches, take_over
from stream_ctr.events.kafka.security import Access
from stream_ctr.events.limits import ReadLimits
from stream_ctr.events.log import Entry, EventLog, TopicPartition

# A poll that may not wait fetches nothing, and the first fetch has to open a connection too.
_FIRST_POLL_SECONDS = 0.5
_SHORTEST_POLL_SECONDS = 0.01

# How often at most an idle reader asks the broker where its partitions end.
_HEALTH_SECONDS = 0.5

# How long an idle reader waits for the broker to say where its partitions end.
_HEALTH_TIMEOUT_MS = 500

_RETRY_PAUSE_SECONDS = 0.1

METADATA_SECONDS: Final = 5.0
"""Longest time until a topic that was recreated, or has more partitions, is noticed."""
HELD_BYTES: Final = 64 * 1024 * 1024
"""Fetched and not taken, of all partitions; beyond it, what nobody asks for is let go and fetched again."""
_FETCH_BYTES: Final = 32 * 1024 * 1024
_PARTITION_BYTES: Final = (64 * 1024, 1024 * 1024)
"""Least and most that are fetched of one partition at once. One batch always comes, whatever its size."""


class KafkaReader:
    """A :class:`~stream_ctr.events.log.LogReader` on Kafka; one thread at a time.

    ``healthy`` turns false when the broker stops answering and true when it is back; meanwhile
    ``poll`` returns nothing and the client reconnects with a growing pause of up to a second.
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
        """``topics`` are the ids and partition counts of those that are read."""
        self.healthy = True
        self._least_wait_seconds = _FIRST_POLL_SECONDS
        self._health_due = 0.0
        self._log = log
        self._limits = limits
        self._positions = dict(offsets)
        self._ends = dict(ends)
        self._topics = dict(topics)
        self._turn = list(offsets)
        self._fetched: dict[TopicPartition, Batches] = {}
        self._taken_bytes: dict[TopicPartition, int] = {}
        self._places = {place: kafka.TopicPartition(*place) for place in offsets}
        self._paused: set[kafka.TopicPartition] = set()
        self._ended: OffsetRangeError | None = None
        least, most = _PARTITION_BYTES
        try:
            self._consumer = kafka.KafkaConsumer(
                bootstrap_servers=servers_of(log.url),
                group_id=None,
                enable_auto_commit=False,
                auto_offset_reset="none",
                # What a transactional writer took back never happened; of all others nothing is held back.
                isolation_level="read_committed",
                allow_auto_create_topics=False,
                # A broker that is stalled answers nothing and closes nothing: only this ends the wait.
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
        self._fetcher = take_over(self._consumer, ids, limits)
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
        """The next entries; the first poll waits for at least half a second when there are none."""
        if self._ended is not None:
            raise self._ended
        wanted = [place for place in self._turn if only is None or place in only]
        # Another partition comes first next time, or a long one would keep the others waiting.
        self._turn = self._turn[1:] + self._turn[:1]
        most_bytes = min(self._limits.poll, self._limits.poll if max_bytes is None else max_bytes)
        deadline = time.monotonic() + max(timeout_seconds, self._least_wait_seconds)
        while not (entries := self._take(wanted, max_entries, most_bytes)):
            left = deadline - time.monotonic()
            if left <= 0:
                if time.monotonic() >= self._health_due:
                    self._check_health()
                break
            self._fetch(left, wanted)
        self._pass_marks()
        return entries

    def _take(self, wanted: list[TopicPartition], max_entries: int, max_bytes: int) -> list[Entry]:
        """Entries out of what is fetched, which is asked for no more than is handed out."""
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
        """Raise why a fetch cannot be read on; the next poll fetches it again."""
        self._let_go(place)
        what = f"{self._log.url}: {failure.args[0] if failure is not None and failure.args else failure}"
        if isinstance(failure, errors.UnsupportedCodecError):
            raise LogError(what) from failure
        raise LogError(
            f"{what}; start again, and if that does not help, restore the topic: what the broker holds is "
            "damaged"
        ) from failure

    def _let_go(self, place: TopicPartition) -> None:
        """Forget what was fetched of a partition; it is fetched again from where it was taken up to."""
        del self._fetched[place]
        self._consumer.seek(self._places[place], self._positions[place])

    def _pass_marks(self) -> None:
        """Move past what holds a place in the log and is no record: marks of transactions, and their ends.

        Without this a partition that ends with one would never be read to its end.
        """
        for place, name in self._places.items():
            if place not in self._fetched:
                self._positions[place] = max(self._positions[place], self._consumer.position(name) or 0)

    def _fetch(self, timeout_seconds: float, wanted: list[TopicPartition]) -> None:
        """Take in what Kafka has for the partitions of which nothing waits.

        Every fetch is taken in whole and waits here: what the client holds back of a partition that is
        paused halfway through a fetch, kafka-python 3.0 may never give out again.
        """
        held = {place: batches.held_bytes for place, batches in self._fetched.items()}
        crowded = sum(held.values()) > HELD_BYTES
        if crowded:
            for place in held.keys() - set(wanted):
                self._let_go(place)
        paused = {
            name
            for place, name in self._places.items()
            if place in self._fetched or (crowded and place not in wanted)
        }
        self._consumer.resume(*(self._paused - paused))
        self._consumer.pause(*(paused - self._paused))
        self._paused = paused
        try:
            found = self._consumer.poll(timeout_ms=1000 * timeout_seconds, max_records=sys.maxsize)
        except (errors.OffsetOutOfRangeError, errors.LogTruncationError) as error:
            self._check_topics(asked=True)
            raise self._out_of_range(error) from error
        except errors.KafkaError as error:
            if not error.retriable:
                raise LogError(f"{self._log.url}: Kafka cannot be read: {reason(error)}") from error
            time.sleep(min(_RETRY_PAUSE_SECONDS, timeout_seconds))
            return
        # A broker before 3.1 knows no ids in a fetch: what it gave may be of another topic.
        self._check_topics(asked=bool(found) and self._fetcher.version < BY_ID)
        if found:
            self._answered()
        for name, (batches, *more) in found.items():
            self._fetched[TopicPartition(*name)] = batches
            if more:
                self._consumer.seek(name, batches.next_offset)

    def _check_topics(self, *, asked: bool) -> None:
        """Compare ids of topics with those at the start, by what the client last heard or, ``asked``, by
        a question to the broker.

        Raises:
            OffsetRangeError: a topic was deleted and created again, or the cluster is another one.
            LogError: the broker does not answer the question.
        """
        for topic, (topic_id, _) in self._topics.items():
            heard = self._log.topic_id(topic) if asked else self._consumer._cluster.topic_id(topic)
            if heard is not None and str(heard) != topic_id:
                self._ended = validation.recreated(
                    *(self._log.url, topic, topic_id, str(heard)),
                    *(self._log.log_id(), self._consumer._cluster.cluster_id),
                )
                raise self._ended

    def _check_health(self) -> None:
        """Ask where the partitions end: an idle log answers, a broker that is away does not."""
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
        """Name the lost range; when the log cannot be asked for it, say what Kafka said."""
        try:
            for place, position in self._positions.items():
                first = self._log.start_offsets(place.topic)[place.partition]
                last = self._log.end_offsets(place.topic)[place.partition]
                validation.check_offset(self._log.url, place, position, first, last)
        except OffsetRangeError as named:
            return named
        return OffsetRangeError(f"{self._log.url}: Kafka no longer holds what comes next: {reason(error)}")

    def positions(self) -> dict[TopicPartition, int]:
        """The offset of the next entry of each partition."""
        return dict(self._positions)

    def taken_bytes(self) -> dict[TopicPartition, int]:
        """What the entries of the last poll take in memory, by partition."""
        return self._taken_bytes

    def topic_ids(self) -> dict[str, str]:
        """Id of each topic, as it was when the reader was opened; no other topic is read."""
        return {topic: topic_id for topic, (topic_id, _) in self._topics.items()}

    def partition_counts(self) -> dict[str, int]:
        """How many partitions each topic has, as last heard."""
        cluster = self._consumer._cluster
        return {
            topic: len(cluster.partitions_for_topic(topic) or ()) or count
            for topic, (_, count) in self._topics.items()
        }

    def end_offsets(self) -> dict[TopicPartition, int]:
        """Ends as of the last fetch or, when idle, of the last answer."""
        for place, name in self._places.items():
            self._ends[place] = max(self._ends[place], self._consumer.highwater(name) or 0)
        return dict(self._ends)

    def close(self) -> None:
        """Close the reader's own connection."""
        self._consumer.close()
