"""Rows, counts and ratios compared with their definition, for any chunk size; state; growth."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from stream_ctr.batch import ABSENT, ASIDE, LEARN, PREDICT, RowChanges
from stream_ctr.config.features import FeaturesConfig
from stream_ctr.errors import ConfigError, StateError
from stream_ctr.features.rows.tables import Encoded, FeatureTables
from stream_ctr.state.state import State
from tests.support.feature_tables_oracle import SlowTables

SLOT_FIELD = np.array([0, 1, 1, 1, 2], np.int32)
HALF_LIFE_SECONDS = 2.0
CONFIGS = [
    FeaturesConfig(),
    FeaturesConfig(minimum_count=3),
    FeaturesConfig(counts="decayed", half_life_seconds=HALF_LIFE_SECONDS),
    FeaturesConfig(counts="decayed", half_life_seconds=HALF_LIFE_SECONDS, minimum_count=2),
]
Stream = tuple[NDArray[np.uint64], NDArray[np.uint8], NDArray[np.int64]]


@st.composite
def streams(draw: st.DrawFn) -> Stream:
    """Events over few values, so that values recur; times are not monotonic."""
    events = draw(
        st.lists(
            st.tuples(
                st.tuples(*[st.integers(0, 6)] * 5),
                st.sampled_from([PREDICT, LEARN, PREDICT | LEARN, PREDICT | ASIDE]),
                st.integers(-1000, 20_000),
            ),
            max_size=40,
        )
    )
    values = np.array([event[0] for event in events], np.uint64).reshape(len(events), 5)
    keys = np.where(values > 0, values + np.uint64(100) * SLOT_FIELD.astype(np.uint64), np.uint64(0))
    return (
        keys,
        np.array([event[1] for event in events], np.uint8),
        np.array([event[2] for event in events], np.int64),
    )


def random_stream(events: int, values: int, seed: int = 1) -> Stream:
    rng = np.random.default_rng(seed)
    keys = rng.integers(0, values, (events, 5)).astype(np.uint64)
    keys[keys > 0] *= np.uint64(0x9E3779B97F4A7C15)
    keys[keys > 0] ^= np.broadcast_to(SLOT_FIELD.astype(np.uint64), keys.shape)[keys > 0]
    action = rng.choice([PREDICT, LEARN, PREDICT | LEARN], events).astype(np.uint8)
    return keys, action, np.cumsum(rng.integers(-50, 100, events))


def part(stream: Stream, start: int, stop: int) -> Stream:
    keys, action, time_ms = stream
    return keys[start:stop], action[start:stop], time_ms[start:stop]


def chunked(tables: FeatureTables, stream: Stream, size: int) -> Encoded:
    """One Encoded for the whole stream, encoded ``size`` events at a time."""
    starts = range(0, max(len(stream[0]), 1), size)
    parts = [tables.encode(*part(stream, start, start + size)) for start in starts]
    return Encoded(
        np.concatenate([item.rows for item in parts]),
        np.concatenate([item.ratio for item in parts]),
        RowChanges(
            np.concatenate([item.changes.event + start for item, start in zip(parts, starts, strict=True)]),
            np.concatenate([item.changes.row for item in parts]),
            np.concatenate([item.changes.field for item in parts]),
            np.concatenate([item.changes.key for item in parts]),
        ),
    )


def assert_equal(one: Encoded, other: Encoded) -> None:
    assert one.rows.tolist() == other.rows.tolist()
    assert one.ratio.tobytes() == other.ratio.tobytes()
    for name in ("event", "row", "field", "key"):
        assert getattr(one.changes, name).tolist() == getattr(other.changes, name).tolist()


@pytest.mark.parametrize("config", CONFIGS)
@settings(deadline=None, max_examples=60)
@given(stream=streams())
def test_rows_ratios_and_changes_are_those_of_the_definition(config: FeaturesConfig, stream: Stream) -> None:
    tables = FeatureTables(SLOT_FIELD, 3, config)
    half_life_ms = HALF_LIFE_SECONDS * 1000 if config.counts == "decayed" else math.inf
    slow = SlowTables(SLOT_FIELD.tolist(), 3, half_life_ms, config.minimum_count)
    encoded = tables.encode(*stream)
    change = encoded.changes
    for event, (keys, action, time_ms) in enumerate(zip(*(array.tolist() for array in stream), strict=True)):
        rows, ratio = slow.encode(keys, action, time_ms)
        assert encoded.rows[event].tolist() == rows
        assert encoded.ratio[event].tolist() == pytest.approx(ratio, rel=1e-6, abs=1e-30)
    found = zip(*(a.tolist() for a in (change.event, change.row, change.field, change.key)), strict=True)
    assert list(found) == slow.changes
    assert tables.rows_in_use == len(slow.seen)
    assert tables.row_field.tolist() == slow.field_of
    assert tables.row_count.tolist() == pytest.approx([slow.count(row) for row in range(len(slow.seen))])
    assert tables.field_maximum.tolist() == pytest.approx([slow.maximum(field) for field in range(3)])


@pytest.mark.parametrize("config", CONFIGS)
@settings(deadline=None, max_examples=25)
@given(stream=streams())
def test_chunks_of_any_size_give_equal_bits(config: FeaturesConfig, stream: Stream) -> None:
    results = []
    for size in (1, 7, 256):
        tables = FeatureTables(SLOT_FIELD, 3, config)
        results.append((chunked(tables, stream, size), tables.state()))
    for encoded, state in results[1:]:
        assert_equal(encoded, results[0][0])
        assert state.equals(results[0][1])


@pytest.mark.parametrize("config", CONFIGS)
def test_chunks_give_equal_bits_while_the_tables_grow(config: FeaturesConfig) -> None:
    stream = random_stream(3000, 4000)
    results = []
    for size in (1, 7, 256, 3000):
        tables = FeatureTables(SLOT_FIELD, 3, config)
        results.append((chunked(tables, stream, size), tables.state(), tables.lookup(stream[0])))
    assert results[0][1].arrays["row_key"].size > (800 if config.minimum_count > 1 else 6000)
    for encoded, state, rows in results[1:]:
        assert_equal(encoded, results[0][0])
        assert state.equals(results[0][1])
        assert rows.tolist() == results[0][2].tolist()


@pytest.mark.parametrize("config", CONFIGS)
def test_saving_and_loading_mid_stream_changes_no_bit(config: FeaturesConfig) -> None:
    stream = random_stream(2000, 1500)
    head, tail = part(stream, 0, 900), part(stream, 900, 2000)
    saved, loaded = FeatureTables(SLOT_FIELD, 3, config), FeatureTables(SLOT_FIELD, 3, config)
    saved.encode(*head)
    loaded.encode(*tail)  # its previous content must not matter
    loaded.load_state(saved.state())
    assert loaded.state().equals(saved.state())
    assert loaded.lookup(stream[0]).tolist() == saved.lookup(stream[0]).tolist()
    assert_equal(loaded.encode(*tail), saved.encode(*tail))
    assert loaded.state().equals(saved.state())


def test_a_state_is_a_copy() -> None:
    tables = FeatureTables(SLOT_FIELD, 3, CONFIGS[3])
    stream = random_stream(300, 50)
    tables.encode(*stream)
    state = tables.state()
    before = {name: array.copy() for name, array in state.arrays.items()}
    other = FeatureTables(SLOT_FIELD, 3, CONFIGS[3])
    other.load_state(state)
    other.encode(*stream)
    tables.encode(*stream)
    assert state.equals(State(before, state.values))


def event(*keys: int) -> NDArray[np.uint64]:
    return np.array([keys], np.uint64)


def encode_one(tables: FeatureTables, keys: NDArray[np.uint64], action: int, time_ms: int = 0) -> Encoded:
    return tables.encode(keys, np.array([action], np.uint8), np.array([time_ms], np.int64))


def test_a_label_counts_nothing_and_creates_nothing() -> None:
    tables = FeatureTables(SLOT_FIELD, 3, FeaturesConfig())
    encode_one(tables, event(11, 0, 0, 0, 12), PREDICT)
    before = tables.state()
    encoded = encode_one(tables, event(11, 99, 98, 0, 12), LEARN, time_ms=10**9)
    assert encoded.rows.tolist() == [[3, 1, ABSENT, ABSENT, 4]]
    assert encoded.ratio.tolist() == [[1.0, 0.0, 0.0, 0.0, 1.0]]
    assert encoded.changes.event.size == 0
    assert tables.state().equals(before)


def test_default_rows_are_announced_once_with_the_first_event() -> None:
    tables = FeatureTables(SLOT_FIELD, 3, FeaturesConfig())
    assert tables.rows_in_use == 3
    first = encode_one(tables, event(11, 0, 0, 0, 12), PREDICT).changes
    assert (first.row.tolist(), first.key.tolist()) == ([0, 1, 2, 3, 4], [0, 0, 0, 11, 12])
    loaded = FeatureTables(SLOT_FIELD, 3, FeaturesConfig())
    loaded.load_state(tables.state())
    assert encode_one(loaded, event(13, 0, 0, 0, 12), PREDICT).changes.row.tolist() == [5]


def test_lookup_changes_nothing() -> None:
    tables = FeatureTables(SLOT_FIELD, 3, FeaturesConfig(minimum_count=2))
    encode_one(tables, event(11, 0, 0, 0, 12), PREDICT)
    before = tables.state()
    assert tables.lookup(event(11, 21, 22, 0, 0)).tolist() == [[0, 1, ABSENT, ABSENT, ABSENT]]
    assert tables.state().equals(before)


def test_an_admitted_row_starts_with_the_sightings_before_it() -> None:
    tables = FeatureTables(np.array([0], np.int32), 1, FeaturesConfig(minimum_count=3))
    for _ in range(2):
        encoded = encode_one(tables, event(7), PREDICT)
        assert (encoded.rows.tolist(), encoded.ratio.tolist()) == ([[0]], [[0.0]])
    assert tables.field_maximum.tolist() == [0.0]
    assert encode_one(tables, event(7), PREDICT).rows.tolist() == [[1]]
    assert tables.row_count.tolist() == [0.0, 3.0]
    assert tables.field_maximum.tolist() == [3.0]


def test_counts_continue_beyond_the_limit_of_float32() -> None:
    tables = FeatureTables(np.array([0], np.int32), 1, FeaturesConfig())
    encode_one(tables, event(7), PREDICT)
    state = tables.state()
    for name in ("row_count", "maximum"):
        state.arrays[name][-1] = 2.0**24
    tables.load_state(state)
    for _ in range(3):
        encode_one(tables, event(7), PREDICT)
    assert tables.row_count[1] == tables.field_maximum[0] == 2.0**24 + 3


def test_a_ratio_survives_any_gap_in_time() -> None:
    config = FeaturesConfig(counts="decayed", half_life_seconds=1.0)
    tables = FeatureTables(np.array([0, 1], np.int32), 2, config)
    encode_one(tables, event(7, 8), PREDICT)
    # A century later everything has decayed to nothing, yet field 1's only value is still its maximum.
    century_ms = 100 * 365 * 86_400_000
    encode_one(tables, event(9, 0), PREDICT, century_ms)
    encoded = encode_one(tables, event(7, 8), LEARN, century_ms)
    assert encoded.ratio.tolist() == [[0.0, 1.0]]
    assert np.isfinite(tables.row_count).all()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("row_key", np.array([5, 5], np.uint64)),
        ("row_key", np.array([5, 0], np.uint64)),
        ("row_key", np.array([5], np.uint64)),
        ("row_key", np.array([5.0, 6.0])),
        ("row_key", np.array([[5, 6]], np.uint64)),
        ("row_field", np.array([0, 1, 2, 0, 3], np.int32)),
        ("row_field", np.array([1, 1, 2, 0, 2], np.int32)),
        ("row_count", np.array([0, 0, 0, 1, np.nan])),
        ("row_count", np.array([0, 0, 0, 1, -1.0])),
        ("row_count", np.zeros(5, np.float32)),
        ("row_time_ms", np.zeros(5, np.int64)),
        ("maximum", np.array([1.0, np.inf, 0.0])),
        ("maximum", np.zeros(4)),
        ("sketch", np.zeros((4, 2), np.uint16)),
        ("sketch", None),
    ],
)
def test_a_damaged_state_is_refused_and_changes_nothing(name: str, value: NDArray[np.float64] | None) -> None:
    tables = FeatureTables(SLOT_FIELD, 3, FeaturesConfig())
    encode_one(tables, event(11, 0, 0, 0, 12), PREDICT)
    good = tables.state()
    arrays = {**good.arrays, name: value} if value is not None else dict(good.arrays)
    if value is None:
        del arrays[name]
    with pytest.raises(StateError):
        tables.load_state(State(arrays, good.values))
    with pytest.raises(StateError, match="clock_ms"):
        tables.load_state(State(good.arrays, {**good.values, "clock_ms": None}))
    assert tables.state().equals(good)


def test_a_row_seen_after_the_clock_is_refused() -> None:
    tables = FeatureTables(SLOT_FIELD, 3, CONFIGS[2])
    encode_one(tables, event(11, 0, 0, 0, 12), PREDICT, time_ms=50)
    state = tables.state()
    state.arrays["row_time_ms"][3] = 51
    with pytest.raises(StateError, match="after clock_ms 50"):
        tables.load_state(state)


def test_the_state_of_other_settings_is_refused() -> None:
    state = FeatureTables(SLOT_FIELD, 3, CONFIGS[0]).state()
    for config in CONFIGS[1:]:
        with pytest.raises(StateError, match=r"restore the \[features\] settings it was saved with"):
            FeatureTables(SLOT_FIELD, 3, config).load_state(state)


@pytest.mark.parametrize(
    "config",
    [
        FeaturesConfig(minimum_count=0),
        FeaturesConfig(minimum_count=2**16),
        FeaturesConfig(counts="decayed", half_life_seconds=0.0),
        FeaturesConfig(counts="decayed", half_life_seconds=math.nan),
    ],
)
def test_settings_out_of_range_are_refused(config: FeaturesConfig) -> None:
    with pytest.raises(ConfigError, match=r"features\.(minimum_count|half_life_seconds) must be"):
        FeatureTables(SLOT_FIELD, 3, config)
