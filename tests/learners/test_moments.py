"""Accumulators in 16 bits and idle dense weights, in the learners that support them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from stream_ctr.config.learner import LearnerConfig
from stream_ctr.config.model import ModelConfig
from stream_ctr.config.optimizer import OptimizerConfig
from stream_ctr.daemon.checkpoint import CheckpointStore
from stream_ctr.errors import ModelError, StateError
from stream_ctr.learners.base import Learner
from stream_ctr.learners.build import build_learner
from stream_ctr.learners.compiled.learner import CompiledLearner
from stream_ctr.learners.torch.learner import TorchLearner
from stream_ctr.offline.warm_start import per_event
from stream_ctr.optim.moments import widened
from stream_ctr.state.state import State
from tests.support.kept_moments_oracle import KeptOracle
from tests.support.learner_events import MULTI, SINGLE, Schema, make_batch, one_event, part

CPU = LearnerConfig(device="cpu", seed=5)
MODEL = ModelConfig(embedding=4, hidden=(7, 6), embedding_scale=0.3)
ADAM = OptimizerConfig(
    method="helen",
    rho=0.3,
    rho_dense=0.4,
    row_rule="adagrad",
    row_rate=0.02,
    dense_rule="adam",
    dense_rate=0.01,
    moments="bfloat16",
)
REVISIT = OptimizerConfig(
    method="revisit",
    row_rate=0.05,
    row_initial=0.05,
    dense_rate=0.01,
    dense_initial=0.05,
    revisit_after=13,
    revisit_rows=0.6,
    revisit_dense=0.3,
    moments="bfloat16",
)
OPTIMIZERS = {
    "adam": ADAM,
    "idle": replace(ADAM, dense_idle="skip"),
    "rows-adam": replace(ADAM, method="base", row_rule="adam", dense_rule="adagrad"),
    "sam": replace(ADAM, method="sam", row_rule="adam", l2=0.01, dense_idle="skip"),
    "revisit": REVISIT,
}
optimizers = pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
schemas = pytest.mark.parametrize("schema", [SINGLE, MULTI], ids=["single", "multi"])
kinds = pytest.mark.parametrize("kind", [CompiledLearner, TorchLearner])


def make(
    kind: type[CompiledLearner] | type[TorchLearner], optimizer: OptimizerConfig, schema: Schema = SINGLE
) -> CompiledLearner | TorchLearner:
    return kind(MODEL, optimizer, CPU, schema.slot_field, schema.fields)


def differs(one: State, other: State) -> tuple[float, float]:
    """Largest relative distance of an array of numbers, and the share of unequal accumulators."""
    assert one.values == other.values
    assert one.arrays.keys() == other.arrays.keys()
    distance, unequal = 0.0, 0.0
    for name, array in one.arrays.items():
        a, b = array, other.arrays[name]
        if a.dtype == np.uint16:
            unequal = max(unequal, float((a != b).mean()))
            a, b = widened(a), widened(b)
        distance = max(distance, float(np.linalg.norm(a - b)) / max(float(np.linalg.norm(b)), 1e-12))
    return distance, unequal


# A sum within a float32 rounding error of the edge may round the other way: hence shares.


@schemas
@optimizers
@kinds
def test_steps_are_those_of_a_slow_transcription(
    schema: Schema, optimizer: OptimizerConfig, kind: type[CompiledLearner] | type[TorchLearner]
) -> None:
    learner = make(kind, optimizer, schema)
    start = learner.state()
    weights = start.arrays["dense.weight"].astype(np.float64)
    oracle = KeptOracle(MODEL, optimizer, schema.slot_field, CPU.seed, start.values["layout"], weights)
    batch = make_batch(schema, 40, seed=3)
    p, expected = learner.learn(batch).probability, oracle.learn(batch)
    np.testing.assert_allclose(p, expected, atol=1e-3)
    state = learner.state()
    dense = np.concatenate([w.detach().numpy().ravel() for w in oracle.p.values()])
    np.testing.assert_allclose(state.arrays["dense.weight"], dense, atol=2e-3)
    named = {"sum": "square", "exp_avg": "mean", "exp_avg_sq": "square"}
    found: dict[str, list[np.ndarray[tuple[int, ...], np.dtype[np.float64]]]] = {}
    for w in oracle.p.values():
        for name, value in oracle.dense_rule.state[w].items():
            found.setdefault(f"dense.{named.get(name)}", []).append(value.numpy().ravel())
    for row in range(len(oracle.row)):
        for name, value in oracle.row_rule[row].state[oracle.row[row]].items():
            found.setdefault(f"rows.{named.get(name)}", []).append(value.numpy().ravel())
    compared = [name for name in found if not name.endswith("None")]
    assert {name.split(".")[0] for name in compared} == {"dense", "rows"}
    for name in compared:
        assert state.arrays[name].dtype == np.uint16
        stored, slow = widened(state.arrays[name]).ravel(), np.concatenate(found[name])
        if len(slow) == len(stored):  # torch.optim has no state for rows that never stepped
            assert (stored == slow.astype(np.float32)).mean() > 0.97, name


@schemas
@optimizers
def test_checkpoints_are_interchangeable(schema: Schema, optimizer: OptimizerConfig) -> None:
    batch = make_batch(schema, 240, seed=23)
    for one, other in ((CompiledLearner, TorchLearner), (TorchLearner, CompiledLearner)):
        first, second = make(one, optimizer, schema), make(other, optimizer, schema)
        assert first.state().equals(second.state())
        first.learn(part(batch, 0, 200))
        second.learn(make_batch(schema, 40, seed=24))  # loading must replace everything learned before
        second.load_state(first.state())
        assert second.state().equals(first.state())
        p, q = (each.learn(part(batch, 200, 240)).probability for each in (first, second))
        np.testing.assert_allclose(p, q, atol=1e-3)
        distance, unequal = differs(second.state(), first.state())
        assert distance < 2e-3
        assert unequal < 0.05


@optimizers
@kinds
def test_a_restart_from_disk_resumes_bit_for_bit(
    optimizer: OptimizerConfig, kind: type[CompiledLearner] | type[TorchLearner], tmp_path: Path
) -> None:
    batch = make_batch(SINGLE, 120, seed=6)
    whole, first, second = (make(kind, optimizer) for _ in range(3))
    whole.learn(batch)
    first.learn(part(batch, 0, 71))
    store = CheckpointStore(tmp_path, 2)
    parts = {"learner": first.state()}
    store.save(parts, created_ms=0, software="", identity={}, log={}, positions=[], emitted=0)
    loaded = store.load()
    assert loaded is not None
    assert loaded.parts["learner"].equals(first.state())
    second.load_state(loaded.parts["learner"])
    second.learn(part(batch, 71, 120))
    assert second.state().equals(whole.state())


def test_rounding_depends_on_the_seed_alone() -> None:
    batch = make_batch(SINGLE, 80, seed=9)
    states = []
    for seed in (5, 5, 6):
        learner = CompiledLearner(MODEL, ADAM, CPU, SINGLE.slot_field, SINGLE.fields)
        start = learner.state()
        other = CompiledLearner(MODEL, ADAM, replace(CPU, seed=seed), SINGLE.slot_field, SINGLE.fields)
        other.load_state(start)
        other.learn(part(batch, 0, 1))
        states.append(other.state())
    assert states[0].equals(states[1])
    assert not np.array_equal(states[0].arrays["dense.square"], states[2].arrays["dense.square"])


@kinds
def test_accumulators_use_half_the_bytes(kind: type[CompiledLearner] | type[TorchLearner]) -> None:
    full, half = (
        make(kind, replace(ADAM, moments=moments)).state().arrays for moments in ("float32", "bfloat16")
    )
    for name in ("dense.mean", "dense.square", "rows.square"):
        assert 2 * half[name].nbytes == full[name].nbytes
    assert half["dense.weight"].nbytes == full["dense.weight"].nbytes


@kinds
@pytest.mark.parametrize(("saved", "own"), [("float32", "bfloat16"), ("bfloat16", "float32")])
def test_a_state_with_other_accumulators_is_rejected_and_changes_nothing(
    kind: type[CompiledLearner] | type[TorchLearner], saved: str, own: str
) -> None:
    batch = make_batch(SINGLE, 20, seed=2)
    first = make(kind, replace(ADAM, moments="bfloat16" if saved == "bfloat16" else "float32"))
    second = make(kind, replace(ADAM, moments="bfloat16" if own == "bfloat16" else "float32"))
    for each in (first, second):
        each.learn(batch)
    before = second.state()
    with pytest.raises(StateError, match=rf'dense\.mean is \w+, .* optimizer\.moments = "{saved}"'):
        second.load_state(first.state())
    assert second.state().equals(before)


@kinds
@pytest.mark.parametrize("moments", ["float32", "bfloat16"])
def test_an_inactive_unit_moves_by_its_moments_or_keeps_every_bit(
    kind: type[CompiledLearner] | type[TorchLearner], moments: str
) -> None:
    batch = make_batch(SINGLE, 30, seed=2, learn_only=True)
    half = replace(ADAM, method="base", moments="bfloat16" if moments == "bfloat16" else "float32")
    for optimizer in (half, replace(half, dense_idle="skip")):
        learner = make(kind, optimizer)
        learner.learn(batch)
        before = learner.state()
        learner.learn(one_event(batch, 29, weight=0.0))  # every gradient is 0
        after = learner.state()
        for name in ("dense.weight", "dense.mean", "dense.square"):
            assert np.array_equal(before.arrays[name], after.arrays[name]) == (optimizer.dense_idle == "skip")


def test_an_unsupporting_learner_names_one_that_supports_bfloat16() -> None:
    with pytest.raises(
        ModelError,
        match=r"optimizer\.moments = 'bfloat16'.*learner\.kind = \"compiled\"",
    ):
        build_learner(MODEL, ADAM, LearnerConfig(kind="cuda"), SINGLE.slot_field, SINGLE.fields)
    learner: Learner = build_learner(MODEL, ADAM, CPU, SINGLE.slot_field, SINGLE.fields)
    assert isinstance(learner, CompiledLearner)


def test_units_of_batches_are_changed_behind_the_bits() -> None:
    learner = make(TorchLearner, ADAM)
    learner.learn(make_batch(SINGLE, 30, seed=2))
    state = learner.state()
    grown = per_event(state, ADAM, 4)
    for name, times in (("dense.square", 4.0), ("dense.mean", 1.0)):
        assert grown.arrays[name].dtype == np.uint16
        np.testing.assert_allclose(
            widened(grown.arrays[name]), times * widened(state.arrays[name]), rtol=2**-8
        )
