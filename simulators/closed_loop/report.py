"""What the visits came to, arm by arm, against the best that could have been shown."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from simulators.closed_loop.visits import Visit

CURVE_POINTS: Final = 240
"""Most points of the curve. When it is full, neighbours are merged and the spacing doubles."""
CURVE_VISITS: Final = 250
"""Visits of one point at first."""
_RATIO: Final = 1.02
"""A duration is told to 2 %, however many there are."""


@dataclass
class Tally:
    """Sums over answered visits. Value is what the server ranks by: bid x probability of a click."""

    visits: int = 0
    clicks: int = 0
    """Drawn."""
    earned: float = 0.0
    """Sum of the bids of the clicked."""
    shown_truth: float = 0.0
    """Sum of the planted click probabilities of what was shown: expected clicks, no draw enters."""
    shown_value: float = 0.0
    """The same times the bids: expected earnings."""
    best_truth: float = 0.0
    """Planted probabilities of each visit's most valuable candidate."""
    best_value: float = 0.0
    random_truth: float = 0.0
    """Mean planted probability of each visit's candidates: what showing any of them would come to."""
    random_value: float = 0.0

    def add(self, visit: Visit, shown: int) -> None:
        """Count a visit to which candidate ``shown`` was shown."""
        values = [bid * truth for bid, truth in zip(visit.bid, visit.truth, strict=True)]
        best = max(range(len(values)), key=values.__getitem__)
        clicked = visit.clicks(shown)
        self.visits += 1
        self.clicks += clicked
        self.earned += visit.bid[shown] * clicked
        self.shown_truth += visit.truth[shown]
        self.shown_value += values[shown]
        self.best_truth += visit.truth[best]
        self.best_value += values[best]
        self.random_truth += sum(visit.truth) / len(values)
        self.random_value += sum(values) / len(values)

    def merge(self, other: Tally) -> None:
        """Add what another counted."""
        for name, value in asdict(other).items():
            setattr(self, name, getattr(self, name) + value)

    def as_dict(self) -> dict[str, float | int | None]:
        """Means a visit; money per thousand visits."""
        count = self.visits
        thousand = 1000.0 / count if count else math.nan
        gap = self.best_value - self.random_value
        figures = {
            "ctr": self.clicks / count if count else math.nan,
            "expected_ctr": self.shown_truth / count if count else math.nan,
            "best_ctr": self.best_truth / count if count else math.nan,
            "random_ctr": self.random_truth / count if count else math.nan,
            "value_per_thousand": self.earned * thousand,
            "expected_value_per_thousand": self.shown_value * thousand,
            "best_value_per_thousand": self.best_value * thousand,
            "random_value_per_thousand": self.random_value * thousand,
            "regret_per_thousand": (self.best_value - self.shown_value) * thousand,
            "share_of_way": (self.shown_value - self.random_value) / gap if gap > 0 else math.nan,
        }
        known = {name: value if math.isfinite(value) else None for name, value in figures.items()}
        return {"visits": count, "clicks": self.clicks, **known}


@dataclass
class Point:
    """One stretch of visits."""

    visits: int = 0
    """All arms together."""
    arms: dict[str, Tally] = field(default_factory=dict)


class Outcome:
    """Tallies of every arm, in all and along the way."""

    def __init__(self) -> None:
        self.arms: dict[str, Tally] = {}
        self._spacing = CURVE_VISITS
        self._points: list[Point] = [Point()]

    def add(self, arm: str, visit: Visit, shown: int) -> None:
        """Count a visit that ``arm`` answered."""
        self.arms.setdefault(arm, Tally()).add(visit, shown)
        if self._points[-1].visits == self._spacing:
            self._make_room()
            self._points.append(Point())
        point = self._points[-1]
        point.visits += 1
        point.arms.setdefault(arm, Tally()).add(visit, shown)

    def as_dict(self) -> dict[str, Any]:
        """Every arm in all, and the curve: each point's visits up to its end, and its arms."""
        curve, seen = [], 0
        for point in self._points:
            seen += point.visits
            curve.append({"visits": seen, "arms": _arms(point.arms)})
        return {"arms": _arms(self.arms), "curve": curve}

    def _make_room(self) -> None:
        if len(self._points) < CURVE_POINTS:
            return
        for left, right in zip(self._points[::2], self._points[1::2], strict=True):
            left.visits += right.visits
            for arm, tally in right.arms.items():
                left.arms.setdefault(arm, Tally()).merge(tally)
        self._points = self._points[::2]
        self._spacing *= 2


class Latencies:
    """Quantiles of any number of durations, in memory that does not grow with it.

    >>> latencies = Latencies()
    >>> for milliseconds in range(1, 101):
    ...     latencies.add(milliseconds / 1000)
    >>> round(latencies.quantile(0.5), 3), round(latencies.quantile(0.99), 3)
    (0.05, 0.1)
    """

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()
        self.longest_seconds = 0.0

    def add(self, seconds: float) -> None:
        """Count one."""
        self._counts[math.floor(math.log(max(seconds, 1e-6), _RATIO))] += 1
        self.longest_seconds = max(self.longest_seconds, seconds)

    def quantile(self, part: float) -> float | None:
        """The duration in seconds below which that part lies, to 2 %; None without any."""
        left = part * self._counts.total()
        for place in sorted(self._counts):
            left -= self._counts[place]
            if left <= 0:
                return min(math.pow(_RATIO, place + 0.5), self.longest_seconds)
        return None

    def as_dict(self) -> dict[str, float | None]:
        """Milliseconds."""
        parts = {"p50": self.quantile(0.5), "p99": self.quantile(0.99)}
        longest = self.longest_seconds if self._counts else None
        return {
            name: None if value is None else round(1000.0 * value, 3)
            for name, value in {**parts, "longest": longest}.items()
        }


def _arms(tallies: dict[str, Tally]) -> dict[str, Any]:
    return {arm: tallies[arm].as_dict() for arm in sorted(tallies)}


@dataclass
class Summary:
    """What a run of the closed loop came to."""

    sent: int = 0
    """Visits that the server was asked about."""
    answered: int = 0
    failed: int = 0
    """Visits given up, because the server failed on them again and again."""
    busy: int = 0
    """Answers that asked to come again."""
    clicks: int = 0
    """Clicks written to the log, those left by an interrupted run included."""
    clicks_pending: int = 0
    """Clicks still to come when a signal ended the run; ``--resume`` writes them."""
    asked_before: int = 0
    """Visits of the interrupted run that this one went on from."""
    stopped: bool = False
    seconds: float = 0.0
    latency: Latencies = field(default_factory=Latencies)
    """From sending to the answer."""
    behind: Latencies = field(default_factory=Latencies)
    """From the time at which a visit was due to its sending; of a paced run."""
    outcome: Outcome = field(default_factory=Outcome)

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        plain = ("sent", "answered", "failed", "busy", "clicks", "clicks_pending", "asked_before", "stopped")
        rate = self.answered / self.seconds if self.seconds else 0.0
        return {
            **{name: getattr(self, name) for name in plain},
            "seconds": round(self.seconds, 3),
            "answered_per_second": round(rate, 1),
            "latency_ms": self.latency.as_dict(),
            "behind_ms": self.behind.as_dict(),
            **self.outcome.as_dict(),
        }
