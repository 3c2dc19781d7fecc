"""AUC of two models on the same events, and the variance of their difference.

DeLong, DeLong and Clarke-Pearson 1988, "Comparing the Areas under Two or More Correlated Receiver
Operating Characteristic Curves": the AUC is a two-sample U-statistic, and its placements give the
covariance. Placements come from mid-ranks (Sun and Xu 2014), so the cost is that of sorting.

DeLong's variance treats events as independent. If errors correlate within users and users return, its
intervals are too narrow. The same placements summed by user give the variance for clustered data (Obuchowski
1997, "Nonparametric Analysis of Clustered ROC Curve Data").
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from stream_ctr.experiments.statistics.estimates import NOTHING, Estimate, by_cluster

Floats = NDArray[np.float64]


def mid_ranks(values: Floats) -> Floats:
    """Ranks from 1, float64 [n]; tied values get the mean of their ranks.

    >>> import numpy as np
    >>> mid_ranks(np.array([0.3, 0.1, 0.3])).tolist()
    [2.5, 1.0, 2.5]
    """
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return (ends - (counts - 1) / 2.0)[inverse]


def placements(scores: Floats, labels: NDArray[np.bool_]) -> tuple[float, Floats, Floats]:
    """AUC with the placements: the share of non-clicks below each click, and of clicks above each non-click.

    Args:
        scores: float64 [n], higher for likelier clicks.
        labels: bool [n], at least one click and one non-click.
    """
    clicks, others = scores[labels], scores[~labels]
    ranks = mid_ranks(np.concatenate([clicks, others]))
    of_clicks = (ranks[: len(clicks)] - mid_ranks(clicks)) / len(others)
    of_others = 1.0 - (ranks[len(clicks) :] - mid_ranks(others)) / len(clicks)
    return float(of_clicks.mean()), of_clicks, of_others


class Area(NamedTuple):
    """An AUC, or a difference of two AUCs on the same events, with the placements whose mean it is."""

    value: float
    of_clicks: Floats
    """Placements of the clicks (or their differences), in their order."""
    of_others: Floats
    """Placements of the other events."""

    def estimate(self) -> Estimate:
        """The value with DeLong's variance; variance NaN if a class has fewer than two events."""
        events = float(len(self.of_clicks) + len(self.of_others))
        if len(self.of_clicks) < 2 or len(self.of_others) < 2:
            return Estimate(self.value, math.nan, events)
        variance = float(np.var(self.of_clicks, ddof=1)) / len(self.of_clicks)
        variance += float(np.var(self.of_others, ddof=1)) / len(self.of_others)
        return Estimate(self.value, variance, events)

    def influence(self, labels: NDArray[np.bool_]) -> Floats:
        """First-order influence of each event on the value, float64 [n]; sums to zero."""
        found = np.empty(len(labels))
        found[labels] = (self.of_clicks - self.value) / len(self.of_clicks)
        found[~labels] = (self.of_others - self.value) / len(self.of_others)
        return found


def area(scores: Floats, labels: NDArray[np.bool_]) -> Area | None:
    """AUC of one model; None if a class is missing."""
    clicks = int(np.count_nonzero(labels))
    return Area(*placements(scores, labels)) if 0 < clicks < len(labels) else None


def area_difference(treatment: Floats, control: Floats, labels: NDArray[np.bool_]) -> Area | None:
    """AUC of the treatment's scores minus the control's, on the same events; None if a class is missing."""
    one, other = area(treatment, labels), area(control, labels)
    if one is None or other is None:
        return None
    return Area(one.value - other.value, one.of_clicks - other.of_clicks, one.of_others - other.of_others)


def auc_difference(treatment: Floats, control: Floats, labels: NDArray[np.bool_]) -> Estimate:
    """:func:`area_difference` with DeLong's variance, which treats events as independent.

    NaN if a class is missing; variance NaN if a class has fewer than two events.
    """
    found = area_difference(treatment, control, labels)
    return Estimate(math.nan, math.nan, float(len(labels))) if found is None else found.estimate()


@dataclass(slots=True)
class AreaPool:
    """Mean of windows' AUCs (or AUC differences), weighted by events, clustered by bucket of users.

    AUC is computed within windows, because scores from different times are not comparable, and then pooled. A
    returning user influences several windows in the same direction, so the influence of each bucket is summed
    over windows before it is squared.
    """

    buckets: int
    events: float = 0.0
    weighted: float = 0.0
    """Sum of events x value."""
    influence: Floats = field(default_factory=lambda: np.zeros(0))
    """[buckets] sum over windows of events x the bucket's influence on the window's value."""
    filled: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, np.bool_))
    """[buckets] whether the bucket has events."""

    def __post_init__(self) -> None:
        if not len(self.influence):
            self.influence, self.filled = np.zeros(self.buckets), np.zeros(self.buckets, np.bool_)

    def add(self, window: Area, labels: NDArray[np.bool_], bucket: NDArray[np.int64]) -> None:
        """Add a window: its AUC, and the label and bucket of each event."""
        events = float(len(labels))
        self.events += events
        self.weighted += events * window.value
        self.influence += events * by_cluster(bucket, window.influence(labels), self.buckets)
        self.filled[bucket] = True

    def estimate(self) -> Estimate:
        """The mean and its variance.

        The variance is NaN with fewer than two buckets, and while every influence is zero (both arms have
        ranked alike so far, or each has predicted one probability for all events): the data then contain no
        information about the spread.
        """
        if self.events <= 0.0:
            return NOTHING
        value, filled = self.weighted / self.events, int(np.count_nonzero(self.filled))
        squares = float(self.influence @ self.influence)
        if filled < 2 or squares == 0.0:
            return Estimate(value, math.nan, self.events)
        return Estimate(value, filled / (filled - 1) * squares / self.events**2, self.events)
