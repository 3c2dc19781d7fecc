"""AUC within windows, and windows that are merged when there are too many."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_ctr.experiments.delong import Pool, auc, auc_difference, pooled
from stream_ctr.experiments.estimates import NOTHING, Estimate
from stream_ctr.experiments.report_model import Bounded
from stream_ctr.experiments.windows import MOST_ENDS, End, Scores, Totals, thinned


def scored(seed: int, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Running numbers, probabilities of two arms (some missing), labels."""
    draws = np.random.default_rng(seed)
    truth = draws.standard_normal(count)
    labels = (draws.random(count) < 1 / (1 + np.exp(1.0 - truth))).astype(float)
    p = 1 / (1 + np.exp(-truth[:, None] - draws.standard_normal((count, 2))))
    p[draws.random((count, 2)) < 0.05] = np.nan
    return np.arange(count), p, labels


@settings(max_examples=15)
@given(st.lists(st.integers(1, 200), min_size=1, max_size=10), st.sampled_from([10_000, 150, 64]))
def test_what_is_held_does_not_depend_on_chunks(sizes: list[int], most: int) -> None:
    numbers, p, labels = scored(1, 700)
    one, other = Scores(2, most), Scores(2, most)
    one.add(numbers, p, labels)
    start = 0
    for size in [*sizes, len(numbers)]:
        part = slice(start, start + size)
        other.add(numbers[part], p[part], labels[part])
        start += size
        fresh = Scores(2, most)
        fresh.load(other.rows(), other.stride)
        other = fresh
    assert min(699, most // 4) < len(one.rows()) <= most
    np.testing.assert_array_equal(one.rows(), other.rows())
    assert set(one.rows()[:, 0] % one.stride) == {0.0}


def test_a_closed_window_gives_delongs_figures_and_holds_nothing() -> None:
    numbers, p, labels = scored(2, 800)
    scores = Scores(2)
    scores.add(numbers, p, labels)
    own, differences = scores.close()
    for arm in range(2):
        known = np.isfinite(p[:, arm])
        assert own[arm] == auc(p[known, arm], labels[known] > 0.5)
    both = np.isfinite(p).all(axis=1)
    assert differences[1] == auc_difference(p[both, 1], p[both, 0], labels[both] > 0.5)
    assert differences[0] is NOTHING
    assert len(scores.rows()) == 0
    assert scores.close()[0] == [NOTHING, NOTHING]


def test_the_auc_of_one_model_is_that_of_all_pairs() -> None:
    _, p, labels = scored(3, 150)
    known = np.isfinite(p[:, 0])
    values, clicked = p[known, 0], labels[known] > 0.5
    kernel = (values[clicked][:, None] > values[~clicked][None, :]).astype(float)
    found = auc(values, clicked)
    assert found.value == pytest.approx(kernel.mean())
    by_click, by_other = kernel.mean(axis=1), kernel.mean(axis=0)
    expected = by_click.var(ddof=1) / len(by_click) + by_other.var(ddof=1) / len(by_other)
    assert found.variance == pytest.approx(expected)


def test_few_clicks_make_no_auc() -> None:
    scores = Scores(1)
    labels = np.array([1.0] * 9 + [0.0] * 500)
    scores.add(np.arange(509), np.linspace(0.9, 0.1, 509)[:, None], labels)
    assert scores.close()[0] == [NOTHING]


def test_a_pool_is_the_weighted_mean() -> None:
    windows = [Estimate(0.1, 0.01, 300.0), NOTHING, Estimate(0.3, 0.02, 700.0)]
    pool = Pool()
    for window in windows:
        pool.add(window)
    assert pool.estimate() == pooled(windows)
    assert pool.estimate().value == pytest.approx(0.3 * 0.1 + 0.7 * 0.3)
    assert pool.estimate().variance == pytest.approx(0.3**2 * 0.01 + 0.7**2 * 0.02)


def test_too_many_ends_are_thinned_and_no_time_is_lost() -> None:
    ends: list[End] = []
    for number in range(2_000):
        figure = Bounded(estimate=float(number))
        end = End(
            start_ms=10 * number,
            end_ms=10 * number + 10,
            totals=[Totals(impressions=number + 1)],
            arms=[{"ctr": figure}],
            comparisons=[{}],
        )
        ends = thinned([*ends, end])
        assert len(ends) <= MOST_ENDS
        assert ends[-1] is not end or ends[-1].end_ms == 10 * number + 10
        assert ends[0].start_ms == 0
        assert ends[-1].totals[0].impressions == number + 1
    assert all(one.end_ms == other.start_ms for one, other in itertools.pairwise(ends))
