"""Quantiles learned from a stream: error, publication schedule, state."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from numpy.typing import NDArray

from stream_ctr.errors import StateError
from stream_ctr.features.keys.quantiles import BUFFER, FIRST_PUBLICATION, QuantileBuckets
from stream_ctr.state.state import Json, State


def fed(values: NDArray[np.float64], buckets: int = 16) -> QuantileBuckets:
    summary = QuantileBuckets(buckets)
    for value in values.tolist():
        summary.observe(value)
    return summary


def test_small_streams_have_their_exact_quantiles() -> None:
    values = np.random.default_rng(1).normal(size=512)
    ordered = np.sort(values)
    ranks = np.searchsorted(ordered, fed(values).quantiles())
    assert np.abs(ranks - 512 * np.arange(1, 16) / 16).max() <= 1


@pytest.mark.parametrize("order", ["random", "ascending", "descending"])
def test_ranks_stay_within_the_stated_error(order: str) -> None:
    values = np.random.default_rng(2).lognormal(size=60_000)
    if order != "random":
        values = np.sort(values)[:: 1 if order == "ascending" else -1]
    summary = fed(values)
    ranks = np.searchsorted(np.sort(values), summary.quantiles()) / len(values)
    levels = np.log2(len(values) / BUFFER) + 1
    assert np.abs(ranks - np.arange(1, 16) / 16).max() <= levels / (2 * BUFFER) + 1 / BUFFER


def test_memory_grows_with_the_logarithm_of_the_stream() -> None:
    summary = fed(np.random.default_rng(3).normal(size=60_000))
    assert len(summary.state().arrays["values"]) <= BUFFER * 7


def test_boundaries_change_only_at_the_published_counts() -> None:
    summary = QuantileBuckets(8)
    changed = []
    for count, value in enumerate(np.random.default_rng(4).normal(size=5000).tolist(), start=1):
        before = list(summary.boundaries)
        summary.observe(value)
        if summary.boundaries != before:
            changed.append(count)
    assert changed == [256, 512, 1024, 2048, 4096]


def test_before_the_first_publication_there_is_one_bucket() -> None:
    summary = fed(np.arange(FIRST_PUBLICATION - 1, dtype=np.float64))
    assert {summary.bucket(v) for v in (-1e300, 0.0, 1e300)} == {0}


def test_a_value_that_fills_several_quantiles_has_one_bucket() -> None:
    summary = fed(np.repeat([0.0, 1.0], [900, 124]), buckets=4)
    assert summary.boundaries == [0.0, 0.0, 0.0]
    assert [summary.bucket(v) for v in (-1.0, 0.0, 1.0)] == [0, 3, 3]


@pytest.mark.parametrize("count", [0, 100, 1024, 5000])
def test_a_loaded_summary_continues_like_the_saved_one(count: int) -> None:
    values = np.random.default_rng(5).normal(size=count + 4000)
    summary = fed(values[:count])
    other = QuantileBuckets(16)
    other.load_state(summary.state())
    assert other.state().equals(summary.state())
    for value in values[count:].tolist():
        summary.observe(value)
        other.observe(value)
    assert other.state().equals(summary.state())


@pytest.mark.parametrize(
    ("array", "value"),
    [
        ("values", np.zeros(3)),
        ("values", np.full(476, np.nan)),
        ("lengths", np.array([1500], np.int64)),
        ("odd", np.zeros(9, np.uint8)),
        ("boundaries", np.zeros(2)),
        ("boundaries", -np.arange(15.0)),
    ],
)
def test_a_damaged_summary_is_refused(array: str, value: NDArray[np.float64]) -> None:
    state = fed(np.arange(1500.0)).state()
    damaged = State({**state.arrays, array: value}, state.values)
    with pytest.raises(StateError, match="damaged"):
        QuantileBuckets(16).load_state(damaged)


@pytest.mark.parametrize("values", [{"count": 1500, "buckets": 8}, {"count": "x", "buckets": 16}])
def test_another_configuration_is_refused(values: dict[str, Json]) -> None:
    state = fed(np.arange(1500.0)).state()
    with pytest.raises(StateError):
        QuantileBuckets(16).load_state(dataclasses.replace(state, values=values))


def test_a_missing_array_is_refused() -> None:
    state = fed(np.arange(10.0)).state()
    del state.arrays["odd"]
    with pytest.raises(StateError, match="odd"):
        QuantileBuckets(16).load_state(state)
