"""The watcher's state as a checkpoint holds it, and which of it goes on under which configuration."""

from __future__ import annotations

from typing import Any

from stream_ctr.config.settings import Settings
from stream_ctr.config.watch import ADDED
from stream_ctr.daemon.identity import difference, order_identity
from stream_ctr.errors import StateError
from stream_ctr.experiments.watcher.experiment import Experiment
from stream_ctr.experiments.watcher.experiment_state import declaration
from stream_ctr.experiments.watcher.pipeline import LabelledWatchPipeline, Watching, WatchPipeline
from stream_ctr.pipeline.joining.joiner import Joiner
from stream_ctr.pipeline.joining.segments import SegmentFolder
from stream_ctr.state.state import State


class WatchCore:
    """Pipeline and experiment.

    Raises:
        ConfigError: the experiment cannot be watched.
    """

    def __init__(self, settings: Settings, partitions: int, segments: SegmentFolder) -> None:
        self._settings = settings
        self.earlier = ""
        """Salt of the experiment that the loaded state was of, if this is another one."""
        labelled = settings.join.input == "labelled"
        joiner = Joiner(settings.join)
        # The records of a labelled topic carry the end of the window; the process that wrote them waited.
        settling_ms = joiner.window_ms if labelled else joiner.settling_ms
        self.experiment = Experiment(settings.experiment, settings.watch, settling_ms)
        self.pipeline: Watching
        if labelled:
            self.pipeline = LabelledWatchPipeline(
                self.experiment, settings.join, settings.log.labelled, partitions
            )
        else:
            self.pipeline = WatchPipeline(
                self.experiment,
                settings.join,
                settings.log.impressions,
                settings.log.clicks,
                partitions,
                segments,
            )

    def parts(self) -> dict[str, State]:
        """Everything that decides what comes next."""
        return {"join": self.pipeline.state(), "experiment": self.experiment.state()}

    def load_parts(self, parts: dict[str, State]) -> None:
        """Become the core that handed out ``parts``; a new salt begins with empty sums.

        Raises:
            StateError: it is damaged, or of the same experiment under another declaration.
        """
        self.pipeline.load_state(parts["join"])
        saved = parts["experiment"].values.get("noted")
        before: Any = saved.get("declared") if isinstance(saved, dict) else None
        if not isinstance(before, dict):
            raise StateError("saved experiment is damaged: what was declared is missing")
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
                f"{there!r}, the configuration has {here!r}: what is declared cannot change once users were "
                "assigned. Restore it, or begin a new experiment with a new experiment.salt"
            )
        self.experiment.load_state(parts["experiment"])


def watch_identity(settings: Settings) -> dict[str, Any]:
    """What a checkpoint of the watcher and a configuration must agree on, whatever the experiment."""
    join = {name: getattr(settings.join, name) for name in ("input", "window_seconds", "horizon_seconds")}
    topics = {"impressions": settings.log.impressions, "clicks": settings.log.clicks}
    if settings.join.input == "labelled":
        topics = {"labelled": settings.log.labelled}
    return {"watch": join, "order": order_identity(settings), "topics": topics}
