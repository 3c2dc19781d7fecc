"""AUC of two models on the same events, and the variance of their difference.

DeLong, DeLong and Clarke-Pearson 1988, "Comparing the Areas under Two or More Correlated Receiver
Operating Characteristic Curves": the AUC is a two-sample U-statistic, and its placements give the
covariance. Placements come from mid-ranks (Sun and Xu 2014), so the cost is that of sorting.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stream_ctr.experiments.estimates import NOTHING, Estimate

Floats = NDArray[np.float64]


def mid_ranks(values: Floats) -> Floats:
    """Ranks from 1, float64 [n]; equal values share the mean of theirs.

    >>> import numpy as np
    >>> mid_ranks(np.array([0.3, 0.1, 0.3])).tolist()
    [2.5, 1.0, 2.5]
    """
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return (ends - (counts - 1) / 2.0)[inverse]


def placements(scores: Floats, labels: NDArray[np.bool_]) -> tuple[float, Floats, Floats]:
    """AUC, and the share of the other class that each click and each non-click is placed before.

    Args:
        scores: float64 [n], higher for likelier clicks.
        labels: bool [n], at least one of each.
    """
    clicks, others = scores[labels], scores[~labels]
    ranks = mid_ranks(np.concatenate([clicks, others]))
    of_clicks = (ranks[: len(clicks)] - mid_ranks(clicks)) / len(others)
    of_others = 1.0 - (ranks[len(clicks) :] - mid_ranks(others)) / len(clicks)
    return float(of_clicks.mean()), of_clicks, of_others


def auc(scores: Floats, labels: NDArray[np.bool_]) -> Estimate:
    """AUC of one model's scores; NaN as in :func:`auc_difference`."""
    clicks = int(np.count_nonzero(labels))
    if clicks == 0 or clicks == len(labels):
        return Estimate(math.nan, math.nan, float(len(labels)))
    return _estimate(*placements(scores, labels))


def auc_difference(treatment: Floats, control: Floats, labels: NDArray[np.bool_]) -> Estimate:
    """AUC of the treatment's scores less that of the control's, on the same events.

    Events are taken as independent: users that repeat make the true spread somewhat larger.
    NaN where a class is missing, and a variance of NaN where one has fewer than two events.
    """
    clicks = int(np.count_nonzero(labels))
    if clicks == 0 or clicks == len(labels):
        return Estimate(math.nan, math.nan, float(len(labels)))
    auc_treatment, clicks_treatment, others_treatment = placements(treatment, labels)
    auc_control, clicks_control, others_control = placements(control, labels)
    return _estimate(
        auc_treatment - auc_control, clicks_treatment - clicks_control, others_treatment - others_control
    )


def _estimate(value: float, of_clicks: Floats, of_others: Floats) -> Estimate:
    """A mean over pairs, and its variance from the two classes' placements."""
    events = float(len(of_clicks) + len(of_others))
    if len(of_clicks) < 2 or len(of_others) < 2:
        return Estimate(value, math.nan, events)
    variance = float(np.var(of_clicks, ddof=1)) / len(of_clicks)
    variance += float(np.var(of_others, ddof=1)) / len(of_others)
    return Estimate(value, variance, events)


@dataclass(slots=True)
class Pool:
    """:func:`pooled` of windows that come one after the other.

    >>> pool = Pool()
    >>> pool.add(Estimate(0.1, 0.01, 300.0)), pool.add(Estimate(0.2, 0.04, 100.0)), pool.estimate().value
    (None, None, 0.125)
    """

    events: float = 0.0
    weighted: float = 0.0
    """Sum of events x value."""
    squares: float = 0.0
    """Sum of events^2 x variance."""

    def add(self, window: Estimate) -> None:
        """Take a window in, unless it has no figure."""
        if math.isfinite(window.value) and window.variance >= 0.0:
            self.events += window.observations
            self.weighted += window.observations * window.value
            self.squares += window.observations**2 * window.variance

    def estimate(self) -> Estimate:
        """Mean of the windows' figures, weighted by their events."""
        if self.events <= 0.0:
            return NOTHING
        return Estimate(self.weighted / self.events, self.squares / self.events**2, self.events)


def pooled(windows: list[Estimate]) -> Estimate:
    """Mean of the windows' differences, weighted by their events; windows without a figure are left out.

    AUC is taken within windows, since scores of different moments do not compare, and pooled over them.
    """
    pool = Pool()
    for window in windows:
        pool.add(window)
    return pool.estimate()
