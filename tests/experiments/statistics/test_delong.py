"""DeLong's AUC difference, against its definition in loops and an independent package."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from MLstatkit import Delong_test

from stream_ctr.experiments.statistics.delong import AreaPool, area_difference, auc_difference


def scores(seed: int, count: int, ties: bool = False) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores of two related models, and labels."""
    draws = np.random.default_rng(seed)
    truth = draws.standard_normal(count)
    labels = draws.random(count) < 1 / (1 + np.exp(1.0 - truth))
    better, worse = truth + 0.5 * draws.standard_normal(count), truth + draws.standard_normal(count)
    return (np.round(better), np.round(worse), labels) if ties else (better, worse, labels)


def slow(treatment: np.ndarray, control: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Every pair of a click and a non-click, as the paper defines it."""
    clicks, others = np.flatnonzero(labels), np.flatnonzero(~labels)
    kernel = np.zeros((2, len(clicks), len(others)))
    for model, values in enumerate((treatment, control)):
        for i, click in enumerate(clicks):
            for j, other in enumerate(others):
                kernel[model, i, j] = (values[click] > values[other]) + 0.5 * (values[click] == values[other])
    auc = kernel.mean(axis=(1, 2))
    by_click, by_other = np.cov(kernel.mean(axis=2)), np.cov(kernel.mean(axis=1))
    covariance = by_click / len(clicks) + by_other / len(others)
    return auc[0] - auc[1], covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]


@pytest.mark.parametrize("ties", [False, True])
def test_difference_and_variance_match_a_loop_over_all_pairs(ties: bool) -> None:
    treatment, control, labels = scores(1, 80, ties)
    found = auc_difference(treatment, control, labels)
    value, variance = slow(treatment, control, labels)
    assert found.value == pytest.approx(value, abs=1e-12)
    assert found.variance == pytest.approx(variance, rel=1e-9)


def test_the_variance_matches_an_independent_package() -> None:
    treatment, control, labels = scores(2, 3_000)
    found = auc_difference(treatment, control, labels)
    z, _ = Delong_test(labels.astype(int), control, treatment, return_ci=False, return_auc=False)
    assert found.value / found.standard_error == pytest.approx(z, rel=1e-6)


def test_one_class_has_no_auc() -> None:
    found = auc_difference(np.array([0.1, 0.2]), np.array([0.1, 0.2]), np.array([True, True]))
    assert math.isnan(found.value)
    assert math.isnan(found.variance)
    single = auc_difference(
        np.array([0.3, 0.2, 0.1]), np.array([0.1, 0.2, 0.3]), np.array([True, False, False])
    )
    assert single.value == 1.0
    assert math.isnan(single.variance)


def slow_clustered(windows: Sequence[tuple[np.ndarray, ...]], buckets: int) -> tuple[float, float]:
    """Pooled difference and its variance over buckets, from every pair of a click and a non-click."""
    total = sum(len(labels) for _, _, labels, _ in windows)
    value, moved, met = 0.0, [0.0] * buckets, set[int]()
    for treatment, control, labels, bucket in windows:
        clicks, others = np.flatnonzero(labels), np.flatnonzero(~labels)
        kernel = [
            [
                float(treatment[i] > treatment[j])
                + 0.5 * (treatment[i] == treatment[j])
                - float(control[i] > control[j])
                - 0.5 * (control[i] == control[j])
                for j in others
            ]
            for i in clicks
        ]
        pairs = np.array(kernel)
        own, share = float(pairs.mean()), len(labels) / total
        value += share * own
        for row, event in enumerate(clicks):
            moved[bucket[event]] += share * (pairs[row].mean() - own) / len(clicks)
        for column, event in enumerate(others):
            moved[bucket[event]] += share * (pairs[:, column].mean() - own) / len(others)
        met.update(bucket.tolist())
    return value, len(met) / (len(met) - 1) * sum(each**2 for each in moved)


def test_pooled_windows_and_their_variance_match_a_loop_over_all_pairs() -> None:
    draws, windows = np.random.default_rng(9), []
    pool = AreaPool(30)
    for seed, count in ((3, 70), (4, 40), (5, 90)):
        treatment, control, labels = scores(seed, count, ties=seed == 4)
        bucket = draws.integers(0, 25, count)
        windows.append((treatment, control, labels, bucket))
        found = area_difference(treatment, control, labels)
        assert found is not None
        pool.add(found, labels, bucket)
    value, variance = slow_clustered(windows, 30)
    assert pool.estimate().value == pytest.approx(value, abs=1e-12)
    assert pool.estimate().variance == pytest.approx(variance, rel=1e-9)
    assert pool.estimate().observations == 200.0


def test_with_one_event_per_user_the_variance_is_delongs() -> None:
    treatment, control, labels = scores(6, 4_000)
    found = area_difference(treatment, control, labels)
    assert found is not None
    pool = AreaPool(4_000)
    pool.add(found, labels, np.arange(4_000))
    assert pool.estimate().variance == pytest.approx(found.estimate().variance, rel=5e-3)


def test_user_level_errors_mislead_delongs_variance_but_not_the_clustered_one() -> None:
    """A/A: two models of the same kind, whose errors are each user's own."""
    plain = clustered = 0
    for seed in range(120):
        draws = np.random.default_rng(seed)
        errors, taste = draws.standard_normal((100, 2)), 0.5 * draws.standard_normal(100)
        who = (100 * draws.random(3_000) ** 2).astype(int)
        truth = taste[who] - 2 + 0.7 * draws.standard_normal(3_000)
        labels = draws.random(3_000) < 1 / (1 + np.exp(-truth))
        said = truth[:, None] + errors[who] + 0.3 * draws.standard_normal((3_000, 2))
        found = area_difference(said[:, 1], said[:, 0], labels)
        assert found is not None
        pool = AreaPool(100)
        pool.add(found, labels, who)
        plain += abs(found.value) > 1.96 * found.estimate().standard_error
        clustered += abs(found.value) > 1.96 * pool.estimate().standard_error
    assert clustered <= 11  # more have probability 2 % at a true share of 5 %
    assert plain > clustered
    assert plain >= 12


def test_an_empty_pool_and_a_single_bucket_have_no_variance() -> None:
    assert math.isnan(AreaPool(5).estimate().value)
    treatment, control, labels = scores(7, 50)
    found = area_difference(treatment, control, labels)
    assert found is not None
    pool = AreaPool(5)
    pool.add(found, labels, np.full(50, 2))
    assert pool.estimate().value == pytest.approx(found.value)
    assert math.isnan(pool.estimate().variance)


def test_a_difference_without_influence_has_no_variance() -> None:
    labels = np.array([True, False, True, False, False, True])
    bucket = np.arange(6)
    flat = area_difference(np.full(6, 0.2), np.full(6, 0.1), labels)
    assert flat is not None
    pool = AreaPool(6)
    pool.add(flat, labels, bucket)
    assert pool.estimate().value == 0.0
    assert math.isnan(pool.estimate().variance)
    told = area_difference(np.array([0.3, 0.1, 0.2, 0.2, 0.1, 0.1]), np.full(6, 0.1), labels)
    assert told is not None
    pool.add(told, labels, bucket)
    assert pool.estimate().variance > 0.0
