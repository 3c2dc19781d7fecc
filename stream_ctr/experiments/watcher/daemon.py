"""The watcher: applies the chunks of the daemon's loop and writes the experiment's report.

It has the trainer's state handling and exactly-once guarantee.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from threading import Event

from stream_ctr.config.experiment import FOLDER
from stream_ctr.config.settings import Settings
from stream_ctr.daemon.loop import Chunk, DaemonLoop
from stream_ctr.daemon.outbox import Outbox
from stream_ctr.daemon.resume import find_place, input_topics
from stream_ctr.daemon.run_outcomes import RunOutcomes
from stream_ctr.daemon.run_report import RunReport
from stream_ctr.daemon.saver import Saver
from stream_ctr.daemon.state_folder import open_state
from stream_ctr.events.log import EventLog
from stream_ctr.experiments.report.model import Progress, Report
from stream_ctr.experiments.watcher.core import WatchCore, watch_identity
from stream_ctr.experiments.watcher.output import WatchOutput
from stream_ctr.pipeline.ordering.entry import OrderedEntry
from stream_ctr.reporting.progress import Reporter
from stream_ctr.state.durable_files import Files


class Watcher:
    """Reads impressions and clicks, and computes the experiment's metrics.

    Malformed records are only counted; the trainers write them to the dead letters.

    Args:
        settings: the configuration.
        log: the open event log; the caller closes it.
        reporter: reports progress.
        files: file operations of checkpoints and journal.
        skip_lost: continue past entries that retention has deleted, counting them as skipped.
        on_step: called after every chunk, for observers.

    Raises:
        StreamCTRError: the checkpoint or the log cannot be resumed; nothing was changed.
    """

    def __init__(
        self,
        settings: Settings,
        log: EventLog,
        reporter: Reporter,
        *,
        files: Files | None = None,
        skip_lost: bool = False,
        on_step: Callable[[], None] = lambda: None,
    ) -> None:
        self._settings, self._log, self._reporter, self._on_step = settings, log, reporter, on_step
        self.folder = Path(settings.train.state) / FOLDER
        place = find_place(log, input_topics(settings))
        self._opening = open_state(
            settings,
            self.folder,
            log,
            place,
            watch_identity(settings),
            lambda segments: WatchCore(settings, place.partitions, segments),
            files,
            skip_lost=skip_lost,
        )
        self.core = self._opening.core
        self.output = WatchOutput(settings, self.folder)
        if self.core.earlier:
            self.output.archive(self.core.earlier)
            reporter.say("new-experiment", salt=settings.experiment.salt, before=self.core.earlier)
        self.outcomes = RunOutcomes(settings, self.core.pipeline, reporter, keeps_letters=False)
        self._report_due = 0.0
        self._saver = Saver(self._opening, reporter, settings.train.checkpoint_seconds)
        self._opening.report(reporter, resumed={"applied": self.core.stage.progress.applied})
        if self._opening.unsaved or self.core.earlier:
            self.checkpoint()
        self._write(Progress(open_impressions=self.core.stage.open_impressions))

    def run(
        self,
        stop: Event,
        until_idle: float | None = None,
        changed: Callable[[], bool] = lambda: False,
    ) -> tuple[Report, RunReport]:
        """Watch until ``stop`` is set or, with ``until_idle``, the log has been silent for that many seconds.

        Also stops if ``changed``, which is called at every report, returns True: the configuration has
        changed. At the end a checkpoint and a report are written. Returns that report and the outcome of this
        run.

        Raises:
            PartitionsAddedError: a topic has more partitions than at the start; a checkpoint was written.
            StreamCTRError: the log cannot be read, or was replaced by another log.
        """
        before = self._counted()
        outbox = Outbox(self._reporter)  # the watcher writes nothing to the log
        loop = DaemonLoop(self._settings, self._log, self._opening, self._saver, outbox, self.outcomes)
        # The report must not wait for the log, because it shows how far the watcher is behind.
        loop.patience_seconds = min(self._settings.train.poll_seconds, self._settings.watch.report_seconds)
        with loop:
            for chunk in loop.chunks(stop, until_idle):
                if chunk.ordered:
                    self._apply(chunk.ordered)
                if time.monotonic() >= self._report_due:
                    self._report(chunk)
                    if changed():
                        break
            self.checkpoint()
            counted = self._counted()
            excluded = self.core.experiment.noted.excluded
            outcomes = self.outcomes.finish(
                counted - before,
                "counted",
                ever=counted,
                ended=loop.ended,
                left_out=", ".join(f"{n:,} are excluded as {why}" for why, n in excluded.items() if n),
            )
            return self._report(loop.now()), outcomes

    def checkpoint(self) -> None:
        """Write the state of everything applied so far.

        Raises:
            OSError: the file system failed; earlier checkpoints are untouched.
        """
        self._saver.now()

    def _apply(self, ordered: list[OrderedEntry]) -> None:
        self.outcomes.count(ordered, self.core.pipeline.apply(ordered))
        self._on_step()

    def _counted(self) -> int:
        """Impressions in the experiment's sums so far."""
        return int(self.core.experiment.sums.impressions.sum())

    def _report(self, chunk: Chunk) -> Report:
        """Write the report, and update the progress line."""
        self._report_due = time.monotonic() + self._settings.watch.report_seconds
        stage = self.core.stage
        progress = Progress(
            lag_entries=chunk.lag(stage.progress.positions()),
            open_impressions=stage.open_impressions,
            log_up=chunk.healthy,
        )
        report = self._write(progress)
        self._reporter.progress(
            applied=stage.progress.applied,
            closed_windows=len(self.core.experiment.noted.ends),
            lag=progress.lag_entries,
            open_impressions=progress.open_impressions,
            **self.outcomes.progress(),
            log="ok" if chunk.healthy else "unavailable",
        )
        return report

    def _write(self, progress: Progress) -> Report:
        now_ms, watermark_ms = time.time_ns() // 1_000_000, self.core.stage.watermark_ms
        progress.outcomes = self.core.pipeline.outcomes
        if watermark_ms:
            progress.watermark_ms = watermark_ms
            progress.behind_seconds = max(0.0, (now_ms - watermark_ms) / 1000.0)
        report, refusal = self.output.write(self.core.experiment, progress, now_ms)
        if refusal:
            self._reporter.say("report-not-written", reason=refusal)
        return report
