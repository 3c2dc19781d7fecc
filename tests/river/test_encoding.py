"""From raw dicts to keys: equivalence of values, and growth of the schema."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from stream_ctr.errors import RecordError, StateError, UsageError
from stream_ctr.features.keys.quantiles import QuantileBuckets
from stream_ctr.river.encoding import SHARED_SLOTS, DictEncoder, _rounded
from stream_ctr.state.state import State


def encoder(fields: int = 4, max_values: int = 3, buckets: int = 8) -> DictEncoder:
    return DictEncoder(fields, max_values, buckets)


def learn(target: DictEncoder, x: dict[Any, Any]) -> NDArray[np.uint64]:
    return target.keys(target.parse(x))


def peek(target: DictEncoder, x: dict[Any, Any]) -> NDArray[np.uint64]:
    return target.peek(target.parse(x))


def test_features_get_fields_by_name_within_an_event_and_in_order_between_events() -> None:
    one, other = encoder(), encoder()
    learn(one, {"b": 1, "a": "x"})
    learn(other, {"a": "x", "b": 1})
    assert one.names == other.names == ["a", "b"]
    learn(one, {"0": True, "z": "late", "y": "later"})
    assert one.names == ["a", "b", "0"]


def test_features_beyond_the_fields_share_the_last_one() -> None:
    target = encoder(fields=3, max_values=2)
    learn(target, {"a": "x", "b": "x"})
    keys = learn(target, {"c": "x", "d": "x", "e": ["x", "y"]})
    shared = keys[target.slot_field == 2]
    assert target.names == ["a", "b"]
    assert np.count_nonzero(shared) == 4  # one value each, two for the list: the name is part of the key
    assert len(shared) == SHARED_SLOTS
    assert target.truncated == 0
    learn(target, {f"more{i}": "x" for i in range(SHARED_SLOTS + 5)})
    assert target.truncated == 5


@pytest.mark.parametrize(
    "same",
    [
        [1, 1.0, np.int64(1), np.float32(1.0), Fraction(1)],
        [True, np.bool_(True), "True"],
        [["a", "b"], ("b", "a"), {"a", "b"}, frozenset("ab"), ["b", "a", "b"]],
        [[1, 2.5], ["1", "2.5"], (np.int64(1), 2.5), [1.0, 2.5, None]],
        [[2**60 + 1], [str(2**60 + 1)]],
        [None, float("nan"), np.float32("nan"), pd.NA, pd.NaT, [], [None]],
        [0.0, -0.0, 0],
        [float("inf"), np.float64("inf"), 10**400],
    ],
)
def test_values_that_mean_the_same_have_the_same_keys(same: list[Any]) -> None:
    target = encoder()
    learn(target, {"f": "seen", "g": "seen"})
    keys = [peek(target, {"f": value, "g": "x"}) for value in same]
    assert all(np.array_equal(keys[0], other) for other in keys[1:])
    assert not np.array_equal(keys[0], peek(target, {"f": "seen", "g": "x"}))


def test_vanished_feature_counts_as_missing_and_a_new_one_has_no_key_before_it_is_learned() -> None:
    target = encoder()
    learn(target, {"a": "x", "b": 2.0})
    assert np.array_equal(peek(target, {"a": "x"}), peek(target, {"a": "x", "b": None}))
    assert np.count_nonzero(peek(target, {"a": "x"})) == 2
    own = target.slot_field < 3
    assert np.array_equal(peek(target, {"a": "x", "new": "y"})[own], peek(target, {"a": "x"})[own])


def test_number_has_its_bucket_before_it_is_observed_and_its_rounding() -> None:
    target, plain = encoder(fields=2, buckets=16), QuantileBuckets(16)
    values = np.random.default_rng(1).normal(size=700).tolist()
    by_bucket: dict[int, int] = {}
    for value in values:
        keys = set(learn(target, {"v": value})[:3].tolist()) - {0}
        assert len(keys) == 2
        seen = by_bucket.setdefault(plain.bucket(value), next(iter(keys)))
        if seen not in keys:  # of the two keys, the one that all values of the bucket share
            by_bucket[plain.bucket(value)] = (keys - {seen}).pop()
        plain.observe(value)
    assert len(set(by_bucket.values())) == len(by_bucket) == 16


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_rounding_keeps_three_significant_bits(value: float) -> None:
    same = _rounded(value)
    if value == 0.0:
        assert same == _rounded(-0.0) != _rounded(5e-324)
        return
    step = 2.0 ** (math.frexp(value)[1] - 4)  # an eighth of the power of two below the value
    if step > 0.0:
        floor = math.trunc(value / step) * step
        assert same == _rounded(floor)
        beyond = floor + math.copysign(step, value)
        assert math.isinf(beyond) or same != _rounded(beyond)
    assert same != _rounded(-value)


def test_peeking_changes_nothing() -> None:
    target = encoder()
    learn(target, {"a": 1.0, "b": ["x"]})
    before = target.state()
    peek(target, {"a": 5.0, "c": "new", "b": ["y", "z", "w", "v"]})
    assert target.state().equals(before)


@pytest.mark.parametrize(
    ("x", "says"),
    [
        ({"f": object}, r"feature 'f': .*\(type\) is not a text, bool, number or list"),
        ({"f": {"a": 1}}, r"\(dict\) is not"),
        ({"f": b"x"}, r"\(bytes\) is not"),
        ({"f": pd.Timestamp(0)}, r"\(Timestamp\) is not"),
        ({"f": [["x"]]}, r"list element .*\(list\)"),
        ({object: 1}, "feature name "),
        ({("a", b"x"): 1}, "feature name "),
    ],
)
def test_unsupported_values_are_rejected_and_nothing_is_learned(x: dict[Any, Any], says: str) -> None:
    target = encoder()
    learn(target, {"a": 1.0})
    before = target.state()
    with pytest.raises(RecordError, match=says) as caught:
        learn(target, {"a": 2.0, "b": "new", **x})
    assert "\n" not in str(caught.value)
    assert target.state().equals(before)


def test_names_of_every_supported_type_can_be_saved() -> None:
    target = encoder(fields=9)
    x = {"a": 1, 7: 2, np.int64(8): 3, 2.5: "x", True: "t", None: "n", ("a", 1, ("b",)): 4.0}
    for _ in range(300):
        learn(target, x)
    again = encoder(fields=9)
    learn(again, {"other": 1})
    again.load_state(target.state())
    assert set(again.names) == set(x)
    assert again.state().equals(target.state())
    assert np.array_equal(learn(again, x), learn(target, x))


def test_a_damaged_state_or_one_of_other_settings_is_rejected() -> None:
    target = encoder()
    learn(target, {"a": 1, "b": 2, "c": 3})
    state = target.state()
    for other in (encoder(fields=3), encoder(buckets=9)):
        with pytest.raises(StateError):
            other.load_state(state)
        assert other.names == []
    with pytest.raises(StateError, match="the saved schema"):
        encoder().load_state(State(state.arrays, {**state.values, "names": None}))


@pytest.mark.parametrize("settings", [(1, 4, 8), (4, 1, 8), (4, 4, 1), (4, 4, 10**9)])
def test_a_schema_that_is_too_small_is_rejected(settings: tuple[int, int, int]) -> None:
    with pytest.raises(UsageError, match=r"must be (at least|between)"):
        DictEncoder(*settings)
