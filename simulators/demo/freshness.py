"""How long it takes until an impression has taught the model that answers.

The trainer learns an impression when its label is settled, and a snapshot tells up to which event time
everything has been learned. For an impression of event time t, let s be the moment at which the server was
first seen to answer from a snapshot that has learned up to t or beyond. The impression's freshness is
s - t. The label window is part of it: what nobody clicked is certain only at the window's end.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np


@dataclass
class Freshness:
    """Freshness of one arm, from looks at what the server answers from.

    >>> freshness = Freshness()
    >>> freshness.begin(5.0)
    >>> for seen, learned_until in ((11.0, 5.0), (12.0, 7.0), (13.0, 9.0)):
    ...     freshness.look(seen, learned_until)
    >>> freshness.quantile(0.0), freshness.quantile(1.0)
    (4.0, 7.0)
    """

    _steps: list[tuple[float, float, float]] = field(default_factory=list)
    """Event time before and after, and when that was first seen."""
    _until: float | None = None

    def begin(self, time: float) -> None:
        """No impression is earlier than this."""
        self._until = time

    def look(self, seen: float, learned_until: float) -> None:
        """At ``seen`` the server answers from what was learned up to ``learned_until``; both in seconds."""
        if self._until is not None and learned_until > self._until:
            self._steps.append((self._until, learned_until, seen))
            self._until = learned_until

    @property
    def seconds(self) -> float:
        """Length of the event time that was judged."""
        return sum(after - before for before, after, _ in self._steps)

    def quantile(self, part: float) -> float | None:
        """Seconds below which that part of the impressions lies; None without any.

        Impressions are taken to be spread evenly over each step, where freshness falls from ``seen -
        before`` to ``seen - after``. So the answer is exact but for the time between two looks.
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
