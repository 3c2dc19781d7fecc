"""What a daemon takes in: entries read from the log, put in order, and how long the log has been silent.

A daemon's round is: :meth:`Intake.read`, :meth:`Intake.ordered`, whatever it does with the entries, and where
there were none, :meth:`Intake.ended`. What the wall clock decides about the order goes through the journal.

A partition that has been silent for the idle time no longer holds up the order.

Only the daemon looks at the clock, and only here. A decision takes effect through the order's journal.
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
"""Chunks of entries read ahead of the order before only the partitions that hold it up are read."""
POLL_CHUNKS: Final = 4
"""Chunks of entries asked for in one poll."""
POLL_BYTES: Final = 16 * 1024 * 1024
"""Bytes of entries asked for in one poll."""
BUFFERED_BYTES: Final = 64 * 1024 * 1024
"""Bytes of entries read and not applied before only the partitions that hold the order up are read."""
JOURNAL_SECONDS = 5.0
"""Silence after which a decision of the journal that is still ahead can no longer be reached."""

Offsets = Mapping[TopicPartition, int]


class HeldBytes:
    """What was read and is not applied, by the polls that brought it.

    >>> held, place = HeldBytes(), TopicPartition("clicks", 0)
    >>> held.add({place: 700}, {place: 5})
    >>> held.bytes_beyond({place: 4}), held.bytes_beyond({place: 5})
    (700, 0)
    """

    def __init__(self) -> None:
        self._polls: dict[TopicPartition, deque[tuple[int, int]]] = {}
        self._total = 0

    def add(self, taken: Mapping[TopicPartition, int], positions: Mapping[TopicPartition, int]) -> None:
        """A poll brought so many bytes, up to these positions."""
        for tp, size_bytes in taken.items():
            self._polls.setdefault(tp, deque()).append((positions[tp], size_bytes))
            self._total += size_bytes

    def bytes_beyond(self, applied: Mapping[TopicPartition, int]) -> int:
        """Bytes of the polls that are not applied to their end."""
        for tp, polls in self._polls.items():
            while polls and polls[0][0] <= applied[tp]:
                self._total -= polls.popleft()[1]
        return self._total


class Intake:
    """Reads a log from where an opened state is.

    Args:
        log: the open event log.
        opening: the state whose order is filled.
        settings: the configuration.

    Raises:
        OffsetRangeError: the log does not hold what comes next.
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
        """The log's ends, as they were when entries were last put in order."""

    @property
    def healthy(self) -> bool:
        """Whether the log answered when it was last asked."""
        return self._reader.healthy

    def end_offsets(self) -> dict[TopicPartition, int]:
        """The log's ends as last heard."""
        return self._reader.end_offsets()

    def read(self, patience_seconds: float) -> bool:
        """Put what comes next in line; ahead of the order only so far, beyond it only what it lacks.

        Waits for news at most ``patience_seconds``, and not at all while entries are certain. Whether there
        was any.

        Raises:
            PartitionsAddedError: a topic has more partitions than at the start.
            StreamCTRError: the log cannot be read on.
        """
        chunk, blocking = self._chunk, [*self._order.waiting_for(), *self._behind()]
        if self._order.buffered >= chunk and not blocking:
            return False  # a whole chunk is certain: work on it before asking for more
        crowded = (
            self._order.buffered > BUFFERED_CHUNKS * chunk
            or self._held.bytes_beyond(self._applied()) > BUFFERED_BYTES
        )
        certain = self._order.buffered > 0 and not blocking
        wait_seconds = 0.0 if certain else patience_seconds
        # Each partition that holds the order up may add this much to what is held.
        most_bytes = POLL_BYTES // len(self._positions or [0]) if crowded else POLL_BYTES
        only = blocking if crowded else None
        entries = self._reader.poll(POLL_CHUNKS * chunk, wait_seconds, only, most_bytes)
        self._check_partitions()
        self._held.add(self._reader.taken_bytes(), self._reader.positions())
        self._order.add(entries)
        if entries:
            self._clock.heard()
        return bool(entries)

    def ordered(self) -> list[OrderedEntry]:
        """The next chunk of the order, as far as it is certain.

        Nothing is, while a partition that is not waited for has entries in the log that were not read yet.
        """
        self._positions, self.ends = self._reader.positions(), self._reader.end_offsets()
        # A log that is away says nothing about what is silent.
        waiting = self._order.waiting_for() if self._reader.healthy else []
        self._order.idle(self._clock.quiet(waiting, self._positions, self.ends))
        if self._held.bytes_beyond(self._applied()) > BUFFERED_BYTES:
            # No longer look-ahead than fits: what was read decides.
            self._order.idle(self._order.undecided())
        return [] if self._behind() else self._order.emit(self._chunk)

    def _behind(self) -> list[TopicPartition]:
        """Partitions that the order does not wait for although the log holds more of them."""
        idle = self._order.idle_partitions()
        if not idle:
            return []
        positions, ends = self._reader.positions(), self._reader.end_offsets()
        return [tp for tp in idle if positions[tp] < ends.get(tp, 0)]

    def ended(self, until_idle: float | None) -> bool:
        """Whether the log has been silent for ``until_idle`` seconds (None: it never ends), with nothing
        left in order.

        Raises:
            StateError: the journal holds a decision that rests on entries of another log.
        """
        if not self._reader.healthy:
            return False
        silent_seconds = self._clock.silent_seconds(self._positions, self.ends)
        if not self._order.replaying:
            if until_idle is None or silent_seconds < until_idle:
                return False
            # What waits for entries that will not come is put in order first.
            return not (self._order.buffered and self._order.idle(self._order.waiting_for()))
        # A decision rests on entries that were read: with none left to read, it is of another log.
        if silent_seconds >= JOURNAL_SECONDS:
            raise StateError(
                f"{self._journal}: holds a decision beyond entry {self._order.emitted} of the order, and the "
                "log holds no more entries: one of the two is not of this run. Restore it, or start a new "
                "state folder"
            )
        return False

    def _check_ids(self, place: LogPlace) -> None:
        """Refuse topics that were recreated after the state was compared with them.

        Raises:
            OffsetRangeError: one was.
        """
        for topic, now in self._reader.topic_ids().items():
            before = place.topic_ids[topic]
            if now != before:
                self.close()
                raise validation.recreated(self._url, topic, before, now, place.log_id, None)

    def _check_partitions(self) -> None:
        """Refuse to read on when a topic has other partitions than the order was begun with.

        Raises:
            PartitionsAddedError: one has.
        """
        for topic, count in self._reader.partition_counts().items():
            if count != self._partitions:
                raise validation.partitions_added(self._url, topic, self._partitions, count)

    def close(self) -> None:
        """Stop reading."""
        self._reader.close()


class IdleClock:
    """Measures silence on the monotonic clock.

    >>> tick = iter([0.0, 0.0, 0.5, 1.5])
    >>> clock = IdleClock(1.0, lambda: next(tick))
    >>> tp = TopicPartition("clicks", 0)
    >>> [clock.quiet([tp], {tp: 7}, {tp: 7}) for _ in range(3)]
    [[], [], [TopicPartition(topic='clicks', partition=0)]]
    """

    def __init__(self, idle_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._idle_seconds = idle_seconds
        self._clock = clock
        self._waiting: dict[TopicPartition, float] = {}
        self._ended: dict[TopicPartition, tuple[int, float]] = {}
        self._news = clock()

    def quiet(
        self, waiting: Iterable[TopicPartition], positions: Offsets, ends: Offsets
    ) -> list[TopicPartition]:
        """Those of the partitions waited for that have been read to their end, and for the whole idle time
        either got no entry or were waited for."""
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

    def heard(self) -> None:
        """Something was read."""
        self._news = self._clock()

    def silent_seconds(self, positions: Offsets, ends: Offsets) -> float:
        """How long nothing was read while every partition was at its end; -1 when one is not."""
        if any(positions[tp] < ends[tp] for tp in positions):
            return -1.0
        return self._clock() - self._news
