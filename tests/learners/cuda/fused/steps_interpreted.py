"""The fused step against the reference learner, event by event, under Triton's interpreter.

``test_learner.py`` runs this file in a separate process, because the interpreter is enabled for a whole
process. The interpreter is slow, so there are few events.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from stream_ctr.batch import LEARN, PREDICT
from stream_ctr.config.label_policy import LabelLoss
from stream_ctr.config.learner import LearnerConfig
from stream_ctr.config.model import ModelConfig
from stream_ctr.config.optimizer import OptimizerConfig
from stream_ctr.learners.base import Learner
from stream_ctr.learners.compiled.learner import CompiledLearner
from stream_ctr.learners.cuda.fused.learner import FusedLearner
from stream_ctr.learners.cuda.fused.plan import Blocks
from stream_ctr.learners.cuda.graph import Run, warmed_up
from stream_ctr.learners.torch.learner import TorchLearner
from stream_ctr.state.state import State
from tests.support.learner_events import MULTI, SINGLE, Schema, make_batch, one_event, part

# the interpreter uses NumPy, which warns about non-finite numbers that a GPU propagates silently
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")
CPU = LearnerConfig(device="cpu", seed=5)
FIVE = Schema((0, 1, 2, 3, 4))
MODEL = ModelConfig(embedding=3, hidden=(6, 5), embedding_scale=0.3)
LINEAR = replace(MODEL, sml=False, hidden=())
HELEN = OptimizerConfig(method="helen", perturb="both", rho=0.3, rho_dense=0.4, dense_rate=0.01)
SAM = replace(HELEN, method="sam", rho=0.5, warm_up_events=4, row_rule="adam", dense_rule="adam", l2=0.02)
SMALL = Blocks(units=4, up_rows=4, up_columns=4, down_rows=4, down_columns=8, tile_rows=8, tile_columns=8)
WIDE = Blocks(up_rows=8, tile_rows=8, tile_columns=16, down_columns=16)
SCALAR = replace(MODEL, scale="scalar", pooling="sum")
ADAM_IDLE = replace(HELEN, method="base", dense_rule="adam", dense_idle="skip", row_rule="sgd")
CASES = {
    "helen": (MULTI, MODEL, HELEN, LabelLoss(), SMALL),
    "sam": (MULTI, SCALAR, SAM, LabelLoss("fnw", 0.5), WIDE),
    "base": (SINGLE, replace(MODEL, hidden=(1,)), ADAM_IDLE, LabelLoss("fast", 0.5), WIDE),
    "table": (
        MULTI,
        replace(MODEL, hidden=(4, 1)),
        replace(HELEN, row_norm="table", dense_norm="global", xi=0.5, dense_rule="sgd"),
        LabelLoss("wait", 0.3),
        WIDE,
    ),
    "embedding": (FIVE, replace(MODEL, sml=False), replace(HELEN, perturb="embedding"), LabelLoss(), WIDE),
    "linear": (FIVE, LINEAR, replace(HELEN, perturb="dense"), LabelLoss(), WIDE),
}


def as_it_is(run: Run) -> Run:
    """Without warm-up runs, which are slow under the interpreter."""
    return run


def make(
    schema: Schema = MULTI,
    model: ModelConfig = MODEL,
    optimizer: OptimizerConfig = HELEN,
    labels: LabelLoss | None = None,
    blocks: Blocks = WIDE,
    dtype: torch.dtype = torch.float32,
) -> FusedLearner:
    return FusedLearner(
        *(model, optimizer, CPU, schema.slot_field, schema.fields),
        dtype=dtype,
        labels=labels,
        record=as_it_is,
        blocks=blocks,
    )


def assert_close(one: State, other: State, tolerance: float) -> None:
    """Counts are equal; numbers agree within the tolerance, relative to the weight and to 1."""
    assert one.values == other.values
    assert one.arrays.keys() == other.arrays.keys()
    for name, array in one.arrays.items():
        allowed = 0.0 if array.dtype.kind == "i" else tolerance
        np.testing.assert_allclose(array, other.arrays[name], rtol=allowed, atol=allowed, err_msg=name)


@pytest.mark.parametrize("case", CASES)
def test_steps_are_those_of_the_reference(case: str) -> None:
    schema, model, optimizer, labels, blocks = CASES[case]
    batch = make_batch(schema, 6, seed=3)
    action, weight = batch.action.copy(), batch.weight.copy()
    action[:] = [LEARN | PREDICT, LEARN, PREDICT, 0, LEARN, LEARN | PREDICT]
    label = np.array([1, 0, np.nan, np.nan, 1, 0], np.float32)
    weight[4] = np.nan  # flagged, and not counted
    batch = replace(batch, action=action, weight=weight, label=label)
    learner = make(schema, model, optimizer, labels, blocks, torch.float64)
    slots = schema.slot_field, schema.fields
    expected = TorchLearner(model, optimizer, CPU, *slots, dtype=torch.float64, labels=labels)
    start = learner.state()
    p, q = learner.learn(batch), expected.learn(batch)
    np.testing.assert_allclose(p.probability, q.probability, rtol=1e-6)
    assert p.skipped.tolist() == q.skipped.tolist() == [False] * 4 + [True, False]
    assert_close(learner.state(), expected.state(), 1e-12)
    moved = np.abs(learner.state().arrays["dense.weight"] - start.arrays["dense.weight"])
    assert moved.max() > 1e-3  # it has learned something


def test_single_precision_stays_near_the_reference() -> None:
    batch = make_batch(MULTI, 5, seed=22, learn_only=True)
    optimizer = replace(HELEN, rho=0.01, rho_dense=0.01, dense_rate=1e-3)
    learner = make(optimizer=optimizer)
    expected = TorchLearner(MODEL, optimizer, CPU, MULTI.slot_field, MULTI.fields)
    p, q = (each.learn(batch).probability.astype(np.float64) for each in (learner, expected))
    np.testing.assert_allclose(np.log(p) - np.log1p(-p), np.log(q) - np.log1p(-q), atol=1e-4)
    assert_close(learner.state(), expected.state(), 1e-4)


def test_checkpoints_are_interchangeable_with_the_compiled_learner() -> None:
    batch = make_batch(MULTI, 6, seed=23, learn_only=True)
    slots = MULTI.slot_field, MULTI.fields
    first, second, third = make(optimizer=SAM), CompiledLearner(MODEL, SAM, CPU, *slots), make(optimizer=SAM)
    third.learn(make_batch(MULTI, 1, seed=24))  # loading must replace everything learned before
    whole = TorchLearner(MODEL, SAM, CPU, *slots)
    whole.learn(batch)
    learners: list[Learner] = [first, second, third]
    state = None
    for begin, learner in zip(range(0, 6, 2), learners, strict=True):
        if state is not None:
            learner.load_state(state)
            assert learner.state().equals(state)
        learner.learn(part(batch, begin, begin + 2))
        state = learner.state()
    assert state is not None
    assert_close(state, whole.state(), 1e-4)


@pytest.mark.parametrize("optimizer", [HELEN, ADAM_IDLE], ids=["two-passes", "one-pass"])
def test_a_non_finite_update_changes_no_bit_and_is_flagged(optimizer: OptimizerConfig) -> None:
    batch = make_batch(MULTI, 4, seed=2, learn_only=True)
    learner = make(optimizer=optimizer)
    learner.learn(part(batch, 0, 2))
    state = learner.state()
    state.arrays["dense.weight"][:7] = -0.0  # signed zeros count as different bits
    learner.load_state(state)
    for column in ({"label": np.nan}, {"weight": np.inf}, {"weight": 1e30}):
        assert learner.learn(one_event(batch, 1, **column)).skipped.tolist() == [True]
        after = learner.state()
        assert after.values == state.values
        assert all(after.arrays[name].tobytes() == array.tobytes() for name, array in state.arrays.items())
    assert learner.learn(one_event(batch, 1, label=1.0, weight=1.0)).skipped.tolist() == [False]
    assert not learner.state().equals(state)


def test_a_non_finite_second_pass_changes_no_bit_and_is_flagged() -> None:
    batch = make_batch(SINGLE, 4, seed=2, learn_only=True)
    # squares of gradients of 1e15 are finite, until the perturbed weights multiply them by 1e6
    heavy = one_event(batch, 3, label=1.0, weight=1e15)
    for radius, skipped in ((0.0, False), (1e6, True)):
        learner = make(SINGLE, LINEAR, replace(HELEN, rho_dense=radius))
        learner.learn(replace(batch, action=np.full(4, PREDICT, np.uint8)))
        before = learner.state()
        assert learner.learn(heavy).skipped.tolist() == [skipped]
        assert learner.state().equals(before) == skipped


def test_results_do_not_depend_on_the_spare_row_or_on_chunks() -> None:
    batch = make_batch(MULTI, 2, seed=6, learn_only=True)
    whole, pieces = make(optimizer=SAM), make(optimizer=SAM)
    rows = pieces._cursor_step.rows
    for array in (rows.weight, *rows.accumulators):
        array[pieces._cursor_step.spare] = np.nan
    p = whole.learn(batch).probability
    q = [pieces.learn(part(batch, b, b + 1)).probability for b in (0, 1)]
    np.testing.assert_array_equal(p, np.concatenate(q))
    assert whole.state().equals(pieces.state())


def test_warm_up_runs_change_nothing() -> None:
    batch = make_batch(MULTI, 1, seed=7, learn_only=True)
    learner = make()
    learner.learn(batch)
    before = learner.state()
    learner._cursor_step.chunk.fill_with_no_ops(learner._cursor_step.spare)
    warmed_up(learner._runs[LEARN, False])
    assert learner.state().equals(before)
