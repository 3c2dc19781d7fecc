"""Always-valid intervals: against an independent package, and under continuous monitoring."""

from __future__ import annotations

import math

import numpy as np
import pytest
import ville
from hypothesis import given
from hypothesis import strategies as st

from stream_ctr.errors import ConfigError
from stream_ctr.experiments.statistics.confidence_sequence import ConfidenceSequence, fixed_interval
from stream_ctr.experiments.statistics.estimates import Estimate


def test_intervals_of_a_mean_match_an_independent_package() -> None:
    draws = np.random.default_rng(5).gamma(2.0, 1.5, 4_000)
    other = ville.AsymptoticCS(alpha=0.1, t_opt=1_000, min_samples=100).fit(draws)
    sequence = ConfidenceSequence(0.1, 1_000)
    for count in (100, 999, 4_000):
        seen = draws[:count]
        span = sequence.interval(Estimate(float(seen.mean()), float(seen.var(ddof=1)) / count, count))
        assert span.low == pytest.approx(other.lower_[count - 1], rel=1e-5)
        assert span.high == pytest.approx(other.upper_[count - 1], rel=1e-5)


@given(st.floats(1e-4, 0.5), st.floats(10.0, 1e8))
def test_the_interval_is_narrowest_at_the_planned_number(alpha: float, planned: float) -> None:
    def width(sequence: ConfidenceSequence) -> float:
        return sequence.factor(planned)

    best = width(ConfidenceSequence(alpha, planned))
    for other in (0.5, 0.9, 1.1, 2.0):
        assert best <= width(ConfidenceSequence(alpha, max(1.0, other * planned))) * (1 + 1e-12)


@given(st.floats(-0.1, 0.1), st.floats(1e-6, 1e-3), st.floats(100.0, 1e7))
def test_the_p_value_is_the_smallest_level_that_excludes_zero(
    value: float, variance: float, n: float
) -> None:
    estimate = Estimate(value, variance, n)
    sequence = ConfidenceSequence(0.05, 1e5)
    excluded = sequence.interval(estimate).excludes_zero
    p_value = sequence.p_value(estimate)
    assert 0.0 <= p_value <= 1.0
    if abs(p_value - 0.05) > 1e-6:
        assert excluded == (p_value < 0.05)


def test_continuous_monitoring_keeps_the_level_and_an_ordinary_interval_does_not() -> None:
    draws = np.random.default_rng(11).standard_normal((1_000, 5_000))
    looks = np.arange(100, 5_001, 25)
    means = (np.cumsum(draws, axis=1) / np.arange(1, 5_001))[:, looks - 1]
    sequence = ConfidenceSequence(0.05, 2_000)
    factors = np.array([sequence.factor(float(count)) for count in looks])
    standard = np.sqrt(1.0 / looks)
    wrong = (np.abs(means) > factors * standard).any(axis=1).mean()
    naive = (np.abs(means) > 1.96 * standard).any(axis=1).mean()
    assert wrong <= 0.05
    assert naive > 0.25


def test_without_a_variance_the_interval_is_unbounded() -> None:
    sequence = ConfidenceSequence(0.05, 1_000)
    for estimate in (
        Estimate(math.nan, math.nan, 0.0),
        Estimate(0.1, math.nan, 5.0),
        Estimate(0.1, 0.1, 0.0),
    ):
        assert sequence.interval(estimate).low == -math.inf
        assert sequence.p_value(estimate) == 1.0
    assert fixed_interval(Estimate(math.nan, math.nan, 0.0), 0.05).high == math.inf


@pytest.mark.parametrize(("alpha", "planned"), [(0.0, 10.0), (1.0, 10.0), (math.nan, 10.0), (0.05, 0.0)])
def test_invalid_levels_and_plans_are_rejected(alpha: float, planned: float) -> None:
    with pytest.raises(ConfigError, match=r"level alpha|planned observations"):
        ConfidenceSequence(alpha, planned)
