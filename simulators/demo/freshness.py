"""Freshness: the time until the serving model has learned an impression.

The trainer learns an impression when its label is settled. A snapshot holds the event time up to which all
impressions have been learned. For an impression with event time t, let s be the time at which the server is
first observed to use a snapshot that covers t. The freshness of the impression is s - t. It includes the
label window, because a negative label is certain only at the end of the window.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np


@dataclass
class Freshness:
    """Freshness of one arm, from observations of the snapshot that the server uses.

    >>> freshness = Freshness()
    >>> freshness.begin(5.0)
    >>> for seen, learned_until in ((11.0, 5.0), (12.0, 7.0), (13.0, 9.0)):
    ...     freshness.observe(seen, learned_until)
    >>> freshness.quantile(0.0), freshness.quantile(1.0)
    (4.0, 7.0)
    """

    _steps: list[tuple[float, float, float]] = field(default_factory=list)
    """Event time before and after each step, and the time at which the step was first observed."""
    _until: float | None = None

    def begin(self, time: float) -> None:
        """Set the event time before the first impression."""
        self._until = time

    def observe(self, seen: float, learned_until: float) -> None:
        """Record that at ``seen`` the server's snapshot covered ``learned_until``; both in seconds."""
        if self._until is not None and learned_until > self._until:
            self._steps.append((self._until, learned_until, seen))
            self._until = learned_until

    @property
    def seconds(self) -> float:
        """Length of the observed event time."""
        return sum(after - before for before, after, _ in self._steps)

    def quantile(self, part: float) -> float | None:
        """The ``part`` quantile over impressions, in seconds; None without observations.

        Impressions are assumed to be spread evenly over each step, in which freshness falls from ``seen -
        before`` to ``seen - after``. The error is at most the time between two observations.
        """
        if not self._steps:
            return None
        before, after, seen = np.array(self._steps).T
        low, high = seen - after, seen - before
        left, right = float(low.min()), float(high.max())
        for _ in range(60):
            middle = (left + right) / 2.0
            below = np.clip(middle - low, 0.0, high - low).sum()
            if below < part * self.seconds:
                left = middle
            else:
                right = middle
        return round(right, 6)

    def as_dict(self) -> dict[str, float | None]:
        """For ``--json``."""
        return {
            "p50_seconds": self.quantile(0.5),
            "p99_seconds": self.quantile(0.99),
            "of_seconds": None if math.isclose(self.seconds, 0.0) else round(self.seconds, 3),
        }
