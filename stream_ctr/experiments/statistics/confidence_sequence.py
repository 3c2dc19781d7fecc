"""Intervals that may be looked at as often as one likes.

An ordinary 95 % interval holds at one moment that was fixed in advance. Whoever looks again and again and
stops when it excludes zero is wrong far more often than 5 %. A confidence sequence holds at all moments
together: with probability 1 - alpha the truth is inside at every look. The price is width.

The boundary is the asymptotic confidence sequence of Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas 2024
("Time-uniform central limit theory and asymptotic confidence sequences", Theorem 2.2), a mixture of normal
likelihood ratios (Robbins 1970). It holds from a first look on that rests on enough observations, so
there is no interval before that.

The intervals rest on a normal approximation over buckets of users. It needs clicks, buckets, and impressions
that are spread over many of them: the impressions of one user in a thousand buckets count as one bucket.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from stream_ctr.errors import ConfigError
from stream_ctr.experiments.statistics.estimates import Estimate

FIRST_LOOK_CLICKS = 100
"""Clicks in each arm before an interval is given: the normal approximation needs some."""
FIRST_LOOK_BUCKETS = 100
"""Buckets of users with events in each arm before an interval is given."""
FIRST_LOOK_EFFECTIVE = 30
"""Effective buckets of users (squared sum over sum of squares) in each arm before an interval is given.

Where few users have most impressions the normal approximation fails: with a quarter of the impressions made
by some two users who never click, 6 % of 300 A/A runs excluded zero at level 0.05, and none from 30 on.
"""


@dataclass(frozen=True, slots=True)
class Span:
    """An interval; infinite where nothing can be said yet."""

    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether zero lies outside."""
        return self.low > 0.0 or self.high < 0.0


EVERYTHING = Span(-math.inf, math.inf)
"""The interval of which nothing is known."""

LEAST_LEVEL: Final = 1e-12
"""Below it the boundary's terms leave the range of a float."""


def check_level(alpha: float) -> None:
    """Refuse a level that is none.

    Raises:
        ConfigError: alpha is not strictly between 0 and 1, or too small to reckon with.
    """
    if not LEAST_LEVEL <= alpha < 1.0:
        raise ConfigError(
            f"level alpha = {alpha:g} must lie strictly between 0 and 1, from {LEAST_LEVEL:g}; 0.05 is usual"
        )


@dataclass(frozen=True, slots=True)
class ConfidenceSequence:
    """The boundary of level ``alpha`` that is narrowest at ``planned`` observations.

    The plan moves width from one moment to another; it never touches validity.

    >>> sequence = ConfidenceSequence(alpha=0.05, planned=100_000.0)
    >>> sequence.interval(Estimate(0.01, 1e-6, 100_000.0))  # doctest: +ELLIPSIS
    Span(low=0.00696..., high=0.01303...)
    """

    alpha: float
    """Probability that the truth is ever outside."""
    planned: float
    """Observations at which the interval is narrowest."""

    def __post_init__(self) -> None:
        check_level(self.alpha)
        if not (self.planned >= 1.0 and math.isfinite(self.planned)):
            raise ConfigError(f"planned observations = {self.planned:g}; must be a number of at least 1")

    @property
    def mixture(self) -> float:
        """Observations that weigh as much as the mixture's prior: 1 / rho^2 in the paper.

        See :func:`_mixture`.
        """
        return _mixture(self.alpha, self.planned)

    def factor(self, observations: float) -> float:
        """Half-width over standard error (1.96 in an ordinary interval); infinite at no observations."""
        if not observations > 0.0:
            return math.inf
        mixture = self.mixture
        grown = (observations + mixture) / mixture
        return math.sqrt((observations + mixture) / observations * math.log(grown / self.alpha**2))

    def interval(self, estimate: Estimate) -> Span:
        """The interval of an estimate now; everything where its variance is not known."""
        if not (math.isfinite(estimate.value) and estimate.variance >= 0.0):
            return EVERYTHING
        half = self.factor(estimate.observations) * estimate.standard_error
        return Span(estimate.value - half, estimate.value + half) if math.isfinite(half) else EVERYTHING

    def p_value(self, estimate: Estimate) -> float:
        """The smallest level whose interval excludes zero, always-valid; 1 where nothing is known.

        Its running minimum stays below a level with at most that probability if there is no difference.
        """
        if not (math.isfinite(estimate.value) and estimate.variance > 0.0 and estimate.observations > 0.0):
            return 1.0
        grown = (estimate.observations + self.mixture) / self.mixture
        shrunk = estimate.observations / (estimate.observations + self.mixture)
        squared = estimate.value**2 / estimate.variance
        return min(1.0, math.sqrt(grown) * math.exp(-0.5 * squared * shrunk))


@lru_cache
def _mixture(alpha: float, planned: float) -> float:
    """1 / rho^2 for which the interval is narrowest at ``planned`` observations.

    At time t the squared width is proportional to (t + m) ln((t + m) / (m alpha^2)) / t^2. With
    x = (t + m) / m it is least over m where ln(x / alpha^2) = x - 1 with the mixture at t; solved by
    fixed-point iteration, which contracts since the root exceeds 1.
    """
    share = 2.0
    for _ in range(100):
        share = 1.0 + math.log(share / alpha**2)
    return planned / (share - 1.0)


def uplift_interval(treatment: Estimate, control: Estimate, factor: float) -> Span:
    """Interval of treatment over control less 1, for two figures that cannot be negative.

    Fieller 1954, "Some Problems in Interval Estimation": a quotient q is inside while the difference
    treatment - q control is less than ``factor`` of its own standard errors away from zero. So the interval
    has the level of that difference at any size of the effect, and excludes zero exactly when the
    interval of the plain difference does. Quotients below 0 are impossible and are cut off. Everything where
    the control's own interval reaches zero: then no quotient is too large.

    >>> span = uplift_interval(Estimate(0.033, 1e-6, 1.0), Estimate(0.030, 1e-6, 1.0), 1.96)
    >>> round(span.low, 4), round(span.high, 4)
    (0.0073, 0.2022)
    """
    known = all(math.isfinite(each.value) and each.variance >= 0.0 for each in (treatment, control))
    if not (known and math.isfinite(factor)):
        return EVERYTHING
    above, below, squared = treatment.value, control.value, factor**2
    room = below**2 - squared * control.variance
    if not (below > 0.0 and room > 0.0):
        return EVERYTHING
    half = factor * math.sqrt(treatment.variance * room + above**2 * control.variance) / room
    middle = above * below / room
    return Span(max(0.0, middle - half) - 1.0, middle + half - 1.0)


def fixed_factor(alpha: float) -> float:
    """Half-width over standard error of the ordinary interval.

    >>> round(fixed_factor(0.05), 2)
    1.96
    """
    check_level(alpha)
    return NormalDist().inv_cdf(1.0 - alpha / 2.0)


def fixed_interval(estimate: Estimate, alpha: float) -> Span:
    """The ordinary interval: valid at one moment that was fixed before the experiment began.

    >>> fixed_interval(Estimate(0.0, 1.0, 10.0), 0.05)  # doctest: +ELLIPSIS
    Span(low=-1.9599..., high=1.9599...)
    """
    factor = fixed_factor(alpha)
    if not (math.isfinite(estimate.value) and estimate.variance >= 0.0):
        return EVERYTHING
    half = factor * estimate.standard_error
    return Span(estimate.value - half, estimate.value + half)


def fixed_p_value(estimate: Estimate) -> float:
    """The ordinary two-sided p-value of no difference; 1 where nothing is known.

    >>> round(fixed_p_value(Estimate(1.96, 1.0, 10.0)), 3)
    0.05
    """
    if not (math.isfinite(estimate.value) and estimate.variance > 0.0):
        return 1.0
    return math.erfc(abs(estimate.value) / estimate.standard_error / math.sqrt(2.0))


def effective_number(amounts: NDArray[Any]) -> float:
    """Number of equal amounts that are as informative: squared sum over sum of squares; 0 of nothing.

    Kish 1965, "Survey Sampling".

    >>> import numpy as np
    >>> effective_number(np.array([5.0, 5.0, 0.0])), round(effective_number(np.array([100.0, 1.0])), 2)
    (2.0, 1.02)
    """
    values = amounts.astype(np.float64)
    largest = float(values.max(initial=0.0))
    if largest <= 0.0:
        return 0.0
    shares = values / largest  # squares of large amounts would leave the range of a float
    return float(shares.sum()) ** 2 / float(shares @ shares)


def shortage(who: str, clicks: NDArray[Any], impressions: NDArray[Any]) -> str:
    """What an interval still needs, in a few words; empty when nothing.

    Args:
        who: whose impressions these are.
        clicks: [buckets] sums of clicks.
        impressions: [buckets] sums of impressions.

    >>> import numpy as np
    >>> shortage("helen", np.array([7, 5]), np.array([90, 80]))
    '12 of 100 clicks needed in helen'
    """
    if not impressions.any():
        return f"no impressions in {who}"
    clicked = int(clicks.sum())
    if clicked < FIRST_LOOK_CLICKS:
        return f"{clicked:,} of {FIRST_LOOK_CLICKS} clicks needed in {who}"
    filled = int(np.count_nonzero(impressions))
    if filled < FIRST_LOOK_BUCKETS:
        return f"{filled:,} of {FIRST_LOOK_BUCKETS} buckets of users needed in {who}"
    return concentration(who, "impressions", impressions)


def concentration(who: str, what: str, amounts: NDArray[Any]) -> str:
    """Whether too few users hold most of ``amounts`` [buckets], in a few words; empty when not."""
    number = effective_number(amounts)
    if number >= FIRST_LOOK_EFFECTIVE:
        return ""
    largest = float(amounts.max()) / float(amounts.sum())
    return (
        f"{number:.1f} of {FIRST_LOOK_EFFECTIVE} effective buckets of users needed in {who} (one bucket has "
        f"{100 * largest:.0f} % of the {what})"
    )


def enough(clicks: NDArray[Any], impressions: NDArray[Any]) -> bool:
    """Whether each arm has what an interval needs; sums [arms, buckets] as in :func:`shortage`."""
    return not any(shortage("", *arm) for arm in zip(clicks, impressions, strict=True))
