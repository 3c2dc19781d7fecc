"""The watcher's process: poll, order, join, add up; state and exactness are by the trainer's own means."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from threading import Event

from stream_ctr.config.experiment import FOLDER
from stream_ctr.config.settings import Settings
from stream_ctr.daemon.intake import Intake
from stream_ctr.daemon.resume import find_place, input_topics
from stream_ctr.daemon.run_outcomes import RunOutcomes
from stream_ctr.daemon.run_report import RunReport
from stream_ctr.daemon.saver import InlineSaver
from stream_ctr.daemon.state_folder import open_state
from stream_ctr.errors import PartitionsAddedError
from stream_ctr.events.log import EventLog
from stream_ctr.experiments.report.model import Progress, Report
from stream_ctr.experiments.watcher.core import WatchCore, watch_identity
from stream_ctr.experiments.watcher.output import WatchOutput
from stream_ctr.pipeline.ordering.entry import OrderedEntry
from stream_ctr.reporting.progress import Reporter
from stream_ctr.state.durable_files import Files


class Watcher:
    """Reads impressions and clicks, and keeps the experiment's figures.

    Malformed records are counted only: the trainers write them to the dead letters.

    Args:
        settings: the configuration.
        log: the open event log; the caller closes it.
        reporter: where progress goes.
        files: file operations of checkpoints and journal.
        skip_lost: go on behind entries that the log no longer holds, instead of refusing to start.
        on_step: called after every chunk, for observers.

    Raises:
        StreamCTRError: the state or the log cannot be gone on with; nothing was changed.
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
        self.core, self._order = self._opening.core, self._opening.order
        self.output = WatchOutput(settings, self.folder)
        if self.core.earlier:
            self.output.archive(self.core.earlier)
            reporter.say("new-experiment", salt=settings.experiment.salt, before=self.core.earlier)
        self.outcomes = RunOutcomes(settings, self.core.pipeline, reporter, keeps_letters=False)
        self._report_due = 0.0
        self._saver = InlineSaver(self._opening, reporter, settings.train.checkpoint_seconds)
        self._opening.tell(reporter, resumed={"applied": self.core.pipeline.applied})
        if self._opening.moved or self.core.earlier:
            self.checkpoint()
        self._write(Progress(open_impressions=self.core.pipeline.open_impressions))

    def run(
        self,
        stop: Event,
        until_idle: float | None = None,
        changed: Callable[[], bool] = lambda: False,
    ) -> tuple[Report, RunReport]:
        """Watch until told to stop or, with ``until_idle``, until the log has been silent that long.

        Also until ``changed``, which is asked at every report, says that the configuration is another.
        The last acts are a checkpoint and a report, which is returned together with what this run read,
        counted and lost.

        Raises:
            StreamCTRError: the log cannot be read on, or holds something else than what was read.
        """
        # The report must not wait for the log: it shows how far behind the watcher is.
        patience_seconds = min(self._settings.train.poll_seconds, self._settings.watch.report_seconds)
        ended, before = False, self._counted()
        with closing(Intake(self._log, self._opening, self._settings)) as intake:
            while not stop.is_set():
                self._read(intake, patience_seconds)
                ordered = intake.ordered()
                self._apply(ordered)
                self.outcomes.look()
                if time.monotonic() >= self._report_due:
                    self._report(intake)
                    if changed():
                        break
                self._saver.when_due()
                if not ordered and intake.ended(until_idle):
                    self._finish()
                    ended = True
                    break
            self.checkpoint()
            counted = self._counted()
            excluded = self.core.experiment.noted.excluded
            outcomes = self.outcomes.finish(
                counted - before,
                "counted",
                ever=counted,
                ended=ended,
                left_out=", ".join(f"{n:,} are excluded as {why}" for why, n in excluded.items() if n),
            )
            return self._report(intake), outcomes

    def _read(self, intake: Intake, patience_seconds: float) -> None:
        try:
            intake.read(patience_seconds)
        except PartitionsAddedError:
            self.checkpoint()
            raise

    def checkpoint(self) -> None:
        """Write the state of everything applied so far.

        Raises:
            OSError: the file system refuses; the checkpoints before are untouched.
        """
        self._saver.now()

    def _apply(self, ordered: list[OrderedEntry]) -> None:
        if ordered:
            self.outcomes.count(ordered, self.core.pipeline.watch(ordered))
            self._on_step()

    def _counted(self) -> int:
        """Impressions in the experiment's sums so far."""
        return int(self.core.experiment.sums.impressions.sum())

    def _finish(self) -> None:
        """Take the log as ended: what waits is applied, open windows are closed."""
        if self._order.buffered or self.core.pipeline.open_impressions or self.core.experiment.open_windows():
            self._apply(self._order.finish())

    def _report(self, intake: Intake) -> Report:
        """Write the report and show it; a disk that refuses it must not end the watching."""
        self._report_due = time.monotonic() + self._settings.watch.report_seconds
        pipeline, ends = self.core.pipeline, intake.end_offsets()
        progress = Progress(
            lag_entries=sum(max(0, ends[tp] - at) for tp, at in pipeline.positions().items()),
            open_impressions=pipeline.open_impressions,
            log_up=intake.healthy,
        )
        report = self._write(progress)
        self._reporter.progress(
            applied=pipeline.applied,
            closed_windows=len(self.core.experiment.noted.ends),
            lag=progress.lag_entries,
            open_impressions=progress.open_impressions,
            **self.outcomes.progress(),
            log="ok" if intake.healthy else "unavailable",
        )
        return report

    def _write(self, progress: Progress) -> Report:
        now_ms, watermark_ms = time.time_ns() // 1_000_000, self.core.pipeline.watermark_ms
        progress.outcomes = self.core.pipeline.outcomes
        if watermark_ms:
            progress.watermark_ms = watermark_ms
            progress.behind_seconds = max(0.0, (now_ms - watermark_ms) / 1000.0)
        report, refusal = self.output.write(self.core.experiment, progress, now_ms)
        if refusal:
            self._reporter.say("report-not-written", reason=refusal)
        return report
