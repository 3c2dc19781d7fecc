"""Always-valid intervals for continuous monitoring.

An ordinary 95 % interval is valid at one time that was fixed in advance. Checking it repeatedly and stopping
once it excludes zero produces far more than 5 % false positives. A confidence sequence is valid at all times
simultaneously: with probability 1 - alpha it contains the true value at every look. The price is width.

The boundary is the asymptotic confidence sequence of Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas 2024
("Time-uniform central limit theory and asymptotic confidence sequences", Theorem 2.2), a mixture of normal
likelihood ratios (Robbins 1970). It is valid from a first look with enough observations, so no interval is
given before that.

The intervals use a normal approximation over buckets of users. It requires clicks, buckets, and impressions
spread over many buckets. If one user makes nearly all impressions, a thousand buckets are worth one.
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
"""Clicks that each arm needs before an interval is given, for the normal approximation."""
FIRST_LOOK_BUCKETS = 100
"""Buckets of users with events that each arm needs before an interval is given."""
FIRST_LOOK_EFFECTIVE = 30
"""Effective buckets of users (squared sum over sum of squares) that each arm needs for an interval.

The normal approximation fails if a few users have most of the impressions. With a quarter of the impressions
from about two users who never click, 6 % of 300 A/A runs excluded zero at level 0.05; none did from 30 on.
"""


@dataclass(frozen=True, slots=True)
class Span:
    """An interval; an infinite end is unbounded."""

    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether zero lies outside."""
        return self.low > 0.0 or self.high < 0.0


EVERYTHING = Span(-math.inf, math.inf)
"""The interval that excludes no value."""

LEAST_LEVEL: Final = 1e-12
"""Smallest level; below it, terms of the boundary leave the range of a float."""


def check_level(alpha: float) -> None:
    """Check a significance level.

    Raises:
        ConfigError: alpha is below LEAST_LEVEL, or not below 1.
    """
    if not LEAST_LEVEL <= alpha < 1.0:
        raise ConfigError(
            f"level alpha must be from {LEAST_LEVEL:g} to below 1, got {alpha:g}; a common value is 0.05"
        )


@dataclass(frozen=True, slots=True)
class ConfidenceSequence:
    """The boundary of level ``alpha`` that is narrowest at ``planned`` observations.

    The planned number determines when the interval is narrow. It has no effect on validity.

    >>> sequence = ConfidenceSequence(alpha=0.05, planned=100_000.0)
    >>> sequence.interval(Estimate(0.01, 1e-6, 100_000.0))  # doctest: +ELLIPSIS
    Span(low=0.00696..., high=0.01303...)
    """

    alpha: float
    """Probability that the interval ever excludes the true value."""
    planned: float
    """Observations at which the interval is narrowest."""

    def __post_init__(self) -> None:
        check_level(self.alpha)
        if not (self.planned >= 1.0 and math.isfinite(self.planned)):
            raise ConfigError(f"planned observations must be a number of at least 1, got {self.planned:g}")

    @property
    def mixture(self) -> float:
        """Observations that have the weight of the mixture's prior: 1 / rho^2 in the paper.

        See :func:`_mixture`.
        """
        return _mixture(self.alpha, self.planned)

    def factor(self, observations: float) -> float:
        """Half-width over standard error (ordinary 95 % interval: 1.96); infinite without observations."""
        if not observations > 0.0:
            return math.inf
        mixture = self.mixture
        grown = (observations + mixture) / mixture
        return math.sqrt((observations + mixture) / observations * math.log(grown / self.alpha**2))

    def interval(self, estimate: Estimate) -> Span:
        """The interval of an estimate; EVERYTHING if its variance is unknown."""
        if not (math.isfinite(estimate.value) and estimate.variance >= 0.0):
            return EVERYTHING
        half = self.factor(estimate.observations) * estimate.standard_error
        return Span(estimate.value - half, estimate.value + half) if math.isfinite(half) else EVERYTHING

    def p_value(self, estimate: Estimate) -> float:
        """Always-valid p-value, the smallest level whose interval excludes zero; 1 without a variance.

        If there is no difference, its running minimum ever falls below a level with at most that probability.
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
    """Interval of treatment / control - 1, for two metrics that cannot be negative.

    Fieller 1954, "Some Problems in Interval Estimation": a quotient q is inside if the difference
    treatment - q control is within ``factor`` of its own standard errors of zero. The interval therefore has
    the level of that difference at any effect size, and excludes zero exactly if the interval of the plain
    difference does. Quotients below 0 are impossible and are cut off. The interval is EVERYTHING if the
    control's own interval reaches zero, because no quotient is then too large.

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
    """The ordinary interval: valid at one time that was fixed before the experiment began.

    >>> fixed_interval(Estimate(0.0, 1.0, 10.0), 0.05)  # doctest: +ELLIPSIS
    Span(low=-1.9599..., high=1.9599...)
    """
    factor = fixed_factor(alpha)
    if not (math.isfinite(estimate.value) and estimate.variance >= 0.0):
        return EVERYTHING
    half = factor * estimate.standard_error
    return Span(estimate.value - half, estimate.value + half)


def fixed_p_value(estimate: Estimate) -> float:
    """The ordinary two-sided p-value of no difference; 1 without a variance.

    >>> round(fixed_p_value(Estimate(1.96, 1.0, 10.0)), 3)
    0.05
    """
    if not (math.isfinite(estimate.value) and estimate.variance > 0.0):
        return 1.0
    return math.erfc(abs(estimate.value) / estimate.standard_error / math.sqrt(2.0))


def effective_number(amounts: NDArray[Any]) -> float:
    """Effective sample size, the squared sum over the sum of squares; 0 if no amount is positive.

    Kish 1965, "Survey Sampling".

    >>> import numpy as np
    >>> effective_number(np.array([5.0, 5.0, 0.0])), round(effective_number(np.array([100.0, 1.0])), 2)
    (2.0, 1.02)
    """
    values = amounts.astype(np.float64)
    largest = float(values.max(initial=0.0))
    if largest <= 0.0:
        return 0.0
    shares = values / largest  # the squares of large amounts would overflow
    return float(shares.sum()) ** 2 / float(shares @ shares)


def shortage(who: str, clicks: NDArray[Any], impressions: NDArray[Any]) -> str:
    """Why there is no interval yet, in a few words; empty if there are enough data.

    Args:
        who: name of the arm, or of the group of arms, that the impressions belong to.
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
    """Why ``amounts`` [buckets] are too concentrated on few users, in a few words; empty if they are not."""
    number = effective_number(amounts)
    if number >= FIRST_LOOK_EFFECTIVE:
        return ""
    largest = float(amounts.max()) / float(amounts.sum())
    return (
        f"{number:.1f} of {FIRST_LOOK_EFFECTIVE} effective buckets of users needed in {who} (one bucket has "
        f"{100 * largest:.0f} % of the {what})"
    )


def enough(clicks: NDArray[Any], impressions: NDArray[Any]) -> bool:
    """Whether each arm has enough data for an interval; sums [arms, buckets] as in :func:`shortage`."""
    return not any(shortage("", *arm) for arm in zip(clicks, impressions, strict=True))
