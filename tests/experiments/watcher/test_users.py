"""Distinct users against a set; the split's p-value against a test after every user."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_ctr.config.experiment import BUCKETS
from stream_ctr.errors import StateError
from stream_ctr.experiments.assignment import bucket_of
from stream_ctr.experiments.statistics.sample_ratio import log_bayes_factor, log_bayes_factors
from stream_ctr.experiments.watcher import user_table as module
from stream_ctr.experiments.watcher.users import DistinctUsers, UserHash


@settings(max_examples=30)
@given(st.text(max_size=8), st.text(max_size=12))
def test_the_hash_matches_the_assignment(salt: str, user: str) -> None:
    if all(ord(c) < 0xD800 or ord(c) > 0xDFFF for c in salt + user):
        assert UserHash(salt)(user) % BUCKETS == bucket_of(salt, user)


def stream(seed: int, count: int, share: float = 0.3) -> tuple[np.ndarray, np.ndarray]:
    """Users that come back, and the arm of each."""
    draws = np.random.default_rng(seed)
    pool = draws.integers(0, 2**63, 500, dtype=np.uint64)
    arm_of = (draws.random(500) < share).astype(np.int64)
    who = draws.integers(0, 500, count)
    return pool[who], arm_of[who]


@settings(max_examples=25)
@given(st.integers(0, 5), st.lists(st.integers(1, 300), min_size=1, max_size=12))
def test_counts_and_p_match_a_loop_in_chunks_of_any_size(seed: int, sizes: list[int]) -> None:
    keys, arms = stream(seed, 1_000)
    weights = [0.7, 0.3]
    found = DistinctUsers(weights)
    start = 0
    for size in [*sizes, len(keys)]:
        found.add(keys[start : start + size], arms[start : start + size])
        start += size
        saved = found.state()
        found = DistinctUsers(weights)
        found.load_state(saved)
    met, counts, peak = set(), [0, 0], -math.inf
    for key, arm in zip(keys.tolist(), arms.tolist(), strict=True):
        if key not in met:
            met.add(key)
            counts[arm] += 1
            peak = max(peak, log_bayes_factor(counts, weights))
    assert found.counts.tolist() == counts
    assert found.peak == pytest.approx(peak, rel=1e-9)
    assert found.p_value == pytest.approx(math.exp(min(0.0, -peak)))
    whole = DistinctUsers(weights)
    whole.add(keys, arms)
    assert whole.state().equals(found.state())


def test_users_stay_known_after_a_merge(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RECENT", 8)
    draws = np.random.default_rng(3)
    keys = draws.integers(0, 300, 4_000).astype(np.uint64)
    found = DistinctUsers([1.0])
    for part in np.array_split(keys, 200):
        found.add(part, np.zeros(len(part), np.int64))
    assert found.counts.tolist() == [len(set(keys.tolist()))]
    assert found.p_value == 1.0


def test_bayes_factors_at_many_times_match_single_ones() -> None:
    moments = np.array([[0, 1, 0], [5, 1, 9], [400, 301, 199]])
    weights = [5.0, 3.0, 2.0]
    expected = [log_bayes_factor(row, weights) for row in moments.tolist()]
    np.testing.assert_allclose(log_bayes_factors(moments, weights), expected, rtol=1e-9, atol=1e-9)


def test_an_arm_without_weight_is_not_tested() -> None:
    found = DistinctUsers([0.5, 0.0, 0.5])
    keys = np.arange(1_000, dtype=np.uint64)
    found.add(keys, np.where(keys % 2 == 0, 0, 2).astype(np.int64))
    assert found.counts.tolist() == [500, 0, 500]
    assert found.p_value == 1.0


def test_saved_users_of_other_arms_are_rejected() -> None:
    with pytest.raises(StateError, match="of other arms"):
        DistinctUsers([0.5, 0.5]).load_state(DistinctUsers([1.0]).state())
