"""The watcher's state, and the settings that it must match to be resumed."""

from __future__ import annotations

from typing import Any

from stream_ctr.config.settings import Settings
from stream_ctr.config.watch import ADDED
from stream_ctr.daemon.identity import difference, order_identity
from stream_ctr.errors import StateError
from stream_ctr.experiments.watcher.experiment import Experiment
from stream_ctr.experiments.watcher.experiment_state import declaration
from stream_ctr.experiments.watcher.pipeline import WatchPipeline, check_labelled, settling
from stream_ctr.pipeline.join_stage import JoinStage
from stream_ctr.pipeline.joining.joiner import Joiner
from stream_ctr.pipeline.joining.segments import SegmentFolder
from stream_ctr.pipeline.labelled_stage import LabelledStage
from stream_ctr.pipeline.stage import Stage
from stream_ctr.state.frozen import FrozenState
from stream_ctr.state.state import State


class WatchCore:
    """Pipeline and experiment of a watcher.

    Raises:
        ConfigError: the experiment cannot be watched.
    """

    def __init__(self, settings: Settings, partitions: int, segments: SegmentFolder) -> None:
        self._settings = settings
        self.earlier = ""
        """Salt of the experiment in the loaded state, if it is another experiment; else empty."""
        log, timing = settings.log, Joiner(settings.join)
        stage: JoinStage | LabelledStage
        if settings.join.input == "labelled":
            check_labelled(settings.join)
            stage = LabelledStage(log.labelled, partitions)
            # The records carry the end of the window; the joining process already waited for grace_seconds.
            settling_ms = timing.window_ms
        else:
            join = settling(settings.join)
            stage = JoinStage(join, log.impressions, log.clicks, partitions, segments)
            settling_ms = timing.settling_ms
        self.experiment = Experiment(settings.experiment, settings.watch, settling_ms)
        self.pipeline = WatchPipeline(self.experiment, stage, timing.window_ms)

    @property
    def stage(self) -> Stage:
        """The pipeline's stage, which knows the position in the log."""
        return self.pipeline.stage

    @property
    def unfinished(self) -> bool:
        """Whether the end of the log would settle a label or close a window of the experiment."""
        return bool(self.stage.open_impressions or self.experiment.open_windows())

    def freeze(self) -> dict[str, FrozenState]:
        """The complete state, to be written in another thread."""
        return {"join": self.pipeline.freeze(), "experiment": FrozenState.of(self.experiment)}

    def load_parts(self, parts: dict[str, State]) -> None:
        """Load a saved state; with a new salt, the experiment's sums start at zero.

        Raises:
            StateError: it is damaged, or the same experiment was declared with other settings.
        """
        self.pipeline.load_state(parts["join"])
        saved = parts["experiment"].values.get("noted")
        before: Any = saved.get("declared") if isinstance(saved, dict) else None
        if not isinstance(before, dict):
            raise StateError("the saved experiment is damaged: its declaration is missing")
        now = declaration(self._settings.experiment, self._settings.watch)
        if before.get("salt") != now["salt"]:
            self.earlier = str(before.get("salt"))
            self.experiment.noted.first_number = self.pipeline.outcomes["impressions"]
            return
        for name in ADDED:
            if name not in before:  # an earlier version did not declare it: see Experiment.load_state
                now.pop(name)
        found = difference(before, now)
        if found:
            path, there, here = found
            raise StateError(
                f"experiment {now['experiment']!r} under salt {now['salt']!r} was declared with {path} = "
                f"{there!r}, the configuration has {here!r}: a declaration cannot change once users are "
                "assigned. Restore it, or start a new experiment with a new experiment.salt"
            )
        self.experiment.load_state(parts["experiment"])


def watch_identity(settings: Settings) -> dict[str, Any]:
    """The settings that determine the watcher's state, apart from the experiment's declaration."""
    join = {name: getattr(settings.join, name) for name in ("input", "window_seconds", "horizon_seconds")}
    topics = {"impressions": settings.log.impressions, "clicks": settings.log.clicks}
    if settings.join.input == "labelled":
        topics = {"labelled": settings.log.labelled}
    return {"watch": join, "order": order_identity(settings), "topics": topics}
