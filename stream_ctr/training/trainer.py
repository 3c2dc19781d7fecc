"""The daemon's loop: poll, order, apply, and on timers publish, snapshot and checkpoint.

Its life reads from top to bottom: start, loop, shutdown. Everything that the wall clock decides is
decided here; what it decides about the order of events goes through the journal.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any

from stream_ctr.config.experiment import Arm
from stream_ctr.config.settings import Settings
from stream_ctr.daemon.identity import identity
from stream_ctr.daemon.intake import Intake
from stream_ctr.daemon.resume import find_place, input_topics
from stream_ctr.daemon.run_outcomes import RunOutcomes
from stream_ctr.daemon.run_report import RunReport
from stream_ctr.daemon.saver import Saver
from stream_ctr.daemon.state_folder import open_state
from stream_ctr.datasets.base import resolve_fields
from stream_ctr.errors import LogError, PartitionsAddedError
from stream_ctr.events.dead_letters import DeadLetters
from stream_ctr.events.log import EventLog
from stream_ctr.features.scan.scanner import RecordScanner
from stream_ctr.offline.warm_start import WarmStart, load_warm_start
from stream_ctr.pipeline.ordering.entry import OrderedEntry
from stream_ctr.reporting.progress import Reporter
from stream_ctr.state.durable_files import Files
from stream_ctr.training.core import Core, Step
from stream_ctr.training.learner_thread import Ahead
from stream_ctr.training.publisher import Publisher

GLANCE_SECONDS = 0.02
"""Longest wait for entries while chunks are in line."""
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
    outcomes: RunReport
    """What this run read, learned and lost."""


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
        replace_snapshots: begin a new run although the folder has snapshots of an earlier one.
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
        replace_snapshots: bool = False,
        on_step: Callable[[Step], None] = lambda step: None,
        warm: WarmStart | None = None,
    ) -> None:
        self._settings, self._arm, self._log, self._reporter = settings, arm, log, reporter
        self._on_step = on_step
        self.folder = settings.arm_state(arm.name)
        fields = resolve_fields(settings.features)
        place = find_place(log, input_topics(settings))
        log.ensure_topic(settings.log.dead_letters, place.partitions)
        self._dead_letters = DeadLetters(log, settings.log.dead_letters)
        expected = identity(settings, arm, fields)
        self._opening = open_state(
            settings,
            self.folder,
            log,
            place,
            expected,
            lambda segments: Core(settings, arm, fields, place.partitions, segments),
            files,
            scanner=RecordScanner(fields, settings.features.unknown),
            skip_lost=skip_lost,
            replace_snapshots=replace_snapshots,
            at_end=warm is not None and warm.at == "last",
            begin=lambda core: _begin_warm(core, warm, expected),
        )
        self.core, self._order = self._opening.core, self._opening.order
        self.outcomes = RunOutcomes(settings, self.core.pipeline, reporter)
        self._publisher = Publisher(settings, arm, fields, self.folder, reporter, self.outcomes)
        self._ahead = Ahead(self.core, self._measured)
        self._saver = Saver(
            self._opening.store,
            self.core,
            expected,
            self._opening.log,
            self._dead_letters,
            self._opening.journal,
            reporter,
            settings.train.checkpoint_seconds,
            self._ahead.settle,
            self._publisher.checkpointed,
        )
        self._begin(warm)

    def _begin(self, warm: WarmStart | None) -> None:
        """Say where this run begins, and make that durable where it is new."""
        opening = self._opening
        if opening.loaded is not None:
            manifest = opening.loaded.manifest
            self._saver.newest = opening.store.path(manifest.version)
            self._publisher.checkpointed(manifest.created_ms)
        weights = f"from {warm.folder}" if warm else "anew"
        opening.tell(
            self._reporter,
            new={"reason": f"no checkpoint there: the weights start {weights}"},
            ignored="this run has checkpoints of its own" if warm else "",
            resumed={"learned": self.core.learned},
        )
        if opening.moved:
            self.checkpoint()
        if self.core.rebuilds:
            reason = (
                f"{self._arm.learner.river} has no state that can be saved: the log is learned from its start"
            )
            self._reporter.say("rebuild", reason=reason)

    @property
    def checkpoint_path(self) -> Path:
        """Folder of the newest checkpoint."""
        return self._saver.newest

    def run(self, stop: Event, until_idle: float | None = None) -> Summary:
        """Learn until told to stop or, with ``until_idle``, until the log has been silent that long.

        At the end of a silent log the open windows are closed and their impressions learned. Either
        way the last act is a checkpoint.

        Raises:
            PartitionsAddedError: a topic has more partitions than at the start; a checkpoint was written.
            StreamCTRError: the log cannot be read on; what was learned since the last checkpoint is read
                again by the next start.
        """
        began, before, ended = time.monotonic(), self.core.learned, False
        with (
            closing(self._saver),
            closing(self._ahead),
            closing(Intake(self._log, self._opening, self._settings)) as intake,
            self._publisher,
        ):
            while not stop.is_set():
                if self._dead_letters.full and not self._try_flush():
                    self._publisher.publish(self.core, intake.end_offsets(), healthy=False)
                    stop.wait(LETTERS_RETRY_SECONDS)
                    continue
                heard = self._read(intake)
                ordered = intake.ordered()
                if ordered:
                    self._apply(ordered)
                elif not heard:
                    # A stream that comes in drops: show what was learned before waiting for more.
                    self._ahead.settle()
                if self._publisher.snapshot_due():
                    self._publisher.snapshot(self.core, self._ahead)
                self.outcomes.look()
                self._publisher.publish(self.core, intake.ends, healthy=intake.healthy)
                self._saver.when_due()
                if not ordered and intake.ended(until_idle):
                    self._finish()
                    ended = True
                    break
            self._ahead.settle()
            self._publisher.last_snapshot(self.core, self._ahead)
            learned = self.core.learned
            outcomes = self.outcomes.finish(learned - before, "learned", ever=learned, ended=ended)
            self._publisher.publish(self.core, intake.end_offsets(), healthy=intake.healthy, now=True)
            self.checkpoint()
        return Summary(
            self._order.emitted,
            self.core.learned,
            self.core.learned - before,
            time.monotonic() - began,
            self.checkpoint_path,
            outcomes,
        )

    def checkpoint(self) -> None:
        """Write the state of everything applied so far, and wait until it is durable.

        Raises:
            OSError: the file system refuses; the checkpoints before are untouched.
            LogError: dead letters are not acknowledged: without that their offsets must not be saved.
        """
        self._saver.now()

    def _read(self, intake: Intake) -> bool:
        """Read on; whether there was news."""
        try:
            return intake.read(self._patience_seconds())
        except PartitionsAddedError:
            self.checkpoint()  # no later start goes on from it, but the weights can be taken from it
            raise

    def _patience_seconds(self) -> float:
        """How long reading may wait for news."""
        # Nothing is lost by looking again while there is something to learn, and what the stream's last
        # drop brought is shown soon.
        poll_seconds = self._settings.train.poll_seconds
        return min(poll_seconds, GLANCE_SECONDS) if self._ahead.at_work else poll_seconds

    def _apply(self, ordered: list[OrderedEntry]) -> None:
        """Apply entries, and have what they give learned."""
        applied = self.core.pipeline.apply(ordered)
        self.outcomes.count(ordered, applied.rejected)
        self._ahead.give(applied)

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
            self._apply(ordered[start : start + chunk])
        self._ahead.settle()


def _begin_warm(core: Core, warm: WarmStart | None, expected: dict[str, Any]) -> None:
    """Give a new run the weights, vocabulary and counts of another, where one is named."""
    if warm is not None:
        states = load_warm_start(warm, expected)
        core.pipeline.key_encoder.load_state(states["keys"])
        core.pipeline.tables.load_state(states["tables"])
        core.learner.load_state(states["learner"])
