"""The predictors of all arms, replaced by newer ones while the server runs."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from stream_ctr.config.experiment import ArmConfig, ExperimentConfig
from stream_ctr.errors import StateError
from stream_ctr.predictors.predictor import Predictor
from stream_ctr.predictors.reader import SnapshotReader, open_fixed
from stream_ctr.predictors.snapshot import LoadedSnapshot
from stream_ctr.serving.metrics import ServeMetrics
from stream_ctr.serving.routing.plan import Plan

logger = logging.getLogger("stream_ctr.serving")

SNAPSHOTS = "snapshots"
"""Folder of the snapshots in an arm's state folder."""


class View(NamedTuple):
    """A consistent view for one request: one experiment, and one snapshot of each arm."""

    plan: Plan
    predictors: Mapping[str, Predictor]


class Source:
    """Source of one arm's predictors: the snapshots of its trainer, or one fixed snapshot."""

    def __init__(self, arm: ArmConfig, state_folder: Path) -> None:
        """Raises StateError: the arm is frozen and its snapshot cannot be used."""
        self.config = arm
        self.frozen = bool(arm.snapshot)
        self.reader = SnapshotReader(state_folder / arm.name / SNAPSHOTS, self._accept)
        self._accepted: Predictor | None = None
        """Predictor of the snapshot that was accepted last."""
        self.predictor: Predictor | None = None
        self.error = ""
        self.failures = 0
        if self.frozen:
            self.predictor = frozen_predictor(arm)

    def poll(self) -> bool:
        """Check for a newer snapshot; True if one was loaded."""
        if self.frozen:
            return False
        if not self.reader.poll():
            return False
        self.predictor = self._accepted
        return True

    def _accept(self, snapshot: LoadedSnapshot) -> None:
        """Raises StateError: the arrays do not match the model, or predictions are not finite."""
        predictor = Predictor(snapshot, self.predictor)
        predictor.warm_up()
        predictor.check_finite()
        self._accepted = predictor


def frozen_predictor(arm: ArmConfig) -> Predictor:
    """The predictor of an arm with a fixed snapshot.

    Raises:
        StateError: the snapshot cannot be used; the message names arm and folder.
    """
    try:
        predictor = Predictor(open_fixed(Path(arm.snapshot)))
        predictor.warm_up()
        predictor.check_finite()
    except StateError as error:
        raise StateError(f"experiment.arms {arm.name!r}: snapshot cannot serve: {error}") from None
    return predictor


class ArmPredictors:
    """Follows the snapshots of every arm in one thread.

    ``view`` is replaced as a whole and never modified, so a request that reads it once has one experiment and
    one snapshot of each arm throughout.
    """

    def __init__(self, experiment: ExperimentConfig, state_folder: Path, metrics: ServeMetrics) -> None:
        """Raises ConfigError: the experiment is unusable; StateError: a frozen arm's snapshot is."""
        self._metrics = metrics
        self._folder = state_folder
        self._lock = threading.Lock()
        plan = Plan(experiment)
        self._sources = {arm.name: Source(arm, state_folder) for arm in experiment.arms}
        self.view = View(plan, self._predictors())
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def current(self) -> Mapping[str, Predictor]:
        """The predictors of the arms that have a snapshot."""
        return self.view.predictors

    @property
    def names(self) -> tuple[str, ...]:
        """All arms."""
        return tuple(arm.name for arm in self.view.plan.experiment.arms)

    @property
    def control(self) -> str:
        """Name of the control arm, which serves users without another arm."""
        return self.view.plan.control

    def error(self, name: str) -> str:
        """Why an arm's newest snapshot is not in use; empty if it is."""
        source = self._sources.get(name)
        return "" if source is None else source.error

    def prepare(self, experiment: ExperimentConfig) -> dict[str, Source]:
        """Predictor sources for another experiment, each with its newest snapshot.

        Raises:
            StateError: a frozen arm's snapshot cannot be used.
        """
        found = {}
        for arm in experiment.arms:
            source = self._sources.get(arm.name)
            if source is None or source.config.snapshot != arm.snapshot:
                source = Source(arm, self._folder)
                source.poll()
            found[arm.name] = source
        return found

    def exchange(self, plan: Plan, sources: dict[str, Source] | None = None) -> None:
        """Replace the plan, and the sources if given."""
        with self._lock:
            if sources is not None:
                self._sources = sources
            self.view = View(plan, self._predictors())

    def _predictors(self) -> Mapping[str, Predictor]:
        found = {name: source.predictor for name, source in self._sources.items()}
        return MappingProxyType(
            {name: predictor for name, predictor in found.items() if predictor is not None}
        )

    def poll(self) -> None:
        """Check all arms for newer snapshots once, and replace those that changed."""
        sources = list(self._sources.values())
        changed = [source for source in sources if source.poll()]
        if changed:
            with self._lock:
                self.view = View(self.view.plan, self._predictors())
        for source in sources:
            self._show(source)

    def start(self, poll_seconds: float) -> None:
        """Check for snapshots now, and then every ``poll_seconds`` in a thread."""
        self.poll()
        self._thread = threading.Thread(target=self._run, args=(poll_seconds,), name="snapshots", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self, poll_seconds: float) -> None:
        while not self._stop.wait(poll_seconds):
            try:
                self.poll()
            except Exception:
                # A defect here must not stop snapshot updates for good while the server seems healthy.
                logger.exception("checking for snapshots failed; the loaded ones stay in use")

    def _show(self, source: Source) -> None:
        name, reader = source.config.name, source.reader
        if reader.error != source.error:
            source.error = reader.error
            if reader.error:
                logger.warning("arm %s: %s", name, reader.error)
        self._metrics.snapshot_stale.labels(name).set(1 if reader.error else 0)
        self._metrics.snapshot_failures.labels(name).inc(reader.failures - source.failures)
        source.failures = reader.failures
        if source.predictor is not None:
            manifest = source.predictor.snapshot.manifest
            self._metrics.snapshot_version.labels(name).set(manifest.version)
            self._metrics.snapshot_created.labels(name).set(manifest.created_ms / 1000)
            self._metrics.snapshot_event_time.labels(name).set(manifest.event_time_ms / 1000)
