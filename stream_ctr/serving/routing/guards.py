"""Guards: limits on an arm's predictions, checked over windows of requests.

A guard only counts and checks. :class:`.routing.Routing` kills an arm whose guard trips.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

from stream_ctr.config.experiment import GuardConfig
from stream_ctr.experiments.shared_files import ArmSums

Cause = Literal["not_ready", "non_finite", "saturated", "latency", "calibration", "observed"]


class Trip(NamedTuple):
    """Why an arm must be killed."""

    cause: Cause
    reason: str
    """One line of text with the value and its limit."""


class ArmGuard:
    """The guard of one arm in one server process. Not thread-safe."""

    def __init__(self, config: GuardConfig) -> None:
        self.config = config
        self._requests = 0
        self._non_finite = 0
        self._saturated = 0.0
        self._slow = 0
        self._pairs = 0
        self._own, self._control = 0.0, 0.0

    def count_prediction(self, probabilities: list[float], finite: bool, seconds: float) -> Trip | None:
        """Count one prediction of the arm and its duration. ``finite``: all probabilities are finite.

        The guard trips as soon as a count exceeds the limit of the whole window.
        """
        config = self.config
        self._requests += 1
        if not finite:
            self._non_finite += 1
        else:
            low, high = config.saturation, 1.0 - config.saturation
            if min(probabilities) < low or max(probabilities) > high:
                self._saturated += sum(p < low or p > high for p in probabilities) / len(probabilities)
        if config.latency_seconds and seconds > config.latency_seconds:
            self._slow += 1
        trip = self._judge()
        if self._requests >= config.window:
            self._requests = self._non_finite = self._slow = 0
            self._saturated = 0.0
        return trip

    def _judge(self) -> Trip | None:
        config, window = self.config, self.config.window
        if self._non_finite > config.max_non_finite * window:
            return Trip(
                "non_finite",
                f"{self._non_finite} of the last {self._requests} predictions failed or were not finite; "
                f"the guard allows {config.max_non_finite:.3g} of a window of {window}",
            )
        if self._saturated > config.max_saturated * window:
            return Trip(
                "saturated",
                f"{self._saturated:.0f} of the last {self._requests} predictions were within "
                f"{config.saturation:g} of 0 or 1; the guard allows {config.max_saturated:.3g} of a window "
                f"of {window}",
            )
        if self._slow > config.max_slow * window:
            return Trip(
                "latency",
                f"{self._slow} of the last {self._requests} predictions took longer than "
                f"{config.latency_seconds:g} s; the guard allows {config.max_slow:.3g} of a window of "
                f"{window}",
            )
        return None

    def count_pair(self, own: float, control: float) -> Trip | None:
        """Count the probabilities of the arm and of the control for the same candidate."""
        if not self.config.calibration:
            return None
        self._pairs += 1
        self._own += own
        self._control += control
        if self._pairs < self.config.window:
            return None
        count, self._pairs = self._pairs, 0
        own_mean, control_mean = self._own / count, self._control / count
        self._own = self._control = 0.0
        ratio = _ratio(own_mean, control_mean)
        if ratio <= self.config.calibration:
            return None
        return Trip(
            "calibration",
            f"mean probability {own_mean:.4g}, of the control {control_mean:.4g} on the same {count} "
            f"candidates: a ratio of {ratio:.3g}; the guard allows {self.config.calibration:g}",
        )


class ObservedGuard:
    """Compares an arm's predicted with its observed clicks, period by period, from the watcher's sums."""

    def __init__(self, config: GuardConfig) -> None:
        self.config = config
        self._from: ArmSums | None = None

    def check(self, sums: ArmSums) -> Trip | None:
        """Check the watcher's newest sums. Only the increase since the first call counts."""
        start = self._from
        limit = self.config.observed_calibration
        if start is None or sums.impressions < start.impressions:
            self._from = sums
            return None
        count = sums.impressions - start.impressions
        if not limit or sums.predicted is None or count < self.config.observed_impressions:
            return None
        self._from = sums
        predicted = sums.predicted - (start.predicted or 0.0)
        clicks = sums.clicks - start.clicks
        ratio = _ratio(predicted, max(clicks, 1))
        if ratio <= limit:
            return None
        return Trip(
            "observed",
            f"{predicted:.4g} clicks predicted, {clicks} observed in {count} impressions: a ratio of "
            f"{ratio:.3g}; the guard allows {limit:g}",
        )


def _ratio(one: float, other: float) -> float:
    """Ratio of the larger to the smaller."""
    low, high = sorted((one, other))
    return high / low if low > 0 else (math.inf if high > 0 else 1.0)
