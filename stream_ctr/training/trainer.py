"""The daemon's loop: poll, order, apply, and on timers publish, snapshot and checkpoint.

Its life reads from top to bottom: start, loop, shutdown. Everything that the wall clock decides is
decided here; what it decides about the order of events goes through the journal.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Event

from stream_ctr.batch.warm_start import WarmStart, load_warm_start
from stream_ctr.config import Settings
from stream_ctr.errors import LogError, StateError
from stream_ctr.events.dead_letters import DeadLetters
from stream_ctr.events.log import EventLog, LogReader
from stream_ctr.experiments.config import Arm
from stream_ctr.features.scanner import RecordScanner
from stream_ctr.files import Files
from stream_ctr.pipeline.journal import FileJournal
from stream_ctr.pipeline.labelled import LabelledDecoder
from stream_ctr.pipeline.order import Order
from stream_ctr.pipeline.segments import SegmentFolder
from stream_ctr.training.ahead import Ahead
from stream_ctr.training.checkpoint import SEGMENTS, CheckpointStore, Loaded
from stream_ctr.training.core import Core, Step
from stream_ctr.training.fields import resolve_fields
from stream_ctr.training.identity import identity
from stream_ctr.training.idle import IdleClock
from stream_ctr.training.publish import Publisher
from stream_ctr.training.report import Reporter
from stream_ctr.training.saving import Saver
from stream_ctr.training.start import find_place, input_topics, resume, skipped_entries

BUFFERED_CHUNKS = 64
"""Chunks of entries read ahead of the order before only the partitions that hold it up are read."""
POLL_CHUNKS = 4
"""Chunks of entries asked for in one poll."""
GLANCE_SECONDS = 0.02
"""Longest wait for entries while chunks are in line."""

JOURNAL_SECONDS = 5.0
"""Silence after which a decision of the journal that is still ahead can no longer be reached."""


LETTERS_RETRY_SECONDS = 1.0
"""Pause between attempts to write dead letters while reading waits for it."""


@dataclass(frozen=True, slots=True)
class Summary:
    """What a run of the daemon came to."""

    applied: int
    """Log entries applied over the life of the state."""
    learned: int
    """Updates over the life of the state."""
    events: int
    """Updates in this run."""
    seconds: float
    """Wall time of this run's loop."""
    checkpoint: Path
    """The newest checkpoint."""


class Trainer:
    """One arm's daemon.

    While the learner is at work, in a thread of its own, the loop reads and prepares the next chunks: nothing
    of that depends on what is learned.

    Args:
        settings: the configuration.
        arm: the arm to train.
        log: the open event log; the caller closes it.
        reporter: where progress goes.
        files: file operations of checkpoints and journal.
        skip_lost: go on behind entries that the log no longer holds, instead of refusing to start.
        on_step: called after every chunk, for observers.
        warm: where a run without checkpoints takes its weights, vocabulary and counts.

    Raises:
        StreamCTRError: the state or the log cannot be gone on with; nothing was changed.
    """

    def __init__(
        self,
        settings: Settings,
        arm: Arm,
        log: EventLog,
        reporter: Reporter,
        *,
        files: Files | None = None,
        skip_lost: bool = False,
        on_step: Callable[[Step], None] = lambda step: None,
        warm: WarmStart | None = None,
    ) -> None:
        self._settings, self._arm, self._log, self._reporter = settings, arm, log, reporter
        self._on_step = on_step
        self.folder = settings.arm_state(arm.name)
        self.folder.mkdir(parents=True, exist_ok=True)
        fields = resolve_fields(settings.features)
        self._identity = identity(settings, arm, fields)
        self._place = find_place(log, input_topics(settings))
        self._dead_letters = DeadLetters(log, settings.log.dead_letters)
        log.create_topic(settings.log.dead_letters, self._place.partitions)
        self._store = CheckpointStore(
            self.folder / "checkpoints", settings.train.checkpoints_kept, files or Files()
        )
        segments = SegmentFolder(self._store.folder / SEGMENTS, files)
        self.core, loaded = resume(
            self._store,
            lambda: Core(settings, arm, fields, self._place.partitions, segments),
            self._identity,
            log,
            self._place,
            skip_lost=skip_lost,
            at_end=warm is not None and warm.at == "last",
            begin=self._begin_warm(warm) if warm is not None else lambda core: None,
        )
        self._journal = FileJournal(self.folder / "journal", files)
        lost = skipped_entries(self.core, loaded)
        if lost:
            self._journal.cut(self.core.pipeline.applied)
        self._order = Order(
            input_topics(settings),
            self.core.pipeline.order_state(),
            self._journal,
            settings.order.max_ahead_seconds,
            settings.order.max_lead_seconds,
            RecordScanner(fields),
            LabelledDecoder(settings.order.max_ahead_seconds) if settings.join.input == "labelled" else None,
        )
        self._publisher = Publisher(settings, arm, fields, self.folder, reporter)
        self._ahead = Ahead(self.core, self._measured)
        self._saver = Saver(
            self._store,
            self.core,
            self._identity,
            self._place.as_json(log.url),
            self._dead_letters,
            self._journal,
            reporter,
            settings.train.checkpoint_seconds,
            self._ahead.settle,
            self._publisher.checkpointed,
        )
        self._begin(loaded, lost, warm)

    def _begin(self, loaded: Loaded | None, lost: int, warm: WarmStart | None) -> None:
        """Say where this run begins, and make that durable where it is new."""
        reporter = self._reporter
        if loaded is None:
            reason = f"no checkpoint there: the weights start {f'from {warm.folder}' if warm else 'anew'}"
            reporter.say("new", state=str(self.folder), reason=reason)
            self.checkpoint()
        else:
            for reason in loaded.damaged:
                reporter.say("damaged", checkpoint=reason)
            self._saver.newest = self._store.path(loaded.manifest.version)
            self._publisher.checkpointed(loaded.manifest.created_ms)
            if warm is not None:
                reporter.say("start-from-ignored", reason="this run has checkpoints of its own")
            reporter.say("resumed", checkpoint=str(self.checkpoint_path), learned=self.core.learned)
        if lost:
            reporter.say("skipped", entries=lost, reason="the log no longer holds them")
            self.checkpoint()
        if self.core.rebuilds:
            reason = (
                f"{self._arm.learner.river} has no state that can be saved: the log is learned from its start"
            )
            reporter.say("rebuild", reason=reason)

    @property
    def checkpoint_path(self) -> Path:
        """Folder of the newest checkpoint."""
        return self._saver.newest

    def _begin_warm(self, warm: WarmStart) -> Callable[[Core], None]:
        """What gives a new run the weights, vocabulary and counts of another."""

        def begin(core: Core) -> None:
            states = load_warm_start(warm, self._identity)
            core.pipeline.key_encoder.load_state(states["keys"])
            core.pipeline.tables.load_state(states["tables"])
            core.learner.load_state(states["learner"])

        return begin

    def run(self, stop: Event, until_idle: float | None = None) -> Summary:
        """Learn until told to stop or, with ``until_idle``, until the log has been silent that long.

        At the end of a silent log the open windows are closed and their impressions learned. Either
        way the last act is a checkpoint.

        Raises:
            StreamCTRError: the log cannot be read on; what was learned since the last checkpoint is read
                again by the next start.
        """
        began, before = time.monotonic(), self.core.learned
        reader = self._log.reader(self.core.pipeline.positions())
        clock = IdleClock(self._settings.order.idle_seconds)
        try:
            with self._publisher:
                while not stop.is_set():
                    if self._dead_letters.full and not self._try_flush():
                        self._publisher.publish(self.core, reader.end_offsets(), healthy=False)
                        stop.wait(LETTERS_RETRY_SECONDS)
                        continue
                    heard = self._read(reader)
                    if heard:
                        clock.heard()
                    positions, ends = reader.positions(), reader.end_offsets()
                    # A log that is away says nothing about what is silent.
                    waiting = self._order.waiting_for() if reader.healthy else []
                    self._order.idle(clock.quiet(waiting, positions, ends))
                    ordered = self._order.emit(self._settings.train.chunk)
                    if ordered:
                        self._ahead.give(self.core.pipeline.apply(ordered))
                    elif not heard:
                        # A stream that comes in drops: show what was learned before waiting for more.
                        self._ahead.settle()
                    if self._publisher.snapshot_due():
                        self._ahead.settle()
                        self._publisher.snapshot(self.core)
                    self._publisher.publish(self.core, ends, healthy=reader.healthy)
                    self._saver.when_due()
                    if ordered or not reader.healthy:
                        continue
                    silent_seconds = clock.silent_seconds(positions, ends)
                    if self._order.replaying:
                        self._refuse_journal_ahead(silent_seconds)
                    elif until_idle is not None and silent_seconds >= until_idle:
                        self._finish()
                        break
                self._ahead.settle()
                self._publisher.snapshot(self.core, wait=True)
                self._publisher.publish(self.core, reader.end_offsets(), healthy=reader.healthy, now=True)
                self.checkpoint()
        finally:
            reader.close()
            self._ahead.close()
            self._saver.close()
        return Summary(
            self._order.emitted,
            self.core.learned,
            self.core.learned - before,
            time.monotonic() - began,
            self.checkpoint_path,
        )

    def checkpoint(self) -> None:
        """Write the state of everything applied so far, and wait until it is durable.

        Raises:
            OSError: the file system refuses; the checkpoints before are untouched.
            LogError: dead letters are not acknowledged: without that their offsets must not be saved.
        """
        self._saver.now()

    def _read(self, reader: LogReader) -> bool:
        """Put what comes next in line; ahead of the order only so far, beyond it only what it lacks."""
        chunk, blocking = self._settings.train.chunk, self._order.waiting_for()
        crowded = self._order.buffered > BUFFERED_CHUNKS * chunk
        if self._order.buffered >= chunk and not blocking:
            return False  # a whole chunk is certain: learn it before asking for more
        certain = self._order.buffered > 0 and not blocking
        wait_seconds = 0.0 if certain else self._settings.train.poll_seconds
        if self._ahead.at_work:
            # Nothing is lost by looking again while there is something to learn, and what the stream's last
            # drop brought is shown soon.
            wait_seconds = min(wait_seconds, GLANCE_SECONDS)
        entries = reader.poll(POLL_CHUNKS * chunk, wait_seconds, blocking if crowded else None)
        self._order.add(entries)
        return bool(entries)

    def _refuse_journal_ahead(self, silent_seconds: float) -> None:
        """A decision rests on entries that were read: with none left to read, it is of another log."""
        if silent_seconds >= JOURNAL_SECONDS:
            raise StateError(
                f"{self._journal}: holds a decision beyond entry {self._order.emitted} of the order, and the "
                "log holds no more entries: one of the two is not of this run. Restore it, or start a new "
                "state folder"
            )

    def _measured(self, step: Step) -> None:
        for entry, reason in step.rejected:
            self._dead_letters.add(entry, reason)
        self._publisher.count(step)
        self._on_step(step)

    def _try_flush(self) -> bool:
        """Write the dead letters that wait; while the log does not take them, nothing more is read."""
        try:
            self._dead_letters.flush()
        except LogError as error:
            self._reporter.say("dead-letters-refused", waiting=self._dead_letters.waiting, reason=str(error))
            return False
        return True

    def _finish(self) -> None:
        """Take the log as ended: what waits is applied, open windows are closed."""
        if not self._order.buffered and not self.core.pipeline.open_impressions:
            return  # ended before, by this run or by the one that the journal repeats
        ordered, chunk = self._order.finish(), self._settings.train.chunk
        for start in range(0, len(ordered), chunk):
            self._ahead.give(self.core.pipeline.apply(ordered[start : start + chunk]))
        self._ahead.settle()
