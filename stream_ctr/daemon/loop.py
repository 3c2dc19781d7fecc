"""The loop of every daemon: write due records, read, order, yield a chunk of entries, save a checkpoint.

Trainer, joining process and watcher iterate over it and differ in what they do with the entries:

    with DaemonLoop(...) as loop:
        for chunk in loop.chunks(stop, until_idle):
            ...  # apply chunk.ordered, publish figures
        ...  # final figures, last checkpoint

Decisions about the order that depend on the wall clock take effect through the journal (see intake).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from threading import Event
from types import TracebackType
from typing import Final, NamedTuple

from stream_ctr.config.settings import Settings
from stream_ctr.daemon.intake import Intake
from stream_ctr.daemon.outbox import Outbox
from stream_ctr.daemon.run_outcomes import RunOutcomes
from stream_ctr.daemon.saver import Savable, Saver
from stream_ctr.daemon.state_folder import Opening
from stream_ctr.errors import PartitionsAddedError
from stream_ctr.events.log import EventLog, TopicPartition
from stream_ctr.pipeline.ordering.entry import OrderedEntry

RETRY_SECONDS: Final = 1.0
"""Pause between attempts to write while reading waits for it."""


class Chunk(NamedTuple):
    """One round of the loop."""

    ordered: list[OrderedEntry]
    """The next entries to apply; empty while no entry's place in the order is certain."""
    news: bool
    """Whether the log gave any entries."""
    healthy: bool
    """Whether the log answers."""
    ends: Mapping[TopicPartition, int]
    """End offset of each partition, as the log last reported it."""

    def lag(self, positions: Mapping[TopicPartition, int]) -> int:
        """Entries in the log behind ``positions``."""
        return sum(max(0, self.ends[tp] - offset) for tp, offset in positions.items())


class DaemonLoop:
    """Opens the log's reader on entry; closes it and waits for the checkpoint being written on exit.

    Args:
        settings: the configuration.
        log: the open event log; the caller closes it.
        opening: the opened state.
        saver: writes its checkpoints.
        outbox: writes the daemon's records to the log.
        outcomes: counts the run; checked for losses in every round.

    Raises:
        OffsetRangeError: on entry, when the log does not hold the next entries.
    """

    def __init__(
        self,
        settings: Settings,
        log: EventLog,
        opening: Opening[Savable],
        saver: Saver,
        outbox: Outbox,
        outcomes: RunOutcomes,
    ) -> None:
        self._settings, self._log, self._opening = settings, log, opening
        self._saver, self._outbox, self._outcomes = saver, outbox, outcomes
        self._intake: Intake | None = None
        self.patience_seconds = settings.train.poll_seconds
        """How long the next read may wait for entries."""
        self.ended = False
        """Whether the log was read to its end."""

    def __enter__(self) -> DaemonLoop:
        self._intake = Intake(self._log, self._opening, self._settings)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._intake is not None:
            self._intake.close()
        self._saver.close()

    def chunks(self, stop: Event, until_idle: float | None) -> Iterator[Chunk]:
        """Yield one chunk per round until ``stop`` is set or the log was silent for ``until_idle`` seconds.

        When a silent log ends the loop, the last chunks contain all remaining entries and close the open
        windows. With ``until_idle`` None, only ``stop`` ends the loop.

        Raises:
            PartitionsAddedError: a topic has more partitions than at the start; a checkpoint was written.
            StreamCTRError: the log cannot be read on.
        """
        intake = self._opened()
        while not stop.is_set():
            if not self._outbox.write():
                yield Chunk([], False, False, intake.end_offsets())
                stop.wait(RETRY_SECONDS)
                continue
            news = self._read(intake)
            ordered = intake.ordered()
            yield Chunk(ordered, news, intake.healthy, intake.ends)
            self._outcomes.check_losses()
            self._saver.when_due()
            if not ordered and intake.ended(until_idle):
                yield from self._last_chunks(intake)
                self.ended = True
                break
        self._outbox.write()  # if the log refuses once more, the last checkpoint still tries again

    def now(self) -> Chunk:
        """An empty chunk with the present health and end offsets of the log."""
        intake = self._opened()
        return Chunk([], False, intake.healthy, intake.end_offsets())

    def _read(self, intake: Intake) -> bool:
        """Read the next entries; returns whether there were any."""
        try:
            return intake.read(self.patience_seconds)
        except PartitionsAddedError:
            self._saver.now()  # it cannot be resumed, but --start-from can take its weights
            raise

    def _last_chunks(self, intake: Intake) -> Iterator[Chunk]:
        """Emit the remaining entries, and mark the end of the log if that closes a window."""
        order, chunk = self._opening.order, self._settings.train.chunk
        if not order.buffered and not self._opening.core.unfinished:
            return  # the end is already applied, by this run or by the one that the journal repeats
        ordered = order.finish()
        for start in range(0, len(ordered), chunk):
            yield Chunk(ordered[start : start + chunk], True, intake.healthy, intake.ends)

    def _opened(self) -> Intake:
        if self._intake is None:
            raise RuntimeError("enter the loop first")
        return self._intake
