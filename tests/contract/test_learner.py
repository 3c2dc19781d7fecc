"""The contract that every learner implementation must fulfil."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pytest
import torch

from stream_ctr.batch import PREDICT
from stream_ctr.config.learner import LearnerConfig
from stream_ctr.config.model import ModelConfig
from stream_ctr.config.optimizer import OptimizerConfig
from stream_ctr.learners.base import Learner
from stream_ctr.learners.build import build_learner
from stream_ctr.learners.cuda.graph import warmed_up
from stream_ctr.learners.cuda.learner import CudaGraphLearner
from stream_ctr.learners.river.registry import river_learner
from tests.support.learner_events import MULTI, SINGLE, Schema, chunks, make_batch, one_event, part

MODEL = ModelConfig(embedding=4, hidden=(8, 6), embedding_scale=0.2)
HELEN = OptimizerConfig(method="helen", perturb="both", rho=0.1, rho_dense=0.1, l2=1e-3, dense_rate=0.01)
ADAM = OptimizerConfig(method="sam", rho=0.1, row_rule="adam", row_rate=0.01, warm_up_events=50)
FEWER_BYTES = OptimizerConfig(
    method="helen", rho=0.1, dense_rule="adam", dense_rate=0.01, dense_idle="skip", moments="bfloat16"
)


@dataclass(frozen=True)
class Implementation:
    """One implementation, and whether its results must be exact."""

    make: Callable[[Schema], Learner]
    saved: bool = True
    """Whether it has a state."""
    exact: bool = True
    """Whether equal work gives equal bits; a GPU's sums do not."""


NO_CUDA = "torch finds no CUDA device: run where there is a GPU and torch is built for it"


def network(
    optimizer: OptimizerConfig,
    device: str,
    kind: Literal["compiled", "cuda", "cuda-fused", "torch"] = "torch",
) -> Callable[[Schema], Learner]:
    def make(schema: Schema) -> Learner:
        config = LearnerConfig(kind=kind, device=device, seed=3)
        return build_learner(MODEL, optimizer, config, schema.slot_field, schema.fields)

    return make


def cursor_steps(optimizer: OptimizerConfig) -> Callable[[Schema], Learner]:
    """The CUDA graph learner without a graph: the same operations, run one by one on the CPU."""

    def make(schema: Schema) -> Learner:
        config, slots = LearnerConfig(device="cpu", seed=3), (schema.slot_field, schema.fields)
        return CudaGraphLearner(MODEL, optimizer, config, *slots, record=warmed_up)

    return make


CUDA = [
    pytest.mark.cuda,
    pytest.mark.skipif(
        not torch.cuda.is_available(),
        reason=NO_CUDA,
    ),
]
IMPLEMENTATIONS = [
    pytest.param(Implementation(network(HELEN, "cpu")), id="torch-cpu-helen"),
    pytest.param(Implementation(network(ADAM, "cpu")), id="torch-cpu-adam"),
    pytest.param(Implementation(network(FEWER_BYTES, "cpu")), id="torch-cpu-16-bit"),
    pytest.param(Implementation(network(HELEN, "cuda"), exact=False), id="torch-cuda", marks=CUDA),
    pytest.param(Implementation(cursor_steps(HELEN)), id="cuda-steps-helen"),
    pytest.param(Implementation(cursor_steps(ADAM)), id="cuda-steps-adam"),
    pytest.param(Implementation(network(HELEN, "cuda", "cuda"), exact=False), id="cuda-helen", marks=CUDA),
    pytest.param(Implementation(network(ADAM, "cuda", "cuda"), exact=False), id="cuda-adam", marks=CUDA),
    pytest.param(Implementation(network(HELEN, "cuda", "cuda-fused")), id="cuda-fused-helen", marks=CUDA),
    pytest.param(Implementation(network(ADAM, "cuda", "cuda-fused")), id="cuda-fused-adam", marks=CUDA),
    pytest.param(Implementation(network(HELEN, "cpu", "compiled")), id="compiled-helen"),
    pytest.param(Implementation(network(ADAM, "cpu", "compiled")), id="compiled-adam"),
    pytest.param(Implementation(network(FEWER_BYTES, "cpu", "compiled")), id="compiled-16-bit"),
    pytest.param(Implementation(lambda _: river_learner("river-ftrl")), id="river-ftrl"),
    pytest.param(Implementation(lambda _: river_learner("river-lr")), id="river-lr"),
    pytest.param(Implementation(lambda _: river_learner("river-fm")), id="river-fm"),
    pytest.param(Implementation(lambda _: river_learner("river-tree"), saved=False), id="river-tree"),
    pytest.param(Implementation(lambda _: river_learner("river-forest"), saved=False), id="river-forest"),
]
every = pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
saved = pytest.mark.parametrize(
    "implementation", [i for i in IMPLEMENTATIONS if getattr(i.values[0], "saved", False)]
)
schemas = pytest.mark.parametrize("schema", [SINGLE, MULTI], ids=["single", "multi"])


def same(a: Learner, b: Learner, implementation: Implementation) -> bool:
    """Whether two learners are in the same state; as close as rounding allows where bits may differ."""
    one, other = a.state(), b.state()
    if implementation.exact:
        return one.equals(other)
    assert one.values == other.values
    return all(np.allclose(one.arrays[n], other.arrays[n], rtol=1e-3, atol=1e-4) for n in one.arrays)


@every
@schemas
def test_chunking_changes_no_bit(implementation: Implementation, schema: Schema) -> None:
    batch = make_batch(schema, 150, seed=11)
    learners, probabilities = [], []
    for size in (256, 1, 7):
        learner = implementation.make(schema)
        probabilities.append(np.concatenate([learner.learn(c).probability for c in chunks(batch, size)]))
        learners.append(learner)
    for other, p in zip(learners[1:], probabilities[1:], strict=True):
        if implementation.exact:
            np.testing.assert_array_equal(p, probabilities[0])
        else:
            np.testing.assert_allclose(p, probabilities[0], atol=1e-4)
        assert not implementation.saved or same(learners[0], other, implementation)


@every
@schemas
def test_probabilities_do_not_depend_on_the_events_own_label(
    implementation: Implementation, schema: Schema
) -> None:
    batch = make_batch(schema, 60, seed=12)
    flipped = []
    for label in (0.0, 1.0):
        learner = implementation.make(schema)
        learner.learn(batch)
        predicted = learner.predict(batch.rows[59:])
        first = learner.learn(one_event(batch, 59, label=label)).probability
        np.testing.assert_allclose(first, predicted, rtol=1e-5)
        second = learner.learn(one_event(batch, 59, label=label)).probability
        flipped.append((first[0], second[0]))
    assert flipped[0][0] == flipped[1][0]
    assert flipped[0][1] < flipped[1][1]


@every
@schemas
def test_predicting_changes_nothing(implementation: Implementation, schema: Schema) -> None:
    batch = make_batch(schema, 120, seed=13)
    asked, silent = implementation.make(schema), implementation.make(schema)
    asked.learn(part(batch, 0, 80))
    silent.learn(part(batch, 0, 80))
    seen = one_event(batch, 79)
    for _ in range(2):
        first = asked.predict(batch.rows[:60])
        np.testing.assert_array_equal(first, asked.predict(batch.rows[:60]))
    seen.action[:] = PREDICT
    asked.learn(seen)
    p, expected = (each.learn(part(batch, 80, 120)).probability for each in (asked, silent))
    np.testing.assert_allclose(p, expected, rtol=0 if implementation.exact else 1e-4)
    assert not implementation.saved or same(asked, silent, implementation)


@every
def test_result_has_one_entry_an_event(implementation: Implementation) -> None:
    learner = implementation.make(SINGLE)
    batch = make_batch(SINGLE, 30, seed=14)
    result = learner.learn(batch)
    assert result.probability.dtype == np.float32
    assert result.probability.shape == result.skipped.shape == result.seconds.shape == (30,)
    assert ((result.probability > 0) & (result.probability < 1)).all()
    assert (result.seconds > 0).all()
    assert not result.skipped.any()
    assert learner.predict(batch.rows).shape == (30,)
    assert learner.predict(batch.rows[:0]).shape == (0,)
    assert len(learner.learn(part(batch, 0, 0)).probability) == 0


@saved
@schemas
def test_a_loaded_state_continues_bit_for_bit(implementation: Implementation, schema: Schema) -> None:
    batch = make_batch(schema, 160, seed=15)
    whole = implementation.make(schema)
    whole.learn(part(batch, 0, 90))
    state = whole.state()
    resumed = implementation.make(schema)
    resumed.learn(make_batch(schema, 200, seed=16))  # loading must replace everything learned before
    resumed.load_state(state)
    assert resumed.state().equals(state)
    p, expected = (each.learn(part(batch, 90, 160)).probability for each in (resumed, whole))
    np.testing.assert_allclose(p, expected, rtol=0 if implementation.exact else 1e-4)
    assert same(resumed, whole, implementation)


@saved
def test_state_is_a_copy(implementation: Implementation) -> None:
    batch = make_batch(SINGLE, 60, seed=17)
    learner = implementation.make(SINGLE)
    learner.learn(part(batch, 0, 30))
    state = learner.state()
    kept = {name: array.copy() for name, array in state.arrays.items()}
    learner.learn(part(batch, 30, 60))
    assert all(np.array_equal(kept[name], array) for name, array in state.arrays.items())
    other = implementation.make(SINGLE)
    other.load_state(state)
    other.learn(part(batch, 30, 60))
    assert all(np.array_equal(kept[name], array) for name, array in state.arrays.items())
    assert same(learner, other, implementation)


@saved
def test_a_non_finite_update_is_skipped(implementation: Implementation) -> None:
    batch = make_batch(SINGLE, 60, seed=18)
    learner = implementation.make(SINGLE)
    learner.learn(batch)
    before = learner.state()
    for columns in ({"label": np.nan}, {"weight": np.inf}, {"weight": 1e30}):
        assert learner.learn(one_event(batch, 40, **columns)).skipped.tolist() == [True]
        assert learner.state().equals(before)


@pytest.mark.cuda
@pytest.mark.skipif(
    not torch.cuda.is_available(),
    reason=NO_CUDA,
)
@pytest.mark.parametrize("kind", ["torch", "cuda", "cuda-fused"])
def test_gpu_learns_what_the_cpu_learns(kind: Literal["cuda", "cuda-fused", "torch"]) -> None:
    batch = make_batch(MULTI, 300, seed=19)
    cpu, gpu = network(HELEN, "cpu")(MULTI), network(HELEN, "cuda", kind)(MULTI)
    np.testing.assert_allclose(cpu.learn(batch).probability, gpu.learn(batch).probability, atol=1e-4)
    one, other = cpu.state().arrays, gpu.state().arrays
    for name in one:
        distance = np.linalg.norm(one[name].astype(np.float64) - other[name])
        assert distance <= 1e-3 * max(1.0, float(np.linalg.norm(one[name].astype(np.float64)))), name
