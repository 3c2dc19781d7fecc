"""Uses of the watcher's sums: sampling probabilities of arms, and predicted against observed clicks."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from pathlib import Path

from stream_ctr.config.experiment import ExperimentConfig
from stream_ctr.errors import StateError
from stream_ctr.experiments.kill_file import Stamp, stamp_of
from stream_ctr.experiments.shared_files import SUMS, ArmSums, Sums, read_sums
from stream_ctr.experiments.statistics.thompson import best_probabilities, with_floor
from stream_ctr.serving.metrics import RoutingMetrics
from stream_ctr.serving.routing.guards import ObservedGuard, Trip

logger = logging.getLogger("stream_ctr.serving")

NOTHING = ArmSums(0, 0)


class OutcomeMonitor:
    """Follows the sums of one experiment. Not thread-safe."""

    def __init__(self, folder: Path, metrics: RoutingMetrics) -> None:
        self._folder = folder
        self._metrics = metrics
        self._last_stamp: Stamp = (0, 0, 0)
        self._sums: Sums | None = None
        self._error = ""
        self._salt = ""
        self._guards: dict[str, ObservedGuard] = {}

    def look(
        self, experiment: ExperimentConfig, arms: Sequence[str], killed: Collection[str]
    ) -> tuple[dict[str, float], list[tuple[str, Trip]]]:
        """Sampling probabilities of the arms (empty without sampling), and the arms to kill with the reason.

        ``arms`` are those that can answer. The guard of an arm in ``killed`` starts again when it is revived.
        """
        changed = self._read()
        if experiment.salt != self._salt:
            self._salt, self._guards = experiment.salt, {}
        for name in killed:
            self._guards.pop(name, None)
        sums = self._sums.arms if self._sums is not None and self._sums.salt == experiment.salt else {}
        trips = self._judge(experiment, arms, sums) if changed or not self._guards else []
        return self._chances(experiment, arms, sums), trips

    def _read(self) -> bool:
        stamp = stamp_of(self._folder / SUMS)
        if stamp == self._last_stamp:
            return False
        self._last_stamp = stamp
        try:
            self._sums, error = read_sums(self._folder), ""
        except StateError as failure:
            error = str(failure)  # keep the last known sums
        if error and error != self._error:
            logger.warning("%s", error)
        self._error = error
        self._metrics.sums_stale.set(1 if error else 0)
        if self._sums is not None:
            self._metrics.sums_written.set(self._sums.updated_ms / 1000)
        return not error

    def _judge(
        self, experiment: ExperimentConfig, arms: Sequence[str], sums: dict[str, ArmSums]
    ) -> list[tuple[str, Trip]]:
        trips = []
        for arm in experiment.arms[1:]:
            config = arm.guards or experiment.guards
            if arm.name in arms and arm.name in sums and config.observed_calibration:
                guard = self._guards.get(arm.name)
                if guard is None or guard.config != config:
                    guard = self._guards[arm.name] = ObservedGuard(config)
                trip = guard.check(sums[arm.name])
                if trip is not None:
                    trips.append((arm.name, trip))
        return trips

    def _chances(
        self, experiment: ExperimentConfig, arms: Sequence[str], sums: dict[str, ArmSums]
    ) -> dict[str, float]:
        settings = experiment.thompson
        if not settings.share or not arms:
            return {}
        known = [sums.get(name, NOTHING) for name in arms]
        best = best_probabilities([arm.impressions for arm in known], [arm.clicks for arm in known])
        return dict(zip(arms, with_floor(best, settings.floor), strict=True))
