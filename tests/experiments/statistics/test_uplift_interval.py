"""The interval of an uplift: its definition, its coverage in simulations, and its possible range."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import assume, given
from hypothesis import strategies as st

from stream_ctr.experiments.statistics.confidence_sequence import (
    EVERYTHING,
    ConfidenceSequence,
    Span,
    fixed_factor,
    fixed_interval,
    uplift_interval,
)
from stream_ctr.experiments.statistics.estimates import Estimate, difference, ratio
from stream_ctr.experiments.watcher.figures import Judged

RATES = st.floats(0.0, 1.0)
ERRORS = st.floats(1e-6, 0.3)


def inside(uplift: float, one: Estimate, other: Estimate, factor: float) -> bool:
    """Fieller's definition: the difference at this quotient is within so many of its standard errors."""
    quotient = 1.0 + uplift
    spread = math.sqrt(one.variance + quotient**2 * other.variance)
    return abs(one.value - quotient * other.value) <= factor * spread


@given(RATES, RATES, ERRORS, ERRORS, st.floats(1.0, 6.0))
def test_the_interval_contains_exactly_the_quotients_of_its_definition(
    one: float, other: float, spread: float, its: float, factor: float
) -> None:
    pair = Estimate(one, spread**2, 1e4), Estimate(other, its**2, 1e4)
    span = uplift_interval(*pair, factor)
    if not math.isfinite(span.high):
        assert other <= factor * its * (1 + 1e-9) or other == 0.0
        return
    assert -1.0 <= span.low <= one / other - 1.0 <= span.high
    width = span.high - span.low
    for share in (0.01, 0.3, 0.99):
        assert inside(span.low + share * width, *pair, factor)
    assert not inside(span.high + 1e-3 * width, *pair, factor)
    if span.low > -1.0:
        assert not inside(span.low - 1e-3 * width, *pair, factor)


@given(RATES, RATES, ERRORS, ERRORS, st.floats(1.0, 6.0))
def test_the_quotient_and_the_difference_have_one_verdict(
    one: float, other: float, spread: float, its: float, factor: float
) -> None:
    pair = Estimate(one, spread**2, 1e4), Estimate(other, its**2, 1e4)
    span, plain = uplift_interval(*pair, factor), difference(*pair)
    assume(math.isfinite(span.high))
    excess = abs(plain.value) / plain.standard_error / factor
    assume(abs(excess - 1.0) > 1e-6)
    assert span.excludes_zero == (excess > 1.0)


def test_without_a_control_the_uplift_is_unbounded() -> None:
    some = Estimate(0.1, 1e-4, 100.0)
    for control in (
        Estimate(0.0, 1e-6, 100.0),
        Estimate(0.01, 1e-2, 100.0),
        Estimate(math.nan, math.nan, 0.0),
    ):
        assert uplift_interval(some, control, 2.0) == EVERYTHING
    assert uplift_interval(some, some, math.inf) == EVERYTHING


def draw(seed: int, users: int, rate: float) -> Estimate:
    """CTR of users whose activity has a heavy tail and who differ in how readily they click."""
    draws = np.random.default_rng(seed)
    shown = np.minimum(1 + draws.pareto(1.5, users) * 4, 1_000).astype(np.int64)
    own = np.minimum(rate * draws.gamma(2.0, 0.5, users), 1.0)
    return ratio(draws.binomial(shown, own).astype(np.float64), shown.astype(np.float64))


def test_intervals_have_the_stated_coverage_and_possible_ends() -> None:
    """Rare clicks, an uplift of 50 %: some 200 and 300 clicks by 1,000 users in each arm."""
    runs, uplift, covered, always, rates = 500, 0.5, 0, 0, 0
    sequence = ConfidenceSequence(0.05, 20_000.0)
    for seed in range(runs):
        other, one = draw(2 * seed, 1_000, 0.02), draw(2 * seed + 1, 1_000, 0.02 * (1 + uplift))
        span = uplift_interval(one, other, fixed_factor(0.05))
        covered += span.low <= uplift <= span.high
        wide = uplift_interval(one, other, sequence.factor(one.observations + other.observations))
        always += wide.low <= uplift <= wide.high
        assert -1.0 <= wide.low <= span.low
        clipped = Judged(other, low=0.0, high=1.0).span(fixed_factor(0.05)) or Span(1.0, 0.0)
        plain = fixed_interval(other, 0.05)
        assert 0.0 <= clipped.low <= clipped.high <= 1.0
        assert (clipped.low <= 0.02 <= clipped.high) == (plain.low <= 0.02 <= plain.high)
        rates += clipped.low <= 0.02 <= clipped.high
    assert 0.92 <= covered / runs <= 0.98  # 94.1 % of 3,000 runs
    assert (
        0.90 <= rates / runs <= 0.98
    )  # of one skewed figure alone, the ordinary interval is a little narrow
    assert always / runs >= 0.985
