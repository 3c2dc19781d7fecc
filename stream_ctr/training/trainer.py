"""The trainer: applies the chunks of the daemon's loop, learns them, publishes and saves.

The module reads from top to bottom: start, loop, shutdown.
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
from stream_ctr.daemon.loop import DaemonLoop
from stream_ctr.daemon.outbox import Outbox
from stream_ctr.daemon.resume import find_place, input_topics
from stream_ctr.daemon.run_outcomes import RunOutcomes
from stream_ctr.daemon.run_report import RunReport
from stream_ctr.daemon.saver import Saver
from stream_ctr.daemon.state_folder import open_state
from stream_ctr.datasets.base import resolve_fields
from stream_ctr.events.dead_letters import DeadLetters
from stream_ctr.events.log import EventLog
from stream_ctr.features.scan.scanner import RecordScanner
from stream_ctr.offline.warm_start import WarmStart, load_warm_start
from stream_ctr.pipeline.ordering.entry import OrderedEntry
from stream_ctr.reporting.progress import Reporter
from stream_ctr.state.durable_files import Files
from stream_ctr.training.core import Core, Step
from stream_ctr.training.learner_thread import FrozenWeights, LearnerThread
from stream_ctr.training.publisher import Publisher

BUSY_POLL_SECONDS = 0.02
"""Longest wait for entries in seconds while the learner has chunks queued."""


@dataclass(frozen=True, slots=True)
class Summary:
    """The results of one run."""

    applied: int
    """Log entries applied since the state began."""
    learned: int
    """Updates since the state began."""
    events: int
    """Updates in this run."""
    seconds: float
    """Wall time of this run."""
    checkpoint: Path
    """The newest checkpoint."""
    outcomes: RunReport
    """What this run read, learned and lost."""


class Trainer:
    """One arm's daemon.

    While the learner runs in its own thread, the loop reads and prepares the next chunks. Preparing them does
    not depend on the learner.

    Args:
        settings: the configuration.
        arm: the arm to train.
        log: the open event log; the caller closes it.
        reporter: reports progress.
        files: file operations of checkpoints and journal.
        skip_lost: continue past entries that retention has deleted, counting them as skipped.
        replace_snapshots: begin a new run although the folder has snapshots of an earlier one.
        on_step: called after every chunk, for observers.
        warm: source of the weights, vocabulary and counts of a new run.

    Raises:
        StreamCTRError: the checkpoint or the log cannot be resumed; nothing was changed.
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
            initialize=lambda core: _load_warm_start(core, warm, expected),
        )
        self.core, self._order = self._opening.core, self._opening.order
        self.outcomes = RunOutcomes(settings, self.core.pipeline, reporter)
        self._publisher = Publisher(settings, arm, fields, self.folder, reporter, self.outcomes)
        self._learner = LearnerThread(self.core)
        self._outbox = Outbox(reporter, self._dead_letters)
        self._saver = Saver(
            self._opening,
            reporter,
            settings.train.checkpoint_seconds,
            self._settle_and_flush,
            rebuilds=self.core.rebuilds,
        )
        self._begin(warm)

    def _begin(self, warm: WarmStart | None) -> None:
        """Report where this run starts, and write a checkpoint if none has these positions."""
        opening = self._opening
        weights = f"from {warm.folder}" if warm else "from their initial values"
        opening.report(
            self._reporter,
            new={"reason": f"no checkpoint found: the weights start {weights}"},
            ignored="the state folder already has checkpoints" if warm else "",
            resumed={"learned": self.core.learned},
        )
        if opening.unsaved:
            self.checkpoint()
        if self.core.rebuilds:
            reason = (
                f"{self._arm.learner.river} has no state that can be saved: every start learns the log again"
            )
            self._reporter.say("rebuild", reason=reason)

    @property
    def checkpoint_path(self) -> Path:
        """Folder of the newest checkpoint."""
        return self._saver.newest

    def run(self, stop: Event, until_idle: float | None = None) -> Summary:
        """Learn until ``stop`` is set or, with ``until_idle``, the log has been silent for that many seconds.

        At the end of a silent log, the open windows are closed and their impressions learned. In both cases,
        a checkpoint is written at the end.

        Raises:
            PartitionsAddedError: a topic has more partitions than at the start; a checkpoint was written.
            StreamCTRError: the log cannot be read; the next start resumes from the last checkpoint.
        """
        began, before = time.monotonic(), self.core.learned
        loop = DaemonLoop(self._settings, self._log, self._opening, self._saver, self._outbox, self.outcomes)
        with loop, closing(self._learner), self._publisher:
            for chunk in loop.chunks(stop, until_idle):
                if chunk.ordered:
                    self._apply(chunk.ordered)
                elif not chunk.news:
                    # A slow stream: publish what was learned before waiting for more entries.
                    self._settle()
                if self._publisher.snapshot_due():
                    self._begin_snapshot()
                self._publisher.publish(self.core, chunk, self._saver.created_ms)
                # While chunks are queued, poll often, so that their results are published soon.
                poll_seconds = self._settings.train.poll_seconds
                loop.patience_seconds = (
                    min(poll_seconds, BUSY_POLL_SECONDS) if self._learner.busy else poll_seconds
                )
            self._settle()
            self._begin_snapshot()
            self._settle()
            self._publisher.end_snapshot()
            learned = self.core.learned
            outcomes = self.outcomes.finish(learned - before, "learned", ever=learned, ended=loop.ended)
            self._publisher.publish(self.core, loop.now(), self._saver.created_ms, now=True)
            self.checkpoint()
        return Summary(
            self._order.emitted,
            learned,
            learned - before,
            time.monotonic() - began,
            self.checkpoint_path,
            outcomes,
        )

    def checkpoint(self) -> None:
        """Write the state of everything applied so far, and wait until it is durable.

        Raises:
            OSError: the file system failed; earlier checkpoints are untouched.
            LogError: the log did not acknowledge dead letters, so their offsets must not be saved.
        """
        self._saver.now()

    def _apply(self, ordered: list[OrderedEntry]) -> None:
        """Apply entries, and queue the resulting events for the learner."""
        applied = self.core.pipeline.apply(ordered)
        self.outcomes.count(ordered, applied.rejected)
        self._learner.give(applied)
        self._collect()

    def _collect(self, *, wait: bool = False) -> None:
        """Process the learner's results; with ``wait``, wait until everything is learned."""
        for step in self._learner.completed(wait=wait):
            if isinstance(step, FrozenWeights):
                self._publisher.write_snapshot(self.core, step.state)
                continue
            for entry, reason in step.rejected:
                self._dead_letters.add(entry, reason)
            self._publisher.count(step)
            self._on_step(step)

    def _settle(self) -> None:
        """Bring pipeline, learner and metrics to one position."""
        self._collect(wait=True)

    def _settle_and_flush(self) -> None:
        """Bring the state to one position, and write the dead letters of the entries before it to the log."""
        self._settle()
        self._outbox.flush()

    def _begin_snapshot(self) -> None:
        """Begin a snapshot of everything applied so far; it is written once that is learned."""
        if self._publisher.begin_snapshot(self.core):
            self._learner.freeze_weights()


def _load_warm_start(core: Core, warm: WarmStart | None, expected: dict[str, Any]) -> None:
    """Load weights, vocabulary and counts of another run into a new one, if ``warm`` names it."""
    if warm is not None:
        states = load_warm_start(warm, expected)
        core.pipeline.key_encoder.load_state(states["keys"])
        core.pipeline.tables.load_state(states["tables"])
        core.learner.load_state(states["learner"])
