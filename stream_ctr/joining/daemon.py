"""The joining process: applies the chunks of the daemon's loop and appends the labelled records.

It has the trainer's state handling and exactly-once guarantee.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from threading import Event
from typing import Any

from stream_ctr.config.settings import Settings
from stream_ctr.daemon.identity import order_identity
from stream_ctr.daemon.loop import Chunk, DaemonLoop
from stream_ctr.daemon.outbox import Outbox
from stream_ctr.daemon.resume import find_place
from stream_ctr.daemon.run_outcomes import RunOutcomes
from stream_ctr.daemon.run_report import RunReport
from stream_ctr.daemon.saver import Saver
from stream_ctr.daemon.state_folder import open_state
from stream_ctr.errors import ConfigError, LogError, StateError
from stream_ctr.events.dead_letters import DeadLetters
from stream_ctr.events.log import EventLog
from stream_ctr.joining.output import JoinOutput
from stream_ctr.joining.pipeline import JoinPipeline
from stream_ctr.monitoring.http_server import MetricsServer
from stream_ctr.monitoring.loss_metrics import JOIN_PREFIX, LossMetrics
from stream_ctr.pipeline.joining.segments import SegmentFolder
from stream_ctr.pipeline.ordering.entry import OrderedEntry
from stream_ctr.pipeline.stage import Stage
from stream_ctr.reporting.progress import Reporter
from stream_ctr.state.durable_files import Files
from stream_ctr.state.frozen import FrozenState
from stream_ctr.state.state import State

FOLDER = "join"
"""Folder of the joining process in the state folder, next to those of the arms."""


class JoinCore:
    """The state of the joining process."""

    def __init__(self, settings: Settings, partitions: int, segments: SegmentFolder) -> None:
        self.pipeline = JoinPipeline(
            settings.join, settings.log.impressions, settings.log.clicks, partitions, segments
        )

    @property
    def stage(self) -> Stage:
        """The pipeline's stage, which knows the position in the log."""
        return self.pipeline.stage

    @property
    def unfinished(self) -> bool:
        """Whether impressions wait for a label that the end of the log would settle."""
        return self.stage.open_impressions > 0

    def freeze(self) -> dict[str, FrozenState]:
        """The complete state, to be written in another thread."""
        return {"join": self.pipeline.freeze()}

    def load_parts(self, parts: dict[str, State]) -> None:
        """Load a saved state.

        Raises:
            StateError: it is damaged, or belongs to other topics or partitions.
        """
        self.pipeline.load_state(parts["join"])


class JoinDaemon:
    """Reads impressions and clicks, and writes the labelled topic.

    Args:
        settings: the configuration.
        log: the open event log; the caller closes it.
        reporter: reports progress.
        files: file operations of checkpoints and journal.
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
        on_step: Callable[[], None] = lambda: None,
    ) -> None:
        self._settings, self._log, self._reporter, self._on_step = settings, log, reporter, on_step
        topics = (settings.log.impressions, settings.log.clicks)
        place = find_place(log, topics)
        self._ensure_labelled(place.partitions)
        log.ensure_topic(settings.log.dead_letters, place.partitions)
        self._dead_letters = DeadLetters(log, settings.log.dead_letters)
        self._opening = open_state(
            settings,
            join_folder(settings),
            log,
            place,
            _identity(settings, log),
            lambda segments: JoinCore(settings, place.partitions, segments),
            files,
        )
        self.core = self._opening.core
        self.output = JoinOutput(log, settings.log.labelled)
        self._check_output()
        self._outcomes = RunOutcomes(settings, self.core.pipeline, reporter)
        self._metrics = LossMetrics(JOIN_PREFIX)
        self._healthy = False
        self._outbox = Outbox(reporter, self._dead_letters, self.output)
        seconds = settings.train.checkpoint_seconds
        self._saver = Saver(self._opening, reporter, seconds, self._flush)
        self._opening.report(reporter, resumed={"applied": self.core.stage.progress.applied})
        if self._opening.unsaved:
            self.checkpoint()

    def _ensure_labelled(self, partitions: int) -> None:
        """Create the topic of labelled records with as many partitions as the input topics."""
        topic = self._settings.log.labelled
        there = self._log.ensure_topic(topic, partitions)
        if there != partitions:
            raise LogError(
                f"{self._log.url}: topic {topic!r} has {there} partitions, the input topics have "
                f"{partitions}; the numbers must be equal. Set log.labelled to a new topic and train.state "
                "to a new folder"
            )

    def _check_output(self) -> None:
        """Check that the topic holds everything that the state has written, and nothing for a new state."""
        topic, folder = self._settings.log.labelled, self._opening.folder
        for partition, following in enumerate(self.core.pipeline.sequences):
            last = self.output.last[partition]
            if self._opening.loaded is None and last >= 0:
                raise StateError(
                    f"{folder} has no state, but topic {topic!r} already has labelled records of another "
                    "joining process. Restore its state, or set log.labelled to a new topic"
                )
            if last < following - 1:
                raise StateError(
                    f"{folder} wrote topic {topic!r} partition {partition} up to sequence {following - 1}, "
                    f"the topic ends with {last}: labelled records were lost. Restore the topic, or set "
                    "log.labelled to a new topic and train.state to a new folder"
                )

    def run(self, stop: Event, until_idle: float | None = None) -> RunReport:
        """Join until ``stop`` is set or, with ``until_idle``, the log has been silent for that many seconds.

        Returns the counts of records read, written and lost.

        Raises:
            PartitionsAddedError: a topic has more partitions than at the start; a checkpoint was written.
            StreamCTRError: the log cannot be read, or was replaced by another log.
        """
        before = sum(self.core.pipeline.sequences)
        loop = DaemonLoop(self._settings, self._log, self._opening, self._saver, self._outbox, self._outcomes)
        with ExitStack() as stack:
            stack.enter_context(loop)
            self._serve(stack)
            for chunk in loop.chunks(stop, until_idle):
                if chunk.ordered:
                    self._apply(chunk.ordered)
                self._publish(chunk)
            self.checkpoint()
        written = sum(self.core.pipeline.sequences)
        return self._outcomes.finish(written - before, "written", ever=written, ended=loop.ended)

    def _serve(self, stack: ExitStack) -> None:
        """Serve /metrics and /health until ``stack`` closes, if a port is configured.

        Raises:
            StreamCTRError: the port cannot be listened on.
        """
        host, port = self._settings.train.metrics_host, self._settings.train.join_metrics_port
        if port < 0:
            return
        names = ("train.metrics_host", "train.join_metrics_port")

        def ready() -> str | None:
            return None if self._healthy else "log unavailable; retrying"

        server = MetricsServer(host, port, self._metrics, ready, settings=names)
        stack.callback(server.close)
        self._reporter.say("metrics", url=f"http://{server.host}:{server.port}/metrics")

    def checkpoint(self) -> None:
        """Write the pending records to the log, then a checkpoint.

        Raises:
            OSError: the file system failed; earlier checkpoints are untouched.
            LogError: the log did not acknowledge the pending records.
        """
        self._saver.now()

    def _flush(self) -> None:
        """Write every record whose source lies before the offsets of the next checkpoint to the log.

        Raises:
            LogError: the log did not acknowledge the records.
            StateError: the labelled topic was recreated.
        """
        self._outbox.flush()
        topic = self._settings.log.labelled
        before, now = self._opening.identity["labelled_topic_id"], self._log.topic_id(topic)
        if now != before:
            raise StateError(
                f"topic {topic!r} was deleted and created again while it was written (id {before}, "
                f"now {now}): labelled records were lost. Set log.labelled to a new topic and train.state to "
                "a new folder"
            )

    def _apply(self, ordered: list[OrderedEntry]) -> None:
        joined = self.core.pipeline.apply(ordered)
        self._outcomes.count(ordered, joined.rejected)
        self.output.add(joined.records)
        for entry, reason in joined.rejected:
            self._dead_letters.add(entry, reason)
        self._on_step()

    def _publish(self, chunk: Chunk) -> None:
        stage, self._healthy = self.core.stage, chunk.healthy
        self._metrics.publish(self._outcomes.numbers())
        self._reporter.progress(
            applied=stage.progress.applied,
            labelled=self.output.written,
            open_impressions=stage.open_impressions,
            lag=chunk.lag(stage.progress.positions()),
            **self._outcomes.progress(),
            log="ok" if chunk.healthy else "unavailable",
        )


def _identity(settings: Settings, log: EventLog) -> dict[str, Any]:
    """The settings that determine the state of the joining process."""
    names = ("policy", "release", "window_seconds", "horizon_seconds")
    topics = ("impressions", "clicks", "labelled")
    return {
        "join": {name: getattr(settings.join, name) for name in names},
        "order": order_identity(settings),
        "topics": {name: getattr(settings.log, name) for name in topics},
        "labelled_topic_id": log.topic_id(settings.log.labelled),
    }


def join_folder(settings: Settings) -> Path:
    """State folder of the joining process.

    Raises:
        ConfigError: an arm has the same name and so the same folder.
    """
    if any(arm.name == FOLDER for arm in settings.experiment.arms):
        raise ConfigError(f"arm name {FOLDER!r} is reserved for the joining process; rename the arm")
    return Path(settings.train.state) / FOLDER
