"""Sums by bucket against loops, in chunks of any size; figures against textbook formulas; level by A/A."""

from __future__ import annotations

import math
from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_ctr.config.experiment import BUCKETS
from stream_ctr.errors import StateError
from stream_ctr.experiments.statistics.confidence_sequence import ConfidenceSequence, fixed_interval
from stream_ctr.experiments.statistics.estimates import NOTHING, Estimate, entropy, over_entropy
from stream_ctr.experiments.watcher.figures import (
    arm_estimates,
    bounded,
    comparison_estimates,
    figures,
    withheld,
)
from stream_ctr.experiments.watcher.sums import FIRST_CLICKS, BucketSums, row_type

ARMS = ("control", "new")


def rows(
    seed: int, count: int, arms: int = 2, users: int = 400, spread: float = 0.4
) -> tuple[np.ndarray, ...]:
    """Impressions of users that repeat and differ, and labels; all arms alike."""
    draws = np.random.default_rng(seed)
    made = np.zeros(count, row_type(arms))
    bucket = draws.integers(0, BUCKETS, users)
    own = np.exp(spread * draws.standard_normal(users) - spread**2 / 2)
    who = (users * draws.random(count) ** 2).astype(int)
    made["bucket"] = bucket[who]
    made["arm"] = (bucket[who] >= BUCKETS // 2).astype(int)
    made["bid"] = np.exp(draws.standard_normal(count))
    truth = np.minimum(0.15 * own[who], 0.9)
    labels = (draws.random(count) < truth).astype(np.float64)
    logit = np.log(truth / (1 - truth))[:, None] + 0.3 * draws.standard_normal((count, arms))
    made["p"] = 1 / (1 + np.exp(-logit))
    made["served"] = made["p"][np.arange(count), made["arm"]]
    return made, labels


def slow(
    made: np.ndarray, labels: np.ndarray, arms: int, cut: float
) -> dict[str, dict[tuple[int, int], float]]:
    """Every sum by (arm, bucket), event by event."""
    found: dict[str, dict[tuple[int, int], float]] = defaultdict(lambda: defaultdict(float))
    for row, label in zip(made, labels, strict=True):
        place = int(row["arm"]), int(row["bucket"])
        found["impressions"][place] += 1
        found["clicks"][place] += label
        found["worth"][place] += label * row["bid"]
        found["clipped"][place] += label * min(row["bid"], cut)
        found["served"][place] += row["served"]
        loss = [
            math.nan if math.isnan(p) else -math.log(p) if label else -math.log(1 - p)
            for p in row["p"].tolist()
        ]
        for arm in range(arms):
            other = arm, place[1]
            if not math.isnan(loss[arm]):
                found["scored"][other] += 1
                found["scored_clicks"][other] += label
                found["loss"][other] += loss[arm]
                found["predicted"][other] += row["p"][arm]
            if arm and not math.isnan(loss[arm] - loss[0]):
                found["pairs"][other] += 1
                found["pair_clicks"][other] += label
                found["pair_loss"][other] += loss[arm] - loss[0]
    return found


@pytest.mark.parametrize("count", [300, 9_000])  # too few and enough clicks to settle where to cut
def test_sums_match_a_loop(count: int) -> None:
    made, labels = rows(1, count, arms=3)
    made["p"][np.random.default_rng(2).random((count, 3)) < 0.1] = np.nan
    sums = BucketSums(3, 0.9)
    sums.add(made, labels)
    worth = sorted(made["bid"][labels > 0.5][:FIRST_CLICKS].tolist())
    cut = worth[math.ceil(0.9 * len(worth)) - 1]
    assert sums.clip_value == cut
    assert (len(worth) == FIRST_CLICKS) == (count == 9_000)
    for name, by_place in slow(made, labels, 3, cut).items():
        expected = np.zeros((3, BUCKETS))
        for place, value in by_place.items():
            expected[place] = value
        np.testing.assert_allclose(getattr(sums, name), expected, rtol=1e-12, atol=1e-12, err_msg=name)


@settings(max_examples=10)
@given(st.lists(st.integers(1, 2_000), min_size=1, max_size=20))
def test_chunks_of_any_size_are_bit_identical_even_across_a_restart(sizes: list[int]) -> None:
    made, labels = rows(3, 9_000)
    whole, parts = BucketSums(2, 0.99), BucketSums(2, 0.99)
    whole.add(made, labels)
    start = 0
    for size in [*sizes, len(made)]:
        parts.add(made[start : start + size], labels[start : start + size])
        start += size
        fresh = BucketSums(2, 0.99)
        fresh.load_state(parts.state())
        parts = fresh
    assert parts.state().equals(whole.state())


def test_damaged_sums_are_rejected() -> None:
    state = BucketSums(2, 0.9).state()
    for name in ("clicks", "pair_loss", "first_place"):
        arrays = {key: array for key, array in state.arrays.items() if key != name}
        with pytest.raises(StateError, match="sums of the experiment are damaged"):
            BucketSums(2, 0.9).load_state(type(state)(arrays, state.values))
    with pytest.raises(StateError, match="not of 3 arms"):
        BucketSums(3, 0.9).load_state(state)


def users(seed: int, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Loss, clicks and impressions by user."""
    draws = np.random.default_rng(seed)
    shown = draws.geometric(0.1, count).astype(float)
    clicks = draws.binomial(shown.astype(int), np.minimum(0.2 * draws.gamma(2.0, 0.5, count), 1.0)).astype(
        float
    )
    return 0.3 * shown + 0.8 * clicks + 0.2 * draws.standard_normal(count), clicks, shown


def test_the_variance_of_normalized_entropy_matches_repeated_draws() -> None:
    found = [over_entropy(*users(seed, 600)) for seed in range(400)]
    spread = float(np.var([estimate.value for estimate in found], ddof=1))
    assert float(np.mean([estimate.variance for estimate in found])) == pytest.approx(spread, rel=0.25)


def test_the_variance_of_normalized_entropy_matches_finite_differences() -> None:
    loss, clicks, shown = users(7, 50)

    def value(weights: np.ndarray) -> float:
        mean, rate = weights @ loss / (weights @ shown), weights @ clicks / (weights @ shown)
        return float(mean / (-rate * math.log(rate) - (1 - rate) * math.log(1 - rate)))

    # The delta method is the infinitesimal jackknife: squares of the figure's slope in each user's weight.
    ones, step = np.ones(50), 1e-6
    slopes = [(value(ones + step * e) - value(ones - step * e)) / (2 * step) for e in np.eye(50)]
    found = over_entropy(loss, clicks, shown)
    assert found.value == pytest.approx(value(ones), rel=1e-12)
    assert found.variance == pytest.approx(50 / 49 * sum(slope**2 for slope in slopes), rel=1e-6)


def test_normalized_entropy_of_one_class_or_one_bucket_is_unknown() -> None:
    one, none = np.array([2.0, 2.0]), np.zeros(2)
    assert math.isnan(over_entropy(one, none, one).value)
    assert math.isnan(over_entropy(one, one, one).value)
    assert math.isnan(over_entropy(none, none, none).value)
    single = over_entropy(np.array([0.5]), np.array([1.0]), np.array([2.0]))
    assert single.value == pytest.approx(0.25 / entropy(0.5))
    assert math.isnan(single.variance)


def test_looking_at_every_window_gives_no_false_positive() -> None:
    """A/A: two arms of the same kind, eight looks each, at level 0.05."""
    runs, level = 40, 0.05
    wrong: dict[str, int] = defaultdict(int)
    naive = 0
    for seed in range(runs):
        sums, sequence = BucketSums(2, 0.99), ConfidenceSequence(level, 4_000)
        excluded: set[str] = set()
        peeked = False
        for look in range(8):
            sums.add(*rows(1000 * seed + look, 500, users=300))
            found = comparison_estimates(sums, ARMS, 1, NOTHING, shadow=False)
            excluded |= {n for n, f in figures(found, sequence).items() if f.verdict in ("better", "worse")}
            loss = found["log_loss"]
            peeked |= not loss.why and fixed_interval(loss.estimate, level).excludes_zero
        for name in excluded:
            wrong[name] += 1
        naive += peeked
    # More than 5 of 40 have probability 1 % at a true share of 5 %.
    assert all(count <= 5 for count in wrong.values()), dict(wrong)
    assert naive > 5


def test_the_figures_of_an_arm_match_the_sums() -> None:
    made, labels = rows(5, 4_000)
    sums = BucketSums(2, 0.95)
    sums.add(made, labels)
    mine = made["arm"] == 1
    found = arm_estimates(sums, ARMS, 1, Estimate(0.7, 1e-4, 4_000.0), shadow=False)
    assert found["ctr"].estimate.value == pytest.approx(labels[mine].mean())
    assert found["advv"].estimate.value == pytest.approx(1000 * (labels * made["bid"])[mine].mean())
    clipped = np.minimum(made["bid"], sums.clip_value or 0.0)
    assert found["advv_clipped"].estimate.value == pytest.approx(1000 * (labels * clipped)[mine].mean())
    p = made["p"][:, 1]
    loss = -(labels * np.log(p) + (1 - labels) * np.log(1 - p))
    assert found["log_loss"].estimate.value == pytest.approx(loss.mean())
    assert found["normalized_entropy"].estimate.value == pytest.approx(loss.mean() / entropy(labels.mean()))
    assert found["calibration"].estimate.value == pytest.approx(p.sum() / labels.sum())
    assert found["auc"].estimate.value == 0.7
    assert (
        arm_estimates(sums, ARMS, 1, NOTHING, shadow=True).keys().isdisjoint({"ctr", "advv", "advv_clipped"})
    )
    compared = comparison_estimates(sums, ARMS, 1, NOTHING, shadow=False)
    q = made["p"][:, 0]
    other = -(labels * np.log(q) + (1 - labels) * np.log(1 - q))
    assert compared["log_loss"].estimate.value == pytest.approx((loss - other).mean())
    ours, theirs = labels[mine].mean(), labels[~mine].mean()
    assert compared["ctr"].estimate.value == pytest.approx(ours - theirs)
    assert compared["ctr_uplift"].estimate.value == pytest.approx(ours / theirs - 1)


def test_with_too_few_clicks_there_is_an_estimate_but_no_interval() -> None:
    sums, sequence = BucketSums(2, 0.99), ConfidenceSequence(0.05, 1_000)
    sums.add(*rows(1, 400))
    found = comparison_estimates(sums, ARMS, 1, NOTHING, shadow=False)
    assert {figure.verdict for figure in figures(found, sequence).values()} == {"early"}
    assert all(each.low is None and each.high is None for each in bounded(found, sequence).values())
    assert bounded(found, sequence)["ctr"].estimate is not None
    hidden = withheld(figures(found, sequence), "the traffic split is not sound")
    assert {(each.estimate, each.p, each.verdict, each.why) for each in hidden.values()} == {
        (None, None, "withheld", "the traffic split is not sound")
    }
