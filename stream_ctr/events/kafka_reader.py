"""Reading Kafka by explicit offsets.

Partitions are assigned and positions sought; no consumer group takes part, and nothing is committed. A
reader outlives a broker that goes away: it returns nothing until the broker is back.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Collection, Mapping

from stream_ctr.errors import LogError, OffsetRangeError
from stream_ctr.events import rules
from stream_ctr.events.kafka_client import errors, kafka, reason, servers_of
from stream_ctr.events.kafka_fetch import entry_of, read_compiled
from stream_ctr.events.log import Entry, EventLog, TopicPartition
from stream_ctr.events.security import Access

# A poll that may not wait fetches nothing, and the first fetch has to open a connection too.
_FIRST_POLL_SECONDS = 0.5
_SHORTEST_POLL_SECONDS = 0.01

# How often at most an idle reader asks the broker where its partitions end.
_HEALTH_SECONDS = 0.5

# How long an idle reader waits for the broker to say where its partitions end.
_HEALTH_TIMEOUT_MS = 500

_RETRY_PAUSE_SECONDS = 0.1


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
        access: Access,
        request_timeout_seconds: float,
    ) -> None:
        self.healthy = True
        self._least_wait_seconds = _FIRST_POLL_SECONDS
        self._health_due = 0.0
        self._log = log
        self._positions = dict(offsets)
        self._ends = dict(ends)
        self._turn = list(offsets)
        self._fetched: dict[TopicPartition, deque[Entry]] = {place: deque() for place in offsets}
        self._places = {place: kafka.TopicPartition(*place) for place in offsets}
        self._paused: set[kafka.TopicPartition] = set()
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
                metrics_enabled=False,
                **access.options(),
            )
        except errors.KafkaError as error:
            raise LogError(f"{log.url}: Kafka cannot be read: {reason(error)}") from error
        read_compiled(self._consumer)
        self._consumer.assign(list(self._places.values()))
        for place, offset in offsets.items():
            self._consumer.seek(self._places[place], offset)

    def poll(
        self,
        max_entries: int,
        timeout_seconds: float,
        only: Collection[TopicPartition] | None = None,
    ) -> list[Entry]:
        """The next entries; the first poll waits for at least half a second when there are none."""
        wanted = [place for place in self._turn if only is None or place in only]
        deadline = time.monotonic() + max(timeout_seconds, self._least_wait_seconds)
        while not any(self._fetched[place] for place in wanted):
            left = deadline - time.monotonic()
            if left <= 0:
                self._pass_marks()
                if time.monotonic() >= self._health_due:
                    self._check_health()
                return []
            self._fetch(left)
        # Another partition comes first next time, or a long one would keep the others waiting.
        self._turn = self._turn[1:] + self._turn[:1]
        entries: list[Entry] = []
        for place in wanted:
            fetched = self._fetched[place]
            count = min(len(fetched), max_entries - len(entries))
            entries += [fetched.popleft() for _ in range(count)]
            if count:
                self._positions[place] = entries[-1].offset + 1
        self._pass_marks()
        return entries

    def _pass_marks(self) -> None:
        """Move past what holds a place in the log and is no record: marks of transactions, and their ends.

        Without this a partition that ends with one would never be read to its end.
        """
        for place, name in self._places.items():
            if not self._fetched[place]:
                self._positions[place] = max(self._positions[place], self._consumer.position(name) or 0)

    def _fetch(self, timeout_seconds: float) -> None:
        """Take in what Kafka has for the partitions of which nothing waits.

        Every fetch is taken in whole and waits here: what the client holds back of a partition that is
        paused halfway through a fetch, kafka-python 3.0 may never give out again.
        """
        paused = {self._places[place] for place, fetched in self._fetched.items() if fetched}
        self._consumer.resume(*(self._paused - paused))
        self._consumer.pause(*(paused - self._paused))
        self._paused = paused
        try:
            found = self._consumer.poll(timeout_ms=1000 * timeout_seconds, max_records=sys.maxsize)
        except (errors.OffsetOutOfRangeError, errors.LogTruncationError) as error:
            raise self._out_of_range(error) from error
        except errors.UnsupportedCodecError as error:
            raise LogError(f"{self._log.url}: {error.args[0]}") from error
        except errors.CorruptRecordError as error:
            raise LogError(
                f"{self._log.url}: {error.args[0]}; start again, and if that does not help, restore the "
                "topic: what the broker holds is damaged"
            ) from error
        except errors.KafkaError as error:
            if not error.retriable:
                raise LogError(f"{self._log.url}: Kafka cannot be read: {reason(error)}") from error
            time.sleep(min(_RETRY_PAUSE_SECONDS, timeout_seconds))
            return
        if found:
            self._answered()
        for name, records in found.items():
            self._fetched[TopicPartition(*name)].extend(map(entry_of, records))

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
                rules.check_offset(self._log.url, place, position, first, last)
        except OffsetRangeError as named:
            return named
        return OffsetRangeError(f"{self._log.url}: Kafka no longer holds what comes next: {reason(error)}")

    def positions(self) -> dict[TopicPartition, int]:
        """The offset of the next entry of each partition."""
        return dict(self._positions)

    def end_offsets(self) -> dict[TopicPartition, int]:
        """Ends as of the last fetch or, when idle, of the last answer."""
        for place, name in self._places.items():
            self._ends[place] = max(self._ends[place], self._consumer.highwater(name) or 0)
        return dict(self._ends)

    def close(self) -> None:
        """Close the reader's own connection."""
        self._consumer.close()
