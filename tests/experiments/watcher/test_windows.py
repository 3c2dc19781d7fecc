"""AUC within windows, and windows that are merged when there are too many."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_ctr.config.experiment import BUCKETS
from stream_ctr.experiments.report.model import Bounded
from stream_ctr.experiments.statistics.delong import AreaPool, area, area_difference
from stream_ctr.experiments.watcher.windows import MOST_ENDS, End, Scores, Totals, pools, thinned


def scored(seed: int, count: int) -> tuple[np.ndarray, ...]:
    """Running numbers, buckets, probabilities of two arms (some missing), labels."""
    draws = np.random.default_rng(seed)
    truth = draws.standard_normal(count)
    labels = (draws.random(count) < 1 / (1 + np.exp(1.0 - truth))).astype(float)
    p = 1 / (1 + np.exp(-truth[:, None] - draws.standard_normal((count, 2))))
    p[draws.random((count, 2)) < 0.05] = np.nan
    return np.arange(count), draws.integers(0, 60, count), p, labels


@settings(max_examples=15)
@given(st.lists(st.integers(1, 200), min_size=1, max_size=10), st.sampled_from([10_000, 150, 64]))
def test_the_kept_impressions_do_not_depend_on_chunks(sizes: list[int], most: int) -> None:
    numbers, bucket, p, labels = scored(1, 700)
    one, other = Scores(2, most), Scores(2, most)
    one.add(numbers, bucket, p, labels)
    start = 0
    for size in [*sizes, len(numbers)]:
        part = slice(start, start + size)
        other.add(numbers[part], bucket[part], p[part], labels[part])
        start += size
        fresh = Scores(2, most)
        fresh.load(other.rows(), other.stride)
        other = fresh
    assert min(699, most // 4) < len(one.rows()) <= most
    np.testing.assert_array_equal(one.rows(), other.rows())
    assert set(one.rows()[:, 0] % one.stride) == {0.0}


def test_a_closed_window_is_pooled_and_dropped() -> None:
    numbers, bucket, p, labels = scored(2, 800)
    scores, own, differences = Scores(2), pools(2), pools(2)
    scores.add(numbers, bucket, p, labels)
    scores.close(own, differences)
    for arm in range(2):
        known = np.isfinite(p[:, arm])
        expected = area(p[known, arm], labels[known] > 0.5)
        assert expected is not None
        assert own[arm].estimate().value == pytest.approx(expected.value)
        assert own[arm].events == known.sum()
    both = np.isfinite(p).all(axis=1)
    expected = area_difference(p[both, 1], p[both, 0], labels[both] > 0.5)
    assert expected is not None
    alone = AreaPool(BUCKETS)
    alone.add(expected, labels[both] > 0.5, bucket[both])
    assert differences[1].estimate() == alone.estimate()
    assert differences[0].events == 0.0
    assert len(scores.rows()) == 0
    scores.close(own, differences)
    assert differences[1].estimate() == alone.estimate()


def test_the_auc_of_one_model_matches_a_loop_over_all_pairs() -> None:
    _, _, p, labels = scored(3, 150)
    known = np.isfinite(p[:, 0])
    values, clicked = p[known, 0], labels[known] > 0.5
    kernel = (values[clicked][:, None] > values[~clicked][None, :]).astype(float)
    whole = area(values, clicked)
    assert whole is not None
    found = whole.estimate()
    assert found.value == pytest.approx(kernel.mean())
    by_click, by_other = kernel.mean(axis=1), kernel.mean(axis=0)
    expected = by_click.var(ddof=1) / len(by_click) + by_other.var(ddof=1) / len(by_other)
    assert found.variance == pytest.approx(expected)


def test_with_few_clicks_there_is_no_auc() -> None:
    scores, own = Scores(1), pools(1)
    labels = np.array([1.0] * 9 + [0.0] * 500)
    scores.add(np.arange(509), np.arange(509), np.linspace(0.9, 0.1, 509)[:, None], labels)
    scores.close(own, pools(1))
    assert own[0].events == 0.0


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
