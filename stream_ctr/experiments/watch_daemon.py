"""The watcher's process: poll, order, join, add up; state and exactness are by the trainer's own means."""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from threading import Event

from stream_ctr.config import Settings
from stream_ctr.errors import StateError
from stream_ctr.events.log import EventLog, LogReader
from stream_ctr.experiments.report_model import Progress, Report
from stream_ctr.experiments.shared import FOLDER
from stream_ctr.experiments.watch_core import WatchCore, watch_identity
from stream_ctr.experiments.watch_output import WatchOutput
from stream_ctr.files import Files
from stream_ctr.pipeline.journal import FileJournal
from stream_ctr.pipeline.labelled import LabelledDecoder
from stream_ctr.pipeline.order import Order
from stream_ctr.pipeline.ordered import OrderedEntry
from stream_ctr.pipeline.segments import SegmentFolder
from stream_ctr.training.checkpoint import SEGMENTS, CheckpointStore
from stream_ctr.training.idle import IdleClock
from stream_ctr.training.report import Reporter
from stream_ctr.training.start import find_place, input_topics, resume, skipped_entries

BUFFERED_CHUNKS = 64
"""Chunks of entries read ahead of the order before only the partitions that hold it up are read."""
POLL_CHUNKS = 4
JOURNAL_SECONDS = 5.0
"""Silence after which a decision of the journal that is still ahead can no longer be reached."""


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
        self.folder.mkdir(parents=True, exist_ok=True)
        topics = input_topics(settings)
        self._place = find_place(log, topics)
        self._identity = watch_identity(settings)
        self._store = CheckpointStore(
            self.folder / "checkpoints", settings.train.checkpoints_kept, files or Files()
        )
        segments = SegmentFolder(self._store.folder / SEGMENTS, files)
        self.core, loaded = resume(
            self._store,
            lambda: WatchCore(settings, self._place.partitions, segments),
            self._identity,
            log,
            self._place,
            skip_lost=skip_lost,
        )
        self._journal = FileJournal(self.folder / "journal", files)
        lost = skipped_entries(self.core, loaded)
        if lost:
            self._journal.cut(self.core.pipeline.applied)
        labelled = settings.join.input == "labelled"
        self._order = Order(
            topics,
            self.core.pipeline.order_state(),
            self._journal,
            settings.order.max_ahead_seconds,
            settings.order.max_lead_seconds,
            None,
            LabelledDecoder(settings.order.max_ahead_seconds) if labelled else None,
        )
        self.output = WatchOutput(settings, self.folder)
        if self.core.earlier:
            self.output.archive(self.core.earlier)
            reporter.say("new-experiment", salt=settings.experiment.salt, before=self.core.earlier)
        self.rejected = 0
        """Entries of this run that were no usable records."""
        self._checkpoint_due = time.monotonic() + settings.train.checkpoint_seconds
        self._report_due = 0.0
        if loaded is None:
            reporter.say("new", state=str(self.folder))
        else:
            for reason in loaded.damaged:
                reporter.say("damaged", checkpoint=reason)
            checkpoint = str(self._store.path(loaded.manifest.version))
            reporter.say("resumed", checkpoint=checkpoint, applied=self.core.pipeline.applied)
        if lost:
            reporter.say("skipped", entries=lost, reason="the log no longer holds them")
        if loaded is None or lost or self.core.earlier:
            self.checkpoint()
        self._write(Progress(open_impressions=self.core.pipeline.open_impressions))

    def run(
        self,
        stop: Event,
        until_idle: float | None = None,
        changed: Callable[[], bool] = lambda: False,
    ) -> Report:
        """Watch until told to stop or, with ``until_idle``, until the log has been silent that long.

        Also until ``changed``, which is asked at every report, says that the configuration is another.
        The last acts are a checkpoint and a report, which is returned.

        Raises:
            StreamCTRError: the log cannot be read on, or holds something else than what was read.
        """
        reader = self._log.reader(self.core.pipeline.positions())
        clock = IdleClock(self._settings.order.idle_seconds)
        try:
            while not stop.is_set():
                if self._read(reader):
                    clock.heard()
                positions, ends = reader.positions(), reader.end_offsets()
                waiting = self._order.waiting_for() if reader.healthy else []
                self._order.idle(clock.quiet(waiting, positions, ends))
                ordered = self._order.emit(self._settings.train.chunk)
                self._apply(ordered)
                if time.monotonic() >= self._report_due:
                    self._report(reader)
                    if changed():
                        break
                if time.monotonic() >= self._checkpoint_due:
                    self._timed_checkpoint()
                if ordered or not reader.healthy:
                    continue
                silent_seconds = clock.silent_seconds(positions, ends)
                if self._order.replaying:
                    self._refuse_journal_ahead(silent_seconds)
                elif until_idle is not None and silent_seconds >= until_idle:
                    self._finish()
                    break
            self.checkpoint()
            return self._report(reader)
        finally:
            reader.close()

    def checkpoint(self) -> None:
        """Write the state of everything applied so far.

        Raises:
            OSError: the file system refuses; the checkpoints before are untouched.
        """
        pipeline = self.core.pipeline
        self._store.save(
            self.core.parts(),
            created_ms=time.time_ns() // 1_000_000,
            software=f"stream-ctr {version('stream-ctr')}",
            identity=self._identity,
            log=self._place.as_json(self._log.url),
            positions=[(*tp, offset) for tp, offset in sorted(pipeline.positions().items())],
            emitted=pipeline.order_state().emitted,
            segments=pipeline.joiner.segments(),
        )
        self._journal.trim(self._store.oldest_emitted())

    def _read(self, reader: LogReader) -> bool:
        """Put what comes next in line; ahead of the order only so far, beyond it only what it lacks."""
        chunk, blocking = self._settings.train.chunk, self._order.waiting_for()
        if self._order.buffered >= chunk and not blocking:
            return False
        crowded = self._order.buffered > BUFFERED_CHUNKS * chunk
        certain = self._order.buffered > 0 and not blocking
        # The report must not wait for the log: it shows how far behind the watcher is.
        patience_seconds = min(self._settings.train.poll_seconds, self._settings.watch.report_seconds)
        wait_seconds = 0.0 if certain else patience_seconds
        entries = reader.poll(POLL_CHUNKS * chunk, wait_seconds, blocking if crowded else None)
        self._order.add(entries)
        return bool(entries)

    def _apply(self, ordered: list[OrderedEntry]) -> None:
        if ordered:
            self.rejected += self.core.pipeline.watch(ordered)
            self._on_step()

    def _finish(self) -> None:
        """Take the log as ended: what waits is applied, open windows are closed."""
        if self._order.buffered or self.core.pipeline.open_impressions or self.core.experiment.open_windows():
            self._apply(self._order.finish())

    def _report(self, reader: LogReader) -> Report:
        """Write the report and show it; a disk that refuses it must not end the watching."""
        self._report_due = time.monotonic() + self._settings.watch.report_seconds
        pipeline, ends = self.core.pipeline, reader.end_offsets()
        progress = Progress(
            lag_entries=sum(max(0, ends[tp] - at) for tp, at in pipeline.positions().items()),
            open_impressions=pipeline.open_impressions,
            log_up=reader.healthy,
        )
        report = self._write(progress)
        self._reporter.progress(
            applied=pipeline.applied,
            closed_windows=len(self.core.experiment.noted.ends),
            lag=progress.lag_entries,
            open_impressions=progress.open_impressions,
            log="well" if reader.healthy else "away",
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

    def _timed_checkpoint(self) -> None:
        """A checkpoint that may fail: watching goes on, and it is tried again."""
        seconds = self._settings.train.checkpoint_seconds
        self._checkpoint_due = time.monotonic() + seconds
        try:
            self.checkpoint()
        except OSError as error:
            self._checkpoint_due = time.monotonic() + min(5.0, seconds)
            self._reporter.say("checkpoint-failed", reason=str(error))

    def _refuse_journal_ahead(self, silent_seconds: float) -> None:
        if silent_seconds >= JOURNAL_SECONDS:
            raise StateError(
                f"{self._journal}: holds a decision beyond entry {self._order.emitted} of the order, and the "
                "log holds no more entries: one of the two is not of this run. Restore it, or start a new "
                "state folder"
            )
