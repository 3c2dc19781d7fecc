"""Initial weights are a hash of names: reproducible, independent of order, and distributed as documented."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_ctr.models.initial_weights import dense_values, row_values
from tests.support.splitmix64 import splitmix64

MASK = 2**64 - 1


def transcribed_row(seed: int, field: int, key: int, width: int, scale: float) -> list[float]:
    """One row of initial values in plain Python."""
    if key == 0:
        return [0.0] * width
    stream = splitmix64(splitmix64(splitmix64(seed) ^ field) ^ key)
    values = []
    for column in range(width):
        bits = splitmix64(stream ^ splitmix64(column))
        u, v = ((bits >> 32) + 0.5) / 2**32, (bits & 0xFFFFFFFF) / 2**32
        values.append(scale * math.sqrt(-2 * math.log(u)) * math.cos(2 * math.pi * v))
    return values


@settings(deadline=None)  # the first call compiles
@given(
    seed=st.integers(0, 2**63 - 1),
    pairs=st.lists(st.tuples(st.integers(0, 1000), st.integers(0, MASK)), max_size=6),
    width=st.integers(1, 5),
)
def test_rows_are_the_hash_of_seed_field_key_and_column(
    seed: int, pairs: list[tuple[int, int]], width: int
) -> None:
    field = np.array([f for f, _ in pairs], np.int32)
    key = np.array([k for _, k in pairs], np.uint64)
    values = row_values(seed, field, key, width, 0.1)
    assert values.dtype == np.float32
    assert values.shape == (len(pairs), width)
    for row, (f, k) in zip(values, pairs, strict=True):
        np.testing.assert_allclose(row, transcribed_row(seed, f, k, width, 0.1), rtol=1e-5, atol=1e-8)


def rows(seed: int, keys: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return row_values(seed, np.zeros(keys, np.int32), np.arange(1, keys + 1, dtype=np.uint64), 8, 1.0)


def test_rows_are_normal_and_uncorrelated() -> None:
    values = rows(1, 20_000)
    ordered = np.sort(values.ravel())
    normal = np.array([0.5 * (1.0 + math.erf(v / math.sqrt(2.0))) for v in ordered])
    distance = np.abs(normal - (np.arange(ordered.size) + 0.5) / ordered.size).max()
    assert distance < 2.2 / math.sqrt(ordered.size)  # Kolmogorov: exceeded with probability 1e-4
    correlations = np.corrcoef(values, rowvar=False) - np.eye(8)
    assert np.abs(correlations).max() < 5 / math.sqrt(20_000)
    lagged = float(np.mean(values[1:, 0] * values[:-1, 0]))
    assert abs(lagged) < 5 / math.sqrt(20_000)


def test_another_seed_field_or_key_gives_another_row() -> None:
    key = np.array([7], np.uint64)
    first = row_values(1, np.array([0], np.int32), key, 4, 1.0)
    assert not np.array_equal(first, row_values(2, np.array([0], np.int32), key, 4, 1.0))
    assert not np.array_equal(first, row_values(1, np.array([1], np.int32), key, 4, 1.0))
    assert not np.array_equal(first, row_values(1, np.array([0], np.int32), key + np.uint64(1), 4, 1.0))


def test_wider_rows_begin_with_the_narrower_ones() -> None:
    field, key = np.zeros(3, np.int32), np.array([1, 2, 3], np.uint64)
    narrow, wide = row_values(1, field, key, 4, 1.0), row_values(1, field, key, 5, 1.0)
    np.testing.assert_array_equal(narrow, wide[:, :4])


def test_dense_values_depend_on_seed_and_name_and_have_the_deviation_asked_for() -> None:
    values = dense_values(1, "tower.1.weight", (100, 100), 0.3)
    assert abs(float(values.std()) - 0.3) < 0.01
    assert abs(float(values.mean())) < 0.01
    np.testing.assert_array_equal(values, dense_values(1, "tower.1.weight", (100, 100), 0.3))
    for other in (
        dense_values(2, "tower.1.weight", (100, 100), 0.3),
        dense_values(1, "tower.2.weight", (100, 100), 0.3),
    ):
        assert abs(float(np.corrcoef(values.ravel(), other.ravel())[0, 1])) < 0.05
