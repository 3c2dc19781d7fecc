"""What a daemon takes in: entries read from the log, put in order, and how long the log has been silent.

A daemon's round is: :meth:`Intake.read`, :meth:`Intake.ordered`, whatever it does with the entries, and where
there were none, :meth:`Intake.ended`. What the wall clock decides about the order goes through the journal.
"""

from __future__ import annotations

from typing import Final

from stream_ctr.config import Settings
from stream_ctr.errors import StateError
from stream_ctr.events.log import EventLog, TopicPartition
from stream_ctr.pipeline.ordered import OrderedEntry
from stream_ctr.training.idle import IdleClock
from stream_ctr.training.opening import Opening
from stream_ctr.training.start import Resumable

BUFFERED_CHUNKS: Final = 64
"""Chunks of entries read ahead of the order before only the partitions that hold it up are read."""
POLL_CHUNKS: Final = 4
"""Chunks of entries asked for in one poll."""
JOURNAL_SECONDS = 5.0
"""Silence after which a decision of the journal that is still ahead can no longer be reached."""


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
        self._reader = log.reader(opening.core.pipeline.positions())
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
            StreamCTRError: the log cannot be read on.
        """
        chunk, blocking = self._chunk, [*self._order.waiting_for(), *self._behind()]
        if self._order.buffered >= chunk and not blocking:
            return False  # a whole chunk is certain: work on it before asking for more
        crowded = self._order.buffered > BUFFERED_CHUNKS * chunk
        certain = self._order.buffered > 0 and not blocking
        wait_seconds = 0.0 if certain else patience_seconds
        entries = self._reader.poll(POLL_CHUNKS * chunk, wait_seconds, blocking if crowded else None)
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
            return until_idle is not None and silent_seconds >= until_idle
        # A decision rests on entries that were read: with none left to read, it is of another log.
        if silent_seconds >= JOURNAL_SECONDS:
            raise StateError(
                f"{self._journal}: holds a decision beyond entry {self._order.emitted} of the order, and the "
                "log holds no more entries: one of the two is not of this run. Restore it, or start a new "
                "state folder"
            )
        return False

    def close(self) -> None:
        """Stop reading."""
        self._reader.close()
