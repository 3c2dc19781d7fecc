"""Encoding of features as keys: shared and distinct keys, rejected values, learned buckets."""

from __future__ import annotations

import math
import re
import struct
from typing import Any

import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_ctr.config.features import FieldConfig
from stream_ctr.errors import ConfigError, RecordError, StateError
from stream_ctr.events.records import FeatureValue
from stream_ctr.features.keys.encoder import KeyEncoder
from stream_ctr.features.keys.tally import MOST_NAMES, OTHERS
from stream_ctr.state.state import Json, State

FIELDS = (
    FieldConfig("site"),
    FieldConfig("tags", "multi", max_values=3),
    FieldConfig("visits", "integer"),
    FieldConfig("age", "float", boundaries=(18.0, 30.0)),
    FieldConfig("price", "float", buckets=4),
    FieldConfig("city"),
)
SITE, TAGS, VISITS, AGE, PRICE, CITY = 0, slice(1, 4), 4, 5, 6, 7

TEXTS = (
    st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
    | st.from_regex(r"-?[0-9]{1,20}(\.[0-9]{0,4})?([eE]\+?[0-9]{1,2})?", fullmatch=True)
    | st.floats(allow_nan=False, allow_infinity=False).map(repr)
    | st.sampled_from(["True", "FALSE", "true", "1.0E7", "1e+16", "3.00", "-0.0", "03", "+3", " 3"])
)
EVENTS = st.fixed_dictionaries(
    {},
    optional={
        "site": st.none() | TEXTS | st.integers(-(10**18), 10**18) | st.floats(-1e9, 1e9),
        "tags": st.none() | st.lists(TEXTS, max_size=5),
        "visits": st.none() | st.integers(-(2**63) + 1, 2**63 - 1),
        "age": st.none() | st.floats(0, 100),
        "price": st.none() | st.floats(-1e6, 1e6) | st.integers(-100, 100),
        "city": st.none() | TEXTS,
    },
)
Event = dict[str, FeatureValue]


def key(name: str, data: bytes) -> int:
    return xxhash.xxh64_intdigest(data, xxhash.xxh64_intdigest(name.encode()))


def as_text(value: object) -> bytes:
    """An independent implementation of the rule for categorical fields."""
    if isinstance(value, str) and re.fullmatch(
        r"-?(0|[1-9][0-9]*)(\.0+|(\.[0-9]+)?[eE]\+[0-9]+|\.[0-9]+E[0-9]+)", value
    ):
        number = float(value)
        value = number if number == math.floor(number) and abs(number) < 2**63 else value
    if isinstance(value, bool) or value in ("True", "TRUE", "False", "FALSE"):
        value = str(value).lower()
    if isinstance(value, float):
        value = str(int(value)) if value == math.floor(value) and abs(value) < 2**63 else repr(value)
    return b"\x01" + str(value).encode()


def of_one(name: str, value: object) -> int:
    return key(name, b"\0" if value is None or value == "" else as_text(value))


def expected(event: Event) -> list[int]:
    """Keys of an event for an encoder that has not yet learned any price."""
    site, city, visits, age = (event.get(name) for name in ("site", "city", "visits", "age"))
    tags = event.get("tags") or []
    assert isinstance(tags, list)
    distinct = list(dict.fromkeys(as_text(tag) for tag in tags if tag != ""))
    listed = sorted(key("tags", tag) for tag in distinct[:3]) or [key("tags", b"\0")]
    if visits is not None:
        assert isinstance(visits, int)
        visits = math.floor(math.log(visits) ** 2) if visits > 2 else visits
    assert age is None or isinstance(age, (int, float, str))
    bucket = None if age is None else sum(float(age) >= b for b in (18.0, 30.0))
    price = None if event.get("price") is None else 0
    return [
        of_one("site", site),
        *listed,
        *[0] * (3 - len(listed)),
        key("visits", b"\0" if visits is None else b"\2" + struct.pack("<q", visits)),
        key("age", b"\0" if bucket is None else b"\3" + struct.pack("<q", bucket)),
        key("price", b"\0" if price is None else b"\3" + struct.pack("<q", price)),
        of_one("city", city),
    ]


@settings(deadline=None)
@given(st.lists(EVENTS, max_size=6))
def test_keys_are_the_documented_hash_of_the_documented_bytes(events: list[Event]) -> None:
    encoder = KeyEncoder(FIELDS)
    assert encoder.slot_field.tolist() == [0, 1, 1, 1, 2, 3, 4, 5]
    assert encoder.peek_keys_many(events).tolist() == [expected(event) for event in events]
    for event in events:
        assert encoder.peek_keys(event).tolist() == expected(event)
        assert encoder.keys(event).tolist() == expected(event)


def one(kind: Any, value: FeatureValue) -> int:
    boundaries = (0.0,) if kind == "float" else ()
    encoder = KeyEncoder((FieldConfig("f", kind, boundaries=boundaries),))
    return int(encoder.keys({"f": value})[0])


def test_values_of_different_kinds_never_share_a_key() -> None:
    keys = [
        one("categorical", None),
        one("categorical", " "),
        one("categorical", "1"),
        one("categorical", "\x00"),
        one("categorical", "\x01"),
        one("integer", 0),
        one("integer", 1),
        one("float", -1.0),
        one("float", 1.0),
    ]
    assert len(set(keys)) == len(keys)
    assert one("integer", None) == one("float", None) == one("multi", None) == keys[0]


def test_a_number_is_its_decimal_text() -> None:
    assert one("categorical", 1) == one("categorical", 1.0) == one("categorical", "1")
    assert one("categorical", -0.0) == one("categorical", "0")
    assert one("categorical", 0.1) == one("categorical", "0.1")
    assert one("categorical", 1e300) == one("categorical", "1e+300")
    assert one("categorical", 2**63 - 1) == one("categorical", "9223372036854775807")
    assert one("integer", 7.0) == one("integer", 7)


def test_integers_are_transformed() -> None:
    # ln(97)^2 = 20.93, ln(98)^2 = 21.02, ln(108)^2 = 21.92
    assert one("integer", 98) == one("integer", 108) != one("integer", 97)
    assert len({one("integer", v) for v in (-5, -1, 0, 1, 2)}) == 5


def test_missing_is_none_an_absent_name_or_an_empty_list() -> None:
    encoder = KeyEncoder(FIELDS)
    absent = encoder.keys({}).tolist()
    assert absent == encoder.keys({"site": None, "tags": [], "visits": None, "price": None}).tolist()
    assert absent.count(0) == 2
    assert absent == encoder.keys({"site": "", "tags": ["", None], "visits": "", "price": ""}).tolist()
    assert absent == encoder.keys({"tags": "", "age": ""}).tolist()


def test_the_same_text_in_two_fields_has_two_keys() -> None:
    keys = KeyEncoder(FIELDS).keys({"site": "x", "city": "x"})
    assert keys[SITE] != keys[CITY]


def test_a_list_keeps_its_first_values_and_counts_the_others() -> None:
    encoder = KeyEncoder(FIELDS)
    cut = encoder.keys({"tags": ["e", "d", "e", "c", "b", "a", "d"]})[TAGS].tolist()
    assert encoder.tally.truncated == 2
    assert cut == encoder.keys({"tags": ["c", "d", "e"]})[TAGS].tolist() == sorted(cut)
    assert encoder.tally.truncated == 2
    encoder.peek_keys({"tags": ["a", "b", "c", "d"]})
    assert encoder.tally.truncated == 2


def test_a_list_keeps_its_last_values_if_the_field_says_so() -> None:
    encoder = KeyEncoder((FieldConfig("tags", "multi", max_values=2, keep="last"),))
    cut = encoder.keys({"tags": ["a", "b", "c", "a"]}).tolist()
    assert encoder.tally.truncated == 1
    assert cut == encoder.keys({"tags": ["a", "c"]}).tolist()
    assert cut != encoder.keys({"tags": ["b", "c"]}).tolist()


def test_repeated_values_of_a_list_are_one_value_in_whatever_form() -> None:
    encoder = KeyEncoder(FIELDS)
    keys = encoder.keys({"tags": [3, "3", 3.0, "3.0", True, "true", None]})
    assert keys.tolist() == encoder.keys({"tags": ["3", "true"]}).tolist()
    assert encoder.tally.truncated == 0


def test_unknown_features_are_ignored_and_counted_if_configured() -> None:
    encoder, strict = KeyEncoder(FIELDS, "ignore"), KeyEncoder(FIELDS)
    event: Event = {"site": "x", "device": "ios", "geo": [{"lat": 1}]}
    assert encoder.keys(event).tolist() == strict.keys({"site": "x"}).tolist()
    assert encoder.keys_many([event, {"geo": 2}]).tolist() == strict.keys_many([{"site": "x"}, {}]).tolist()
    assert encoder.tally.ignored == {"device": 2, "geo": 3}
    encoder.peek_keys(event)
    assert encoder.tally.ignored_total == 5
    other = KeyEncoder(FIELDS, "ignore")
    other.load_state(encoder.state())
    assert other.tally.ignored == encoder.tally.ignored


def test_names_of_unknown_features_are_bounded() -> None:
    encoder = KeyEncoder(FIELDS, "ignore")
    for number in range(2 * MOST_NAMES):
        encoder.keys({f"f{number}": 1, "x" * 5000: 1})
    assert encoder.tally.ignored_total == 4 * MOST_NAMES
    assert encoder.tally.ignored[OTHERS] == MOST_NAMES + 1
    assert max(map(len, encoder.tally.ignored)) == 60


def test_states_without_counts_of_unknown_features_load() -> None:
    state = KeyEncoder(FIELDS).state()
    older = {name: value for name, value in state.values.items() if name != "ignored"}
    encoder = KeyEncoder(FIELDS, "ignore")
    encoder.load_state(State(state.arrays, older))
    assert encoder.tally.ignored == {}
    damages: list[Json] = [{"a": -1}, {"a": "1"}, [1]]
    for damaged in damages:
        with pytest.raises(StateError, match="unknown feature"):
            encoder.load_state(State(state.arrays, {**state.values, "ignored": damaged}))


REFUSED = [
    ({"sit": "x"}, "unknown field 'sit': did you mean 'site'"),
    ({"site": ["x"]}, "expected a text, number or boolean, got"),
    ({"site": {"a": 1}}, "dict"),
    ({"site": float("nan")}, "nan is not a number"),
    ({"site": 2**63}, "64 bits is too large"),
    ({"site": "\ud800"}, "not valid Unicode"),
    ({"tags": "x"}, "expected a list of texts, numbers or booleans, got"),
    ({"tags": ["x", ["y"]]}, "field 'tags': expected a list of texts, numbers or booleans, got ['y'] (list)"),
    ({"tags": [float("inf")]}, "inf is not a number"),
    ({"tags": ["\udfff"]}, "not valid Unicode"),
    ({"visits": False}, "got False"),
    ({"visits": "7.5"}, "expected a whole number, got"),
    ({"visits": "9" * 19}, "expected a whole number, got"),
    ({"visits": " "}, "expected a whole number, got"),
    ({"visits": 7.5}, "expected a whole number, got"),
    ({"visits": float("inf")}, "inf is not a number"),
    ({"visits": 2**63}, "64 bits is too large"),
    ({"visits": -(2**63)}, "64 bits is too large"),
    ({"visits": 10**5000}, "bits is too large"),
    ({"visits": [1]}, "list"),
    ({"age": "old"}, "expected a number, got"),
    ({"age": float("nan")}, "nan is not a number"),
    ({"age": True}, "True"),
    ({"price": float("-inf")}, "-inf is not a number"),
    ({"price": 10**400}, "too large"),
    ({"price": ["1"]}, "expected a number, got"),
    ({"price": "1_0"}, "expected a number, got"),
]


@pytest.mark.parametrize(("features", "reason"), REFUSED)
def test_a_bad_value_is_rejected_with_its_reason_and_changes_no_state(features: Event, reason: str) -> None:
    encoder = KeyEncoder(FIELDS)
    encoder.keys({"site": 1, "price": 2.0, "tags": ["a", "b", "c", "d"]})
    before = encoder.state()
    good: Event = {"price": 1.0, "tags": ["a", "b", "c", "d"], "visits": 3, "city": "x"}
    for call in (encoder.keys, encoder.peek_keys):
        with pytest.raises(RecordError, match="field") as caught:
            call({**good, **features})
        assert reason in str(caught.value)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 250
    with pytest.raises(RecordError):
        encoder.keys_many([good, {**good, **features}])
    assert encoder.state().equals(before)


def test_a_bad_value_late_in_a_chunk_names_its_own_field() -> None:
    encoder = KeyEncoder(FIELDS)
    with pytest.raises(RecordError, match="'city'"):
        encoder.keys_many([{"site": 3}, {"site": "a", "city": ["b"]}])
    with pytest.raises(RecordError, match="'city'"):
        encoder.keys_many([{"site": "é"}, {"site": "a", "city": "\ud801"}])


def prices(count: int) -> list[Event]:
    return [{"price": float(v), "site": "s"} for v in np.random.default_rng(9).normal(size=count)]


def test_an_impression_is_bucketed_before_it_is_observed() -> None:
    encoder = KeyEncoder(FIELDS)
    for event in prices(1100):
        peeked = encoder.peek_keys(event)
        assert peeked.tolist() == encoder.keys(event).tolist()
    assert len({int(encoder.peek_keys({"price": p})[PRICE]) for p in (-9.0, -0.1, 0.1, 9.0)}) == 4


def test_peeking_changes_nothing() -> None:
    encoder = KeyEncoder(FIELDS)
    encoder.keys_many(prices(255))
    before = encoder.state()
    encoder.peek_keys_many(prices(700))
    assert encoder.state().equals(before)


@pytest.mark.parametrize("chunk", [1, 7, 256])
def test_chunks_of_any_size_give_the_same_keys_and_state(chunk: int) -> None:
    events = prices(1500)
    single, many = KeyEncoder(FIELDS), KeyEncoder(FIELDS)
    keys = [single.keys(event).tolist() for event in events]
    chunked = [many.keys_many(events[start : start + chunk]) for start in range(0, len(events), chunk)]
    assert np.concatenate(chunked).tolist() == keys
    assert single.state().equals(many.state())


def test_a_loaded_encoder_continues_like_the_saved_one() -> None:
    saved, loaded = KeyEncoder(FIELDS), KeyEncoder(FIELDS)
    saved.keys_many([*prices(700), {"tags": ["a", "b", "c", "d"]}])
    loaded.load_state(saved.state())
    assert loaded.state().equals(saved.state())
    assert loaded.keys_many(prices(900)).tolist() == saved.keys_many(prices(900)).tolist()
    assert loaded.state().equals(saved.state())


def test_the_state_of_other_fields_is_refused() -> None:
    state = KeyEncoder(FIELDS).state()
    with pytest.raises(StateError, match="site:categorical"):
        KeyEncoder(FIELDS[:2]).load_state(state)
    encoder = KeyEncoder(FIELDS)
    encoder.keys_many(prices(300))
    before = encoder.state()
    with pytest.raises(StateError, match="damaged"):
        encoder.load_state(State(state.arrays, {**state.values, "truncated": -1}))
    with pytest.raises(StateError, match="lacks the array"):
        encoder.load_state(State({}, state.values))
    assert encoder.state().equals(before)


def test_no_events_have_no_keys() -> None:
    assert KeyEncoder(FIELDS).keys_many([]).shape == (0, 8)
    assert KeyEncoder((FieldConfig("t", "multi"),)).keys({"t": ["a"]}).shape == (8,)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ((), "empty"),
        ((FieldConfig("a"), FieldConfig("a")), "occur once"),
        ((FieldConfig(""),), "occur once"),
        ((FieldConfig("a", "multi", max_values=0),), "max_values must be at least 1, got 0"),
        ((FieldConfig("a", "float", buckets=1),), "buckets must be between 2 and 65536, got 1"),
        ((FieldConfig("a", "float", boundaries=(1.0, 1.0)),), "ascend"),
        ((FieldConfig("a", "float", boundaries=(float("nan"),)),), "finite"),
        ((FieldConfig("a", boundaries=(1.0,)),), "this field is categorical"),
        ((FieldConfig("a", keep="last"),), "keep applies only to multi fields"),
    ],
)
def test_invalid_fields_are_rejected(fields: tuple[FieldConfig, ...], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        KeyEncoder(fields)
