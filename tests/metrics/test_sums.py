"""Each metric against a slow, independently written version."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from stream_ctr.metrics.log_loss import EPSILON, log_losses
from stream_ctr.metrics.sums import (
    BINS,
    Sums,
    auc,
    bin_of,
    normalized_entropy,
    running_base_rates,
)

Floats = NDArray[np.float32]
Labels = NDArray[np.uint8]


def slow_auc(probability: Floats, label: Labels) -> float:
    """Over all pairs of a click and a non-click: does the click score higher? O(n^2)."""
    wins, pairs = 0.0, 0
    for p in probability[label == 1].astype(np.float64):
        for q in probability[label == 0].astype(np.float64):
            wins += 1.0 if p > q else 0.5 if p == q else 0.0
            pairs += 1
    return wins / pairs


def sorted_auc(probability: Floats, label: Labels) -> float:
    """Exact AUC by ranks (Mann-Whitney U), ties at their mean rank."""
    _, place, count = np.unique(probability, return_inverse=True, return_counts=True)
    rank = (np.cumsum(count) - (count - 1) / 2)[place]
    positives = float((label == 1).sum())
    u = rank[label == 1].sum() - positives * (positives + 1) / 2
    return float(u / (positives * (len(label) - positives)))


def slow_log_loss(probability: Floats, label: Labels) -> float:
    total = 0.0
    for p, y in zip(probability.tolist(), label.tolist(), strict=True):
        total -= math.log(min(max(p, 1e-7), 1 - 1e-7)) if y else math.log(1 - min(max(p, 1e-7), 1 - 1e-7))
    return total / len(label)


def draw(size: int, rate: float, seed: int, spread: float = 1.0) -> tuple[Floats, Labels, Floats]:
    """Predicted probability, label and ground truth of ``size`` events with about this click rate."""
    rng = np.random.default_rng(seed)
    logit = rng.normal(math.log(rate / (1 - rate)), spread, size)
    truth = 1 / (1 + np.exp(-logit))
    guess = 1 / (1 + np.exp(-(logit + rng.normal(0, 0.5, size))))
    return (
        guess.astype(np.float32),
        (rng.random(size) < truth).astype(np.uint8),
        truth.astype(np.float32),
    )


def sums_of(probability: Floats, label: Labels, truth: Floats | None = None) -> Sums:
    sums = Sums.empty()
    none = np.full(len(label), np.nan, np.float32)
    sums.add(probability, label, none if truth is None else truth, running_base_rates(label, 0, 0))
    return sums


def test_every_metric_agrees_with_its_slow_version() -> None:
    p, y, t = draw(1500, 0.1, seed=1)
    values = sums_of(p, y, t).values()
    base = [0.5]
    for n in range(1, len(y)):
        base += [(y[:n].sum() + 0.5) / (n + 1)]
    rate = y.mean()
    entropy = -rate * math.log(rate) - (1 - rate) * math.log(1 - rate)
    loss, base_loss = slow_log_loss(p, y), slow_log_loss(np.array(base, np.float32), y)
    truth = t.astype(np.float64)
    assert values.events == 1500
    assert values.clicks == y.sum()
    assert values.log_loss == pytest.approx(loss, rel=1e-12)
    assert values.ne == pytest.approx(loss / entropy, rel=1e-12)
    assert values.auc == pytest.approx(slow_auc(p, y), abs=1e-4)
    assert values.calibration == pytest.approx(p.astype(np.float64).sum() / y.sum(), rel=1e-12)
    assert values.base_rate == pytest.approx(rate, rel=1e-12)
    assert values.mean_probability == pytest.approx(p.astype(np.float64).mean(), rel=1e-12)
    assert values.base_log_loss == pytest.approx(base_loss, rel=1e-12)
    assert values.planted_calibration == pytest.approx(p.astype(np.float64).sum() / truth.sum(), rel=1e-12)
    assert values.bayes_log_loss == pytest.approx(slow_log_loss(t, y), rel=1e-12)
    expected = np.mean(-truth * np.log(truth) - (1 - truth) * np.log(1 - truth))
    assert values.bayes_expected_log_loss == pytest.approx(expected, rel=1e-12)
    share = (base_loss - loss) / (base_loss - slow_log_loss(t, y))
    assert values.share_of_way == pytest.approx(share, rel=1e-9)


@pytest.mark.parametrize("rate", [0.0005, 0.003, 0.03, 0.3, 0.7, 0.99])
@pytest.mark.parametrize("spread", [0.3, 1.0, 2.5])
def test_auc_of_counts_is_exact_to_1e_4(rate: float, spread: float) -> None:
    """Or to 1 % of its standard error, if clicks are so few that this is more."""
    p, y, _ = draw(200_000, rate, seed=2, spread=spread)
    standard_error = (12 * min(y.sum(), len(y) - y.sum())) ** -0.5
    exact = sorted_auc(p, y)
    assert auc(sums_of(p, y).bins) == pytest.approx(exact, abs=max(1e-4, 0.01 * standard_error))


def test_the_two_exact_auc_oracles_agree() -> None:
    p, y, _ = draw(800, 0.2, seed=3)
    p = np.round(p, 2)
    assert sorted_auc(p, y) == pytest.approx(slow_auc(p, y), rel=1e-12)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([0.001, 0.02, 0.1, 0.5, 0.9]), st.integers(0, 1)), min_size=2))
def test_auc_with_ties_is_exact_where_scores_have_bins_of_their_own(events: list[tuple[float, int]]) -> None:
    p, y = np.array([e[0] for e in events], np.float32), np.array([e[1] for e in events], np.uint8)
    found = auc(sums_of(p, y).bins)
    if y.min() == y.max():
        assert math.isnan(found)
    else:
        assert found == pytest.approx(slow_auc(p, y), rel=1e-12)


def test_constant_prediction_has_auc_one_half_and_the_right_rate_has_entropy_one() -> None:
    y = np.array([1, 0, 0, 0] * 50, np.uint8)
    values = sums_of(np.full(200, 0.25, np.float32), y).values()
    assert values.auc == 0.5
    assert values.ne == pytest.approx(1.0, rel=1e-12)
    assert values.calibration == 1.0


def test_sums_of_two_halves_add_up_to_the_sums_of_the_whole() -> None:
    p, y, t = draw(1000, 0.2, seed=4)
    base = running_base_rates(y, 0, 0)
    halves = [Sums.empty(), Sums.empty()]
    for half, part in zip(halves, (slice(0, 300), slice(300, 1000)), strict=True):
        half.add(p[part], y[part], t[part], base[part])
    merged, whole = halves[0] + halves[1], sums_of(p, y, t)
    assert np.array_equal(merged.bins, whole.bins)
    assert np.array_equal(merged.counts, whole.counts)
    np.testing.assert_allclose(merged.totals, whole.totals, rtol=1e-13)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 500), max_size=6))
def test_adding_in_chunks_of_any_size_gives_the_same_bits(cuts: list[int]) -> None:
    p, y, t = draw(500, 0.2, seed=5)
    base = running_base_rates(y, 0, 0)
    chunked = Sums.empty()
    edges = [0, *sorted(cuts), 500]
    for start, stop in itertools.pairwise(edges):
        chunked.add(p[start:stop], y[start:stop], t[start:stop], base[start:stop])
    assert chunked.state().equals(sums_of(p, y, t).state())


def test_probabilities_of_zero_and_one_cost_the_documented_loss_and_are_counted() -> None:
    p = np.array([0.0, 1.0, 1.0, 0.0, 0.5], np.float32)
    y = np.array([1, 0, 1, 0, 1], np.uint8)
    worst = -math.log(EPSILON)
    np.testing.assert_allclose(
        log_losses(p, y), [worst, -math.log1p(EPSILON - 1), EPSILON, EPSILON, math.log(2)], rtol=1e-6
    )
    values = sums_of(p, y).values()
    assert values.clipped == 4
    assert math.isfinite(values.log_loss)
    assert values.auc == pytest.approx(slow_auc(p, y), rel=1e-12)


def test_bins_are_ascending_and_reach_both_ends() -> None:
    p = np.concatenate([[0.0], np.logspace(-8, -0.001, 2000), 1 - np.logspace(-3, -9, 500), [1.0]])
    places = [bin_of(float(x)) for x in p]
    assert places == sorted(places)
    assert places[0] == 0
    assert places[-1] == BINS - 1
    assert BINS // 2 - 1 <= bin_of(0.5) <= BINS // 2


def test_metrics_that_are_not_defined_are_nan_and_null_in_json() -> None:
    empty = Sums.empty().values()
    assert empty.events == 0
    assert math.isnan(empty.log_loss)
    no_click = sums_of(np.array([0.1, 0.2], np.float32), np.zeros(2, np.uint8)).values()
    assert math.isnan(no_click.auc)
    assert math.isnan(no_click.ne)
    assert math.isnan(no_click.calibration)
    assert no_click.as_dict()["auc"] is None
    assert no_click.as_dict()["log_loss"] == pytest.approx(no_click.log_loss)


def test_normalised_entropy_needs_both_labels() -> None:
    assert math.isnan(normalized_entropy(0.3, 0.0))
    assert math.isnan(normalized_entropy(0.3, 1.0))


def test_truth_counts_only_if_known() -> None:
    p, y, t = draw(400, 0.3, seed=6)
    t[::2] = np.nan
    values = sums_of(p, y, t).values()
    base = running_base_rates(y, 0, 0)
    odd = slice(1, None, 2)
    model, best = slow_log_loss(p[odd], y[odd]), slow_log_loss(t[odd], y[odd])
    assert values.planted_events == 200
    assert values.bayes_log_loss == pytest.approx(best, rel=1e-12)
    start = slow_log_loss(base[odd], y[odd])
    assert values.share_of_way == pytest.approx((start - model) / (start - best), rel=1e-9)


def test_share_of_uplift_is_one_at_the_optimum_and_zero_at_the_base_rate() -> None:
    _, y, t = draw(2000, 0.2, seed=7)
    base = running_base_rates(y, 0, 0)
    assert sums_of(t, y, t).values().share_of_way == pytest.approx(1.0)
    at_base = Sums.empty()
    at_base.add(base, y, t, base)
    assert at_base.values().share_of_way == pytest.approx(0.0)
