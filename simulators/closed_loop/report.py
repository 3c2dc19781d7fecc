"""Results of the closed loop by arm, compared with the best possible choice of ads."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from simulators.closed_loop.visits import Visit

CURVE_POINTS: Final = 240
"""Maximum number of points of the curve. When it is full, neighbours are merged and the spacing doubles."""
CURVE_VISITS: Final = 250
"""Initial number of visits per point."""
_RATIO: Final = 1.02
"""Ratio of neighbouring bucket bounds: durations are accurate to 2 %."""


@dataclass
class Tally:
    """Sums over answered visits. Value is the server's ranking criterion: bid x click probability."""

    visits: int = 0
    clicks: int = 0
    """Drawn clicks."""
    earned: float = 0.0
    """Sum of the bids of the clicked ads."""
    shown_truth: float = 0.0
    """Sum of the true click probabilities of the shown ads: expected clicks, free of sampling noise."""
    shown_value: float = 0.0
    """Sum of bid x true click probability of the shown ads: expected value."""
    best_truth: float = 0.0
    """Sum of the true click probabilities of each visit's most valuable candidate."""
    best_value: float = 0.0
    """Sum of the values of each visit's most valuable candidate."""
    random_truth: float = 0.0
    """Sum of each visit's mean true click probability: expected clicks of a random choice."""
    random_value: float = 0.0
    """Sum of each visit's mean value: expected value of a random choice."""

    def add(self, visit: Visit, shown: int) -> None:
        """Count a visit at which candidate ``shown`` was shown."""
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
        """Add the sums of ``other``."""
        for name, value in asdict(other).items():
            setattr(self, name, getattr(self, name) + value)

    def as_dict(self) -> dict[str, float | int | None]:
        """Means per visit, and values per thousand visits.

        ``share_of_way`` is the share of the achievable uplift: 0 for a random choice, 1 for the best choice.
        """
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
    """One point of the curve: consecutive visits."""

    visits: int = 0
    """Visits of all arms."""
    arms: dict[str, Tally] = field(default_factory=dict)


class Outcome:
    """Tallies of every arm: totals and a curve over the run."""

    def __init__(self) -> None:
        self.arms: dict[str, Tally] = {}
        self._spacing = CURVE_VISITS
        self._points: list[Point] = [Point()]

    def add(self, arm: str, visit: Visit, shown: int) -> None:
        """Count a visit answered by ``arm``."""
        self.arms.setdefault(arm, Tally()).add(visit, shown)
        if self._points[-1].visits == self._spacing:
            self._make_room()
            self._points.append(Point())
        point = self._points[-1]
        point.visits += 1
        point.arms.setdefault(arm, Tally()).add(visit, shown)

    def as_dict(self) -> dict[str, Any]:
        """Totals by arm, and the curve: per point the cumulative visits and the tallies by arm."""
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
    """Quantiles of any number of durations in bounded memory.

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
        """Count one duration."""
        self._counts[math.floor(math.log(max(seconds, 1e-6), _RATIO))] += 1
        self.longest_seconds = max(self.longest_seconds, seconds)

    def quantile(self, part: float) -> float | None:
        """The ``part`` quantile in seconds, accurate to 2 %; None without durations."""
        left = part * self._counts.total()
        for place in sorted(self._counts):
            left -= self._counts[place]
            if left <= 0:
                return min(math.pow(_RATIO, place + 0.5), self.longest_seconds)
        return None

    def as_dict(self) -> dict[str, float | None]:
        """p50, p99 and the longest duration, in milliseconds."""
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
    """Result of one run of the closed loop."""

    sent: int = 0
    """Visits sent to the server."""
    answered: int = 0
    failed: int = 0
    """Visits abandoned after repeated server errors."""
    busy: int = 0
    """Responses that asked the client to retry."""
    clicks: int = 0
    """Clicks written to the log, including pending clicks of an interrupted run."""
    clicks_pending: int = 0
    """Clicks not yet due when a signal ended the run; ``--resume`` writes them."""
    asked_before: int = 0
    """Visits that the interrupted run had already sent."""
    stopped: bool = False
    """Whether a signal ended the run."""
    seconds: float = 0.0
    latency: Latencies = field(default_factory=Latencies)
    """Time from request to response."""
    behind: Latencies = field(default_factory=Latencies)
    """Time from a visit's due time to its request, in a paced run."""
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
