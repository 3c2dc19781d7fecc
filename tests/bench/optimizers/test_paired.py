"""The interval of a paired difference: its formula and its coverage."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.signal import lfilter
from scipy.stats import ttest_1samp

from stream_ctr.bench.optimizers.paired import block_interval
from stream_ctr.errors import UsageError


def test_interval_is_students_over_the_means_of_the_blocks() -> None:
    rng = np.random.default_rng(1)
    difference = rng.normal(0.1, 1.0, 1_037)
    found = block_interval(difference, 50, level=0.9)
    means = [float(np.mean(difference[at : at + 50])) for at in range(0, 1_000, 50)]
    expected = ttest_1samp(means, 0.0).confidence_interval(0.9)
    assert found.blocks == 20
    assert found.mean == pytest.approx(np.mean(means))
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


def autocorrelated(memory: float, events: int, rng: np.random.Generator) -> np.ndarray:
    """Differences with mean 0, each ``memory`` times the last one plus noise."""
    noise = rng.normal(0.0, 1.0, events + 1_000)
    series: np.ndarray = lfilter([1.0], [1.0, -memory], noise)[1_000:]
    return series


def test_the_interval_has_its_coverage_for_autocorrelated_differences() -> None:
    rng, runs = np.random.default_rng(2), 1_000
    inside = {1: 0, 200: 0}
    for _ in range(runs):
        difference = autocorrelated(0.9, 20_000, rng)
        for block in inside:
            found = block_interval(difference, block)
            inside[block] += found.low <= 0.0 <= found.high
    # The standard error of a share of 95 % in 1,000 runs is .7 %. Blocks of 200 see most of a memory of
    # some 20 events; single events see none of it.
    assert 0.92 <= inside[200] / runs <= 0.98
    assert inside[1] / runs < 0.6


def test_too_few_blocks_are_rejected() -> None:
    with pytest.raises(UsageError, match="99 scored events in blocks of 20 give 4 blocks; at least 5"):
        block_interval(np.zeros(99), 20)


def test_equal_learners_have_a_zero_width_interval() -> None:
    found = block_interval(np.zeros(100), 10)
    assert (found.mean, found.low, found.high) == (0.0, 0.0, 0.0)
    assert not found.certain
    assert not math.isnan(found.mean)
