"""Ratios over users, against slow transcriptions, resampling, and an independent package."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pytest
import tea_tasting
from hypothesis import given
from hypothesis import strategies as st

from stream_ctr.experiments.statistics.estimates import Estimate, difference, ratio, uplift


def users(seed: int, count: int, rate: float) -> tuple[np.ndarray, np.ndarray]:
    """Clicks and impressions of users that repeat and differ."""
    draws = np.random.default_rng(seed)
    shown = draws.geometric(0.1, count)
    own = rate * draws.gamma(2.0, 0.5, count)
    return draws.binomial(shown, np.minimum(own, 1.0)).astype(float), shown.astype(float)


def slow_ratio(numerator: list[float], denominator: list[float]) -> tuple[float, float]:
    """The delta method from means, variances and the covariance, as the textbook has it."""
    count = len(numerator)
    mean_n, mean_d = sum(numerator) / count, sum(denominator) / count
    var_n = sum((n - mean_n) ** 2 for n in numerator) / (count - 1)
    var_d = sum((d - mean_d) ** 2 for d in denominator) / (count - 1)
    both = zip(numerator, denominator, strict=True)
    cov = sum((n - mean_n) * (d - mean_d) for n, d in both) / (count - 1)
    value = mean_n / mean_d
    variance = (var_n - 2 * value * cov + value**2 * var_d) / mean_d**2 / count
    return value, variance


@given(
    st.lists(
        st.tuples(st.floats(0.0, 50.0), st.floats(0.1, 100.0)),
        min_size=2,
        max_size=40,
    )
)
def test_a_ratio_and_its_variance_match_the_textbook(pairs: list[tuple[float, float]]) -> None:
    numerator, denominator = [n for n, _ in pairs], [d for _, d in pairs]
    found = ratio(np.array(numerator), np.array(denominator))
    value, variance = slow_ratio(numerator, denominator)
    assert found.value == pytest.approx(value, rel=1e-12)
    assert found.variance == pytest.approx(variance, rel=1e-6, abs=1e-9)


def test_buckets_without_events_are_ignored() -> None:
    clicks, shown = users(1, 500, 0.1)
    found = ratio(clicks, shown)
    padded = ratio(np.concatenate([clicks, np.zeros(300)]), np.concatenate([shown, np.zeros(300)]))
    assert padded == found


def test_the_variance_matches_repeated_draws_and_the_naive_one_does_not() -> None:
    found = [ratio(*users(seed, 800, 0.1)) for seed in range(400)]
    spread = float(np.var([estimate.value for estimate in found], ddof=1))
    told = float(np.mean([estimate.variance for estimate in found]))
    assert told == pytest.approx(spread, rel=0.3)
    naive = float(np.mean([e.value * (1 - e.value) / e.observations for e in found]))
    assert naive < 0.8 * spread


def test_difference_and_uplift_match_an_independent_package() -> None:
    control, treatment = users(3, 3_000, 0.10), users(4, 2_000, 0.12)
    data = {
        "variant": np.repeat([0, 1], [3_000, 2_000]),
        "clicks": np.concatenate([control[0], treatment[0]]),
        "shown": np.concatenate([control[1], treatment[1]]),
    }
    metric = tea_tasting.RatioOfMeans("clicks", "shown", use_t=False, equal_var=False)
    other = tea_tasting.Experiment(ctr=metric).analyze(pa.table(data))["ctr"]
    absolute = difference(ratio(*treatment), ratio(*control))
    relative = uplift(ratio(*treatment), ratio(*control))
    assert absolute.value == pytest.approx(other.effect_size, rel=1e-9)
    half = (other.effect_size_ci_upper - other.effect_size_ci_lower) / 2
    assert 1.959964 * absolute.standard_error == pytest.approx(half, rel=1e-5)
    assert relative.value == pytest.approx(other.rel_effect_size, rel=1e-9)


def test_the_variance_of_an_uplift_matches_repeated_draws() -> None:
    found = [
        uplift(ratio(*users(2 * seed, 600, 0.2)), ratio(*users(2 * seed + 1, 600, 0.2)))
        for seed in range(300)
    ]
    spread = float(np.var([estimate.value for estimate in found], ddof=1))
    assert float(np.mean([estimate.variance for estimate in found])) == pytest.approx(spread, rel=0.25)


def test_without_data_there_is_no_estimate() -> None:
    nothing = ratio(np.zeros(4), np.zeros(4))
    assert math.isnan(nothing.value)
    assert nothing.observations == 0.0
    one = ratio(np.array([1.0, 0.0]), np.array([3.0, 0.0]))
    assert one.value == pytest.approx(1 / 3)
    assert math.isnan(one.variance)
    assert math.isnan(one.standard_error)
    assert math.isnan(uplift(Estimate(0.1, 0.01, 5.0), Estimate(0.0, 0.01, 5.0)).value)
