"""A frozen state is the state of one moment, whatever is written while it is read."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from stream_ctr.batch import PREDICT, Batch, RowChanges
from stream_ctr.config.features import FeaturesConfig
from stream_ctr.config.learner import LearnerConfig
from stream_ctr.config.model import ModelConfig
from stream_ctr.config.optimizer import OptimizerConfig
from stream_ctr.errors import StateError
from stream_ctr.features.rows import vocabulary
from stream_ctr.features.rows.tables import FeatureTables
from stream_ctr.learners.base import Learner
from stream_ctr.learners.compiled.learner import CompiledLearner
from stream_ctr.state import frozen as module
from stream_ctr.state.array_file import ArrayFile
from stream_ctr.state.durable_files import Files
from stream_ctr.state.frozen import FrozenRows, FrozenState, Watch, pieces_of, whole
from stream_ctr.state.state import State
from tests.support.learner_events import SINGLE, make_batch


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PIECE_BYTES", 64)
    monkeypatch.setattr(vocabulary, "PIECE", 7)


@settings(deadline=None)
@given(
    rows=st.integers(0, 40),
    beyond=st.integers(0, 5),
    writes=st.lists(st.lists(st.integers(-1, 44), max_size=6), max_size=40),
)
def test_writes_between_any_two_pieces_do_not_appear_in_them(
    rows: int, beyond: int, writes: list[list[int]]
) -> None:
    live = {
        "wide": np.random.default_rng(rows).normal(size=(rows + beyond, 3)),
        "one": np.arange(rows + beyond),
    }
    before = {name: array[:rows].copy() for name, array in live.items()}
    watch, script = Watch(), iter(writes)
    frozen = watch.add(FrozenRows(live, rows))
    read: dict[str, list[NDArray[Any]]] = {name: [] for name in live}
    for name in live:
        for piece in frozen[name].pieces():
            read[name].append(piece.copy())
            written = np.array([row for row in next(script, []) if row < rows + beyond], np.int64)
            watch.keep(written)
            for array in live.values():
                array[written[written >= 0]] = -1
    for name, array in before.items():
        assert np.array_equal(np.concatenate([array[:0], *read[name]]), array)
    frozen.close()
    assert not watch.active


def test_a_thread_that_writes_constantly_changes_no_frozen_row() -> None:
    live = np.zeros((5_000, 4))
    watch, done, round_ = Watch(), threading.Event(), 0
    frozen = watch.add(FrozenRows({"weight": live}, 5_000))

    def write() -> None:
        nonlocal round_
        rng = np.random.default_rng(1)
        while not done.is_set():
            rows = rng.integers(0, 5_000, 50)
            watch.keep(rows)
            round_ += 1
            live[rows] = round_

    writer = threading.Thread(target=write)
    writer.start()
    try:
        read = whole(frozen["weight"])
    finally:
        done.set()
        writer.join()
    assert not read.any()
    assert live.any(), "the writer came to nothing"


def test_an_unannounced_write_changes_the_frozen_state() -> None:
    """Proves that the tests above can fail."""
    live = np.zeros((4, 2))
    frozen = FrozenRows({"weight": live}, 4)
    live[2] = 1.0
    assert whole(frozen["weight"]).any()


def test_rows_already_read_are_not_kept_and_nothing_is_kept_after_the_end() -> None:
    live = np.zeros((32, 1))
    frozen = FrozenRows({"weight": live}, 32)
    pieces = frozen["weight"].pieces()
    next(pieces)
    frozen.keep(np.arange(32))
    assert [len(rows) for rows, _ in frozen._kept["weight"]] == [32 - 8]
    for _ in pieces:
        pass
    assert not frozen._kept


LEARNERS = {
    "helen": OptimizerConfig(method="helen", perturb="both", row_rule="adam", dense_rule="adam"),
    "revisit": OptimizerConfig(method="revisit", revisit_after=20),
    "16-bit": OptimizerConfig(method="helen", dense_rule="adam", moments="bfloat16"),
}


@pytest.mark.parametrize("optimizer", list(LEARNERS))
@pytest.mark.parametrize("weights", [False, True])
def test_a_learner_continues_while_its_frozen_state_is_read(optimizer: str, weights: bool) -> None:
    learner = compiled(LEARNERS[optimizer])
    batch = make_batch(SINGLE, 120, seed=3, values=30)
    first, rest = part(batch, 0, 60), part(batch, 60, 120)
    learner.learn(first)
    before = learner.weights() if weights else learner.state()
    frozen = learner.freeze_weights() if weights else learner.freeze()
    assert unequal(frozen_meanwhile(frozen, learner, rest), before) == []
    assert not learner.weights().equals(before)
    assert learner._rows.used > len(before.arrays["rows.weight"]), "no new row came meanwhile"
    undisturbed = compiled(LEARNERS[optimizer])
    undisturbed.learn(batch)
    assert undisturbed.state().equals(learner.state()), "freezing must not change what is learned"


def compiled(optimizer: OptimizerConfig) -> CompiledLearner:
    model = ModelConfig(embedding=4, hidden=(8, 4))
    slots = list(SINGLE.slot_field)
    return CompiledLearner(model, optimizer, LearnerConfig(device="cpu"), slots, SINGLE.fields)


def part(batch: Batch, start: int, stop: int) -> Batch:
    changes, own = batch.changes, (batch.changes.event >= start) & (batch.changes.event < stop)
    columns = ("rows", "ratio", "label", "weight", "action", "served", "time_ms", "impression", "truth")
    return Batch(
        **{name: getattr(batch, name)[start:stop] for name in columns},
        changes=RowChanges(
            changes.event[own] - start, changes.row[own], changes.field[own], changes.key[own]
        ),
    )


def frozen_meanwhile(frozen: FrozenState, learner: Learner, rest: Batch) -> State:
    """The whole frozen state; an event is learned between any two of its pieces."""
    events: Iterator[int] = iter(range(len(rest)))
    arrays = {}
    with frozen:
        for name, source in frozen.arrays.items():
            pieces = []
            for piece in pieces_of(source):
                pieces.append(piece.copy())
                event = next(events, None)
                if event is not None:
                    learner.learn(part(rest, event, event + 1))
            arrays[name] = np.concatenate(pieces) if pieces else np.zeros(source.shape, source.dtype)
    for event in events:
        learner.learn(part(rest, event, event + 1))
    return State(arrays, frozen.values)


def unequal(one: State, other: State) -> list[str]:
    names = one.arrays.keys() | other.arrays.keys()
    assert one.values == other.values
    return [
        name
        for name in sorted(names)
        if not State({"a": one.arrays[name]}).equals(State({"a": other.arrays[name]}))
    ]


@pytest.mark.parametrize(
    "config",
    [
        FeaturesConfig(),
        FeaturesConfig(minimum_count=2),
        FeaturesConfig(counts="decayed", half_life_seconds=2.0),
    ],
)
def test_feature_tables_continue_and_grow_while_their_frozen_state_is_read(config: FeaturesConfig) -> None:
    slots = np.array([0, 1, 1, 2], np.int32)
    rng = np.random.default_rng(4)
    keys = rng.integers(1, 2**63, (900, 4)).astype(np.uint64)
    keys[300:] = np.where(rng.random((600, 4)) < 0.5, keys[rng.integers(0, 300, 600)], keys[300:])
    tables = FeatureTables(slots, 3, config)
    for _ in range(2):  # so that all values are admitted
        encode(tables, keys[:150])
    before, lookup = tables.state(), tables.lookup_arrays()
    capacity = len(lookup[0])
    frozen, places = tables.freeze(), tables.freeze_lookup()
    chunks = iter(np.split(keys[150:], 75))
    arrays: dict[str, NDArray[Any]] = {}
    with frozen:
        for name, source in [*frozen.arrays.items(), ("keys", places[0]), ("rows", places[1])]:
            pieces = []
            for piece in pieces_of(source):
                pieces.append(piece.copy())
                encode(tables, next(chunks, keys[:0]))
            arrays[name] = np.concatenate(pieces) if pieces else np.zeros(source.shape, source.dtype)
    assert np.array_equal(arrays.pop("keys"), lookup[0])
    assert np.array_equal(arrays.pop("rows"), lookup[1])
    assert unequal(State(arrays, frozen.values), before) == []
    assert len(tables.lookup_arrays()[0]) > capacity, "the table did not grow meanwhile"
    fresh = FeatureTables(slots, 3, config)
    fresh.load_state(State(arrays, frozen.values))
    assert fresh.state().equals(before)


def encode(tables: FeatureTables, keys: NDArray[np.uint64]) -> None:
    times = np.arange(len(keys)) + 1_000 * tables.rows_in_use
    tables.encode(keys, np.full(len(keys), PREDICT, np.uint8), times)


def test_safetensors_reads_the_file_and_its_pieces_are_small(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    arrays: dict[str, NDArray[Any]] = {
        "weight": rng.normal(size=(50, 3)).astype(np.float32),
        "half": rng.normal(size=9).astype(np.float16),
        "empty": np.zeros((0, 4)),
        "across": rng.normal(size=(4, 6))[:, ::2],
        "flags": np.array([True, False, True]),
        "number": np.array(7),
    }
    frozen = FrozenRows({"weight": arrays["weight"]}, 50)
    file = ArrayFile({**arrays, "weight": frozen["weight"]})
    pieces = [bytes(piece) for piece in file.pieces()]
    assert len(pieces) > 10
    Files().write_pieces(tmp_path / "file", iter(pieces))
    content = (tmp_path / "file").read_bytes()
    assert len(content) == file.size
    loaded = safetensors.numpy.load(content)
    assert unequal(State(loaded), State(arrays)) == []
    for name, place in file.places.items():
        assert place.offset % arrays[name].itemsize == 0


def test_an_unsupported_dtype_is_rejected() -> None:
    with pytest.raises(StateError, match="array odd has dtype complex128"):
        ArrayFile({"odd": np.zeros(2, np.complex128)})
