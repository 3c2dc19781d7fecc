"""Intake: reads entries from the log, puts them in order, and detects silence.

One round of a daemon calls :meth:`Intake.read` and :meth:`Intake.ordered`, applies the entries and, if there
were none, calls :meth:`Intake.ended`.

A partition that has been silent for ``order.idle_seconds`` no longer delays the order. Such decisions
depend on the wall clock, so they take effect through the order's journal, from which a restart repeats them.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from stream_ctr.config.settings import Settings
from stream_ctr.daemon.resume import RECORD_BYTES, LogPlace, Resumable
from stream_ctr.daemon.state_folder import Opening
from stream_ctr.errors import StateError
from stream_ctr.events import validation
from stream_ctr.events.limits import ReadLimits
from stream_ctr.events.log import EventLog, TopicPartition
from stream_ctr.pipeline.ordering.entry import OrderedEntry

BUFFERED_CHUNKS: Final = 64
"""Read-ahead limit in chunks; beyond it, only the partitions that the order waits for are read."""
POLL_CHUNKS: Final = 4
"""Maximum size of one poll in chunks."""
POLL_BYTES: Final = 16 * 1024 * 1024
"""Maximum size of one poll in bytes."""
BUFFERED_BYTES: Final = 64 * 1024 * 1024
"""Read-ahead limit in bytes; beyond it, only the partitions that the order waits for are read."""
JOURNAL_SECONDS = 5.0
"""Silence in seconds after which a pending decision of the journal is considered unreachable."""

Offsets = Mapping[TopicPartition, int]


class HeldBytes:
    """Bytes that were read and are not applied yet, poll by poll.

    >>> held, tp = HeldBytes(), TopicPartition("clicks", 0)
    >>> held.add({tp: 700}, {tp: 5})
    >>> held.bytes_beyond({tp: 4}), held.bytes_beyond({tp: 5})
    (700, 0)
    """

    def __init__(self) -> None:
        self._polls: dict[TopicPartition, deque[tuple[int, int]]] = {}
        self._total = 0

    def add(self, taken: Mapping[TopicPartition, int], positions: Mapping[TopicPartition, int]) -> None:
        """Add a poll: the bytes that it returned per partition, and the positions after it."""
        for tp, size_bytes in taken.items():
            self._polls.setdefault(tp, deque()).append((positions[tp], size_bytes))
            self._total += size_bytes

    def bytes_beyond(self, applied: Mapping[TopicPartition, int]) -> int:
        """Bytes of the polls that are not applied completely."""
        for tp, polls in self._polls.items():
            while polls and polls[0][0] <= applied[tp]:
                self._total -= polls.popleft()[1]
        return self._total


class Intake:
    """Reads the log from the positions of an opened state.

    Args:
        log: the open event log.
        opening: the state, whose order receives the entries.
        settings: the configuration.

    Raises:
        OffsetRangeError: the log does not hold the next entries.
    """

    def __init__(self, log: EventLog, opening: Opening[Resumable], settings: Settings) -> None:
        self._order, self._journal = opening.order, opening.journal
        self._chunk = settings.train.chunk
        self._url, self._partitions = log.url, opening.place.partitions
        self._applied = opening.core.stage.progress.positions
        limits = ReadLimits(RECORD_BYTES, settings.log.max_batch_bytes, POLL_BYTES)
        self._reader = log.reader(self._applied(), limits)
        self._held = HeldBytes()
        self._check_ids(opening.place)
        self._clock = IdleClock(settings.order.idle_seconds)
        self._positions: dict[TopicPartition, int] = {}
        self.ends: dict[TopicPartition, int] = {}
        """End offsets of the log at the last call of :meth:`ordered`."""

    @property
    def healthy(self) -> bool:
        """Whether the log answered the last request."""
        return self._reader.healthy

    def end_offsets(self) -> dict[TopicPartition, int]:
        """End offsets of the log as last reported."""
        return self._reader.end_offsets()

    def read(self, patience_seconds: float) -> bool:
        """Read the next entries into the order; returns whether there were any.

        Waits for entries at most ``patience_seconds``, and not at all while the order can already emit some.
        Beyond the read-ahead limits, it reads only the partitions that the order waits for.

        Raises:
            PartitionsAddedError: a topic has more partitions than at the start.
            StreamCTRError: the log cannot be read on.
        """
        chunk, blocking = self._chunk, [*self._order.waiting_for(), *self._behind()]
        if self._order.buffered >= chunk and not blocking:
            return False  # a whole chunk can be emitted: apply it before reading more
        crowded = (
            self._order.buffered > BUFFERED_CHUNKS * chunk
            or self._held.bytes_beyond(self._applied()) > BUFFERED_BYTES
        )
        certain = self._order.buffered > 0 and not blocking
        wait_seconds = 0.0 if certain else patience_seconds
        # Each partition that the order waits for may exceed the limit by this much.
        most_bytes = POLL_BYTES // len(self._positions or [0]) if crowded else POLL_BYTES
        only = blocking if crowded else None
        entries = self._reader.poll(POLL_CHUNKS * chunk, wait_seconds, only, most_bytes)
        self._check_partitions()
        self._held.add(self._reader.taken_bytes(), self._reader.positions())
        self._order.add(entries)
        if entries:
            self._clock.restart()
        return bool(entries)

    def ordered(self) -> list[OrderedEntry]:
        """The next chunk of the order: entries whose place in it is certain.

        Empty while the log holds unread entries of an idle partition, because these may come first.
        """
        self._positions, self.ends = self._reader.positions(), self._reader.end_offsets()
        # While the log is unavailable, silence means nothing.
        waiting = self._order.waiting_for() if self._reader.healthy else []
        self._order.idle(self._clock.idle(waiting, self._positions, self.ends))
        if self._held.bytes_beyond(self._applied()) > BUFFERED_BYTES:
            # The buffer is full: decide with what was read instead of looking further ahead.
            self._order.idle(self._order.undecided())
        return [] if self._behind() else self._order.emit(self._chunk)

    def _behind(self) -> list[TopicPartition]:
        """Idle partitions, for which the order does not wait, with unread entries in the log."""
        idle = self._order.idle_partitions()
        if not idle:
            return []
        positions, ends = self._reader.positions(), self._reader.end_offsets()
        return [tp for tp in idle if positions[tp] < ends.get(tp, 0)]

    def ended(self, until_idle: float | None) -> bool:
        """Whether the log has been silent for ``until_idle`` seconds and the order is empty.

        Args:
            until_idle: None for a log that never ends.

        Raises:
            StateError: the journal holds a decision that depends on entries of another log.
        """
        if not self._reader.healthy:
            return False
        silent_seconds = self._clock.silent_seconds(self._positions, self.ends)
        if not self._order.replaying:
            if until_idle is None or silent_seconds < until_idle:
                return False
            # First emit the entries that wait for others, which will not come.
            return not (self._order.buffered and self._order.idle(self._order.waiting_for()))
        # A decision depends on entries that were read before. If the log has no more, it is another log.
        if silent_seconds >= JOURNAL_SECONDS:
            raise StateError(
                f"{self._journal}: contains a decision after entry {self._order.emitted} of the order, but "
                "the log has no more entries: journal and log do not belong to the same run. Restore the "
                "matching one, or set train.state to a new folder"
            )
        return False

    def _check_ids(self, place: LogPlace) -> None:
        """Check that no topic was recreated since the state was compared with the log.

        Raises:
            OffsetRangeError: a topic was recreated.
        """
        for topic, now in self._reader.topic_ids().items():
            before = place.topic_ids[topic]
            if now != before:
                self.close()
                raise validation.recreated(self._url, topic, before, now, place.log_id, None)

    def _check_partitions(self) -> None:
        """Check that every topic still has the number of partitions with which the order began.

        Raises:
            PartitionsAddedError: a topic has another number.
        """
        for topic, count in self._reader.partition_counts().items():
            if count != self._partitions:
                raise validation.partitions_added(self._url, topic, self._partitions, count)

    def close(self) -> None:
        """Stop reading."""
        self._reader.close()


class IdleClock:
    """Measures silence with the monotonic clock.

    Args:
        idle_seconds: silence after which a partition is idle.
        clock: monotonic seconds.

    >>> tick = iter([0.0, 0.0, 0.5, 1.5])
    >>> clock = IdleClock(1.0, lambda: next(tick))
    >>> tp = TopicPartition("clicks", 0)
    >>> [clock.idle([tp], {tp: 7}, {tp: 7}) for _ in range(3)]
    [[], [], [TopicPartition(topic='clicks', partition=0)]]
    """

    def __init__(self, idle_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._idle_seconds = idle_seconds
        self._clock = clock
        self._waiting: dict[TopicPartition, float] = {}
        self._ended: dict[TopicPartition, tuple[int, float]] = {}
        self._news = clock()

    def idle(
        self, waiting: Iterable[TopicPartition], positions: Offsets, ends: Offsets
    ) -> list[TopicPartition]:
        """The idle ones among the partitions that the order waits for.

        A partition that was read to its end is idle if, for ``idle_seconds``, it either got no entry or the
        order waited for it.
        """
        now = self._clock()
        ended: dict[TopicPartition, tuple[int, float]] = {}
        for tp, position in positions.items():
            if position >= ends[tp]:
                before = self._ended.get(tp)
                ended[tp] = before if before is not None and before[0] == position else (position, now)
        self._ended = ended
        self._waiting = {tp: self._waiting.get(tp, now) for tp in waiting if tp in ended}
        return [
            tp for tp, since in self._waiting.items() if now - min(since, ended[tp][1]) >= self._idle_seconds
        ]

    def restart(self) -> None:
        """Measure the log's silence from now on: an entry was read."""
        self._news = self._clock()

    def silent_seconds(self, positions: Offsets, ends: Offsets) -> float:
        """Seconds since the last entry was read; -1 unless every partition was read to its end."""
        if any(positions[tp] < ends[tp] for tp in positions):
            return -1.0
        return self._clock() - self._news
