"""Ratio metrics and their variance, clustered by user.

Users return, so impressions are not independent, but users are. Every metric of an experiment is therefore a
ratio of two sums (clicks to impressions, loss to impressions) whose variance is computed over buckets of
users: the buckets of the assignment, which split users at random and never change. The variance follows the
delta method (Deng, Knoblich and Lu 2018, "Applying the Delta Method in Metric Analytics"). Only sums per
bucket are needed, and the sums of two disjoint sets of events add up.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A metric's value and its variance.

    >>> Estimate(0.5, 0.0004, 100.0).standard_error
    0.02
    """

    value: float
    """The metric; NaN without data."""
    variance: float
    """Its squared standard error; NaN with fewer than two buckets of users."""
    observations: float
    """Impressions behind it."""

    @property
    def standard_error(self) -> float:
        """Root of the variance."""
        return math.sqrt(self.variance) if self.variance >= 0.0 else math.nan


NOTHING = Estimate(math.nan, math.nan, 0.0)
"""The estimate without events."""


def ratio(numerator: Floats, denominator: Floats, observations: Floats | None = None) -> Estimate:
    """Sum of ``numerator`` over sum of ``denominator``, float64 [buckets] each.

    With r the ratio, the residual of a bucket is its numerator minus r times its denominator. Residuals
    sum to zero. The ratio's variance is B / (B - 1) times their sum of squares over the squared total
    denominator, where B is the number of buckets with events.

    Args:
        numerator: sums by bucket.
        denominator: sums by bucket.
        observations: impressions by bucket, if the denominator counts something else.

    >>> import numpy as np
    >>> clicks, impressions = np.array([1.0, 0.0, 2.0, 1.0]), np.array([10.0, 10.0, 10.0, 10.0])
    >>> found = ratio(clicks, impressions)
    >>> found.value, round(found.standard_error, 5)
    (0.1, 0.04082)
    """
    counted = denominator if observations is None else observations
    filled = counted > 0.0
    total = float(denominator[filled].sum())
    buckets = int(np.count_nonzero(filled))
    if buckets == 0 or total <= 0.0:
        return NOTHING
    value = float(numerator[filled].sum()) / total
    number = float(counted[filled].sum())
    if buckets < 2:
        return Estimate(value, math.nan, number)
    residuals = numerator[filled] - value * denominator[filled]
    squares = float(residuals @ residuals)
    return Estimate(value, buckets / (buckets - 1) * squares / total**2, number)


def by_cluster(cluster: NDArray[np.int64], values: Floats, clusters: int) -> Floats:
    """Sums of ``values`` [N] by the cluster of each, float64 [clusters]."""
    return np.bincount(cluster, values, clusters).astype(np.float64)


def difference(treatment: Estimate, control: Estimate) -> Estimate:
    """Treatment minus control, over disjoint users."""
    return Estimate(
        treatment.value - control.value,
        treatment.variance + control.variance,
        treatment.observations + control.observations,
    )


def uplift(treatment: Estimate, control: Estimate) -> Estimate:
    """Treatment / control - 1, over disjoint users; NaN if the control's value is not positive.

    Variance by the delta method for the quotient of two independent estimates.

    >>> found = uplift(Estimate(0.033, 1e-6, 1.0), Estimate(0.030, 1e-6, 1.0))
    >>> round(found.value, 3), round(found.standard_error, 4)
    (0.1, 0.0496)
    """
    observations = treatment.observations + control.observations
    if not control.value > 0.0:
        return Estimate(math.nan, math.nan, observations)
    quotient = treatment.value / control.value
    variance = (treatment.variance + quotient**2 * control.variance) / control.value**2
    return Estimate(quotient - 1.0, variance, observations)


def entropy(rate: float) -> float:
    """Entropy in nats of a click with this probability, which must be strictly between 0 and 1."""
    return -rate * math.log(rate) - (1.0 - rate) * math.log1p(-rate)


def over_entropy(loss: Floats, clicks: Floats, impressions: Floats) -> Estimate:
    """Mean ``loss`` over the entropy of the click rate; sums by bucket, float64 [buckets] each.

    For the loss of one model this is its normalized entropy (He et al. 2014); for the difference of two
    losses, the difference of their normalized entropies. Delta method in loss and click rate: with m the mean
    loss, r the click rate, H its entropy and n a bucket's impressions, the bucket's influence is
    (loss - m n) / H - m H'(r) / H^2 (clicks - r n), over all impressions, where H'(r) = ln((1 - r) / r).
    NaN if no impression was clicked, or all were.

    >>> import numpy as np
    >>> found = over_entropy(np.array([3.0, 4.0]), np.array([5.0, 5.0]), np.array([10.0, 10.0]))
    >>> round(found.value, 4)
    0.5049
    """
    filled = impressions > 0.0
    loss, clicks, shown = loss[filled], clicks[filled], impressions[filled]
    number, buckets = float(shown.sum()), len(shown)
    rate = float(clicks.sum()) / number if number > 0.0 else math.nan
    if not 0.0 < rate < 1.0:
        return Estimate(math.nan, math.nan, number)
    mean, uncertainty = float(loss.sum()) / number, entropy(rate)
    if buckets < 2:
        return Estimate(mean / uncertainty, math.nan, number)
    slope = mean * math.log((1.0 - rate) / rate) / uncertainty**2
    shares = (loss - mean * shown) / uncertainty - slope * (clicks - rate * shown)
    variance = buckets / (buckets - 1) * float(shares @ shares) / number**2
    return Estimate(mean / uncertainty, variance, number)
