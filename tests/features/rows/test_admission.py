"""Sighting counts of values without a row: never too low before ageing, bounded, and usable in a flood."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_ctr.features.rows.admission import DEPTH, count_sighting, empty_sketch, used_cells


@settings(deadline=None)
@given(st.lists(st.integers(1, 40), max_size=200), st.integers(2, 9))
def test_estimates_are_never_too_low_and_stop_at_enough(keys: list[int], enough: int) -> None:
    sketch, used = empty_sketch(256), np.zeros(DEPTH, np.int64)
    exact: dict[int, int] = {}
    for key in keys:
        exact[key] = exact.get(key, 0) + 1
        hashed = np.uint64(key * 0x9E3779B97F4A7C15 % 2**64)
        estimate = count_sighting(sketch, used, hashed, enough)
        assert min(exact[key], enough) <= estimate <= enough
    assert used.tolist() == used_cells(sketch).tolist()
    assert used.max() * 2 <= 256 + 2


def test_a_sparse_sketch_counts_exactly() -> None:
    sketch, used = empty_sketch(), np.zeros(DEPTH, np.int64)
    keys = np.random.default_rng(1).integers(1, 2**63, 2000).astype(np.uint64)
    for sighting in range(1, 5):
        assert {count_sighting(sketch, used, key, 9) for key in keys} == {sighting}


def test_in_a_flood_of_new_values_few_are_admitted_by_mistake() -> None:
    sketch, used = empty_sketch(1024), np.zeros(DEPTH, np.int64)
    keys = np.random.default_rng(2).integers(1, 2**63, 50_000).astype(np.uint64)
    admitted = sum(count_sighting(sketch, used, key, 2) >= 2 for key in keys)
    # At most half of the cells of each of four rows are in use: 1 / 16 at the worst moment.
    assert admitted / len(keys) < 1 / 16
    assert used.max() <= 512 + 1
    assert used.tolist() == used_cells(sketch).tolist()


def test_a_frequent_value_is_admitted_during_a_flood() -> None:
    sketch, used = empty_sketch(1024), np.zeros(DEPTH, np.int64)
    flood = np.random.default_rng(3).integers(1, 2**63, 5000).astype(np.uint64)
    best = 0
    for index, key in enumerate(flood):
        count_sighting(sketch, used, key, 8)
        if index % 20 == 0:
            best = max(best, count_sighting(sketch, used, np.uint64(77777777777), 8))
    assert best == 8
