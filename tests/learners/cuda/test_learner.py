"""The CUDA graph learner without a GPU: as plain operations, as a recorded list, and on meta tensors.

Tests that need a GPU are at the end, and in the contract of all learners.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from stream_ctr.batch import LEARN, PREDICT, RowChanges
from stream_ctr.config.label_policy import LabelLoss
from stream_ctr.config.learner import LearnerConfig
from stream_ctr.config.model import ModelConfig
from stream_ctr.config.optimizer import OptimizerConfig
from stream_ctr.errors import ModelError, StateError
from stream_ctr.learners.base import Learner
from stream_ctr.learners.build import build_batch_learner, build_learner
from stream_ctr.learners.compiled.learner import CompiledLearner
from stream_ctr.learners.compiled.rows import FIRST_CAPACITY
from stream_ctr.learners.cuda.graph import Run, recorded, warmed_up
from stream_ctr.learners.cuda.learner import CudaGraphLearner
from stream_ctr.learners.cuda.step import CHUNK_EVENTS, CursorStep
from stream_ctr.learners.torch.learner import TorchLearner
from stream_ctr.learners.torch.step import Events, TorchStep
from stream_ctr.models.build import build_network
from stream_ctr.state.state import State
from tests.support.backbone_variants import BACKBONES, small
from tests.support.learner_events import MULTI, SINGLE, Schema, chunks, make_batch, one_event, part

CPU = LearnerConfig(device="cpu", seed=5)
MODEL = ModelConfig(embedding=4, hidden=(6, 5), embedding_scale=0.3)
HELEN = OptimizerConfig(method="helen", perturb="both", rho=0.3, rho_dense=0.4, dense_rate=0.01)
OPTIMIZERS = [
    HELEN,
    replace(HELEN, xi=0.5, perturb="embedding", row_rule="sgd", dense_rule="sgd"),
    replace(HELEN, row_norm="table", dense_norm="global", row_rule="adam", row_rate=0.03),
    replace(HELEN, perturb="dense", dense_rule="rmsprop", dense_rate=1e-3, l2=0.01),
    replace(HELEN, method="sam", rho=0.5, warm_up_events=20, row_rule="radam", dense_rule="nadam", l2=0.02),
    replace(HELEN, method="asam", rho=0.5, eta=0.02, warm_up_events=9, row_rule="nadam", dense_rule="radam"),
    replace(HELEN, method="base", dense_rule="adam", row_rule="rmsprop"),
    replace(HELEN, xi=0.5, counts="batch", row_rule="adam", l2=0.01, dense_rule="adam", dense_idle="skip"),
]
MODELS = [
    *(small(backbone=name, sml=True, embedding_scale=0.3) for name in BACKBONES),
    small(backbone="dcnv2", cross_experts=2, embedding_scale=0.3, scale="low_rank", sml=True),
    small(backbone="dlrm", bottom_fields=1, hidden=(), pooling="sum", embedding_scale=0.3),
]
FTRL = replace(HELEN, rho=0.1, rho_dense=0.1, first_order_rule="ftrl", ftrl_l1=0.01)
WIDE = small(backbone="deepfm", embedding_scale=0.3)
schemas = pytest.mark.parametrize("schema", [SINGLE, MULTI], ids=["single", "multi"])
optimizers = pytest.mark.parametrize("optimizer", OPTIMIZERS)


def make(
    schema: Schema = SINGLE,
    model: ModelConfig = MODEL,
    optimizer: OptimizerConfig = HELEN,
    dtype: torch.dtype = torch.float32,
    record: Callable[[Run], Run] = warmed_up,
) -> CudaGraphLearner:
    return CudaGraphLearner(
        model, optimizer, CPU, schema.slot_field, schema.fields, dtype=dtype, record=record
    )


def reference(
    schema: Schema = SINGLE,
    model: ModelConfig = MODEL,
    optimizer: OptimizerConfig = HELEN,
    dtype: torch.dtype = torch.float32,
) -> TorchLearner:
    return TorchLearner(model, optimizer, CPU, schema.slot_field, schema.fields, dtype=dtype)


def assert_close(one: State, other: State, tolerance: float) -> None:
    """Counts are equal; numbers agree within the tolerance, relative to the weight and to 1."""
    assert one.values == other.values
    assert one.arrays.keys() == other.arrays.keys()
    for name, array in one.arrays.items():
        allowed = 0.0 if array.dtype.kind == "i" else tolerance
        np.testing.assert_allclose(
            array, other.arrays[name], rtol=allowed, atol=allowed, err_msg=name, verbose=False
        )


# The steps are the reference learner's


def check_agreement(schema: Schema, model: ModelConfig, optimizer: OptimizerConfig) -> None:
    batch = make_batch(schema, 40, seed=3)
    learner = make(schema, model, optimizer, torch.float64)
    expected = reference(schema, model, optimizer, torch.float64)
    start = learner.state()
    assert start.equals(expected.state())
    p, q = learner.learn(batch), expected.learn(batch)
    np.testing.assert_allclose(p.probability, q.probability, rtol=1e-6)
    assert not p.skipped.any()
    assert_close(learner.state(), expected.state(), 1e-10)
    moved = np.abs(learner.state().arrays["dense.weight"] - start.arrays["dense.weight"])
    assert moved.max() > 1e-3  # it has learned something


@schemas
@optimizers
def test_steps_are_those_of_the_reference(schema: Schema, optimizer: OptimizerConfig) -> None:
    check_agreement(schema, MODEL, optimizer)


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.backbone)
def test_every_network_takes_the_steps_of_the_reference(model: ModelConfig) -> None:
    check_agreement(MULTI, model, HELEN)


@schemas
def test_first_order_weights_have_their_own_rule(schema: Schema) -> None:
    check_agreement(schema, WIDE, FTRL)


@pytest.mark.parametrize("labels", [LabelLoss("fast", 0.5), LabelLoss("fnw", 0.25)], ids=["fast", "fnw"])
def test_labels_are_learned_under_their_policy(labels: LabelLoss) -> None:
    batch, slots = make_batch(SINGLE, 40, seed=3), (SINGLE.slot_field, SINGLE.fields)
    double: Any = {"dtype": torch.float64, "labels": labels}
    learner = CudaGraphLearner(MODEL, HELEN, CPU, *slots, record=warmed_up, **double)
    expected, plain = TorchLearner(MODEL, HELEN, CPU, *slots, **double), make(dtype=torch.float64)
    for each in (learner, expected, plain):
        each.learn(batch)
    assert_close(learner.state(), expected.state(), 1e-10)
    assert not learner.state().equals(plain.state())


def test_an_event_without_predict_or_learn_is_ignored() -> None:
    batch = make_batch(MULTI, 60, seed=3)
    action = batch.action.copy()
    action[::5] = 0
    learner, expected = make(MULTI, optimizer=OPTIMIZERS[7]), reference(MULTI, optimizer=OPTIMIZERS[7])
    p, q = (each.learn(replace(batch, action=action)).probability for each in (learner, expected))
    np.testing.assert_array_equal(np.isnan(p), action == 0)
    np.testing.assert_allclose(p, q, rtol=1e-4)
    assert_close(learner.state(), expected.state(), 1e-4)


@schemas
def test_single_precision_stays_near_the_reference(schema: Schema) -> None:
    batch = make_batch(schema, 250, seed=22)
    optimizer = replace(HELEN, rho=0.01, rho_dense=0.01, dense_rate=1e-3)
    learner, expected = make(schema, optimizer=optimizer), reference(schema, optimizer=optimizer)
    p, q = (each.learn(batch).probability.astype(np.float64) for each in (learner, expected))
    np.testing.assert_allclose(np.log(p) - np.log1p(-p), np.log(q) - np.log1p(-q), atol=1e-4)
    assert_close(learner.state(), expected.state(), 1e-4)


@pytest.mark.parametrize("cuda_first", [True, False], ids=["cuda-torch", "torch-cuda"])
def test_checkpoints_are_interchangeable(cuda_first: bool) -> None:
    batch = make_batch(MULTI, 60, seed=23)
    first: Learner = make(MULTI, optimizer=OPTIMIZERS[4])
    second: Learner = reference(MULTI, optimizer=OPTIMIZERS[4])
    if not cuda_first:
        first, second = second, first
    first.learn(part(batch, 0, 35))
    second.learn(make_batch(MULTI, 40, seed=24))  # loading must replace everything learned before
    second.load_state(first.state())
    assert second.state().equals(first.state())
    p, q = (each.learn(part(batch, 35, 60)).probability for each in (first, second))
    np.testing.assert_allclose(p, q, rtol=1e-4)
    assert_close(second.state(), first.state(), 1e-4)


def test_a_batch_longer_than_a_chunk_is_split() -> None:
    batch = make_batch(SINGLE, CHUNK_EVENTS + 40, seed=9)
    linear, one_pass = replace(MODEL, hidden=(), sml=False), replace(HELEN, method="base", l2=0.01)
    whole, pieces = (make(model=linear, optimizer=one_pass) for _ in range(2))
    p = whole.learn(batch).probability
    q = [pieces.learn(piece).probability for piece in chunks(batch, 300)]
    np.testing.assert_array_equal(p, np.concatenate(q))
    assert whole.state().equals(pieces.state())


def test_row_changes_inside_a_chunk_equal_those_of_single_events() -> None:
    # lazy L2 uses the time since the last touch, also for rows initialised inside the chunk
    optimizer = replace(HELEN, row_rule="adam", l2=0.05)
    batch = make_batch(MULTI, 120, seed=11, values=5)
    whole, single = (make(MULTI, optimizer=optimizer) for _ in range(2))
    whole.learn(batch)
    for piece in chunks(batch, 1):
        single.learn(piece)
    assert whole.state().equals(single.state())
    assert (whole.state().arrays["rows.touched"] >= 0).all()


# A recorded step can be replayed


def traced(run: Run) -> Run:
    """``run`` as a list of its tensor operations; as in a CUDA graph, no host code remains."""
    warmed_up(run)
    return torch.no_grad()(make_fx(run)())


@pytest.mark.parametrize(
    ("schema", "model", "optimizer"),
    [(SINGLE, MODEL, HELEN), (MULTI, WIDE, OPTIMIZERS[4]), (MULTI, MODEL, OPTIMIZERS[5])],
    ids=["helen", "sam", "asam"],
)
def test_replaying_the_recorded_operations_learns(
    schema: Schema, model: ModelConfig, optimizer: OptimizerConfig
) -> None:
    batch = make_batch(schema, 40, seed=3)
    learner = make(schema, model, optimizer)
    replayed = make(schema, model, optimizer, record=traced)
    for piece in chunks(batch, 15):
        np.testing.assert_array_equal(learner.learn(piece).probability, replayed.learn(piece).probability)
    assert replayed.state().equals(learner.state())


@pytest.mark.parametrize("model", [*MODELS, MODEL], ids=lambda model: model.backbone)
def test_a_step_never_reads_from_the_device(model: ModelConfig) -> None:
    # tensors on the meta device have shapes but no numbers, so reading one fails
    slots = torch.tensor(MULTI.slot_field, device="meta")
    network = build_network(model, MULTI.fields)
    for optimizer in OPTIMIZERS if model is MODEL else [HELEN]:
        step = CursorStep(network, optimizer, model.pooling, 3, slots, MULTI.fields, torch.float32)
        step.learn_event(full=False)
        step.predict_event(full=False)
        rows = torch.zeros(2, dtype=torch.int64, device="meta")
        step.start_rows(rows, torch.zeros((2, network.row_width), device="meta"), rows.unsqueeze(1))
        step.settle(rows)


@pytest.mark.parametrize("optimizer", [HELEN, OPTIMIZERS[4], OPTIMIZERS[5]])
def test_every_tensor_of_a_step_is_on_the_device(optimizer: OptimizerConfig) -> None:
    # a number on the host would have to be copied at each step, which a recording cannot do
    slots = torch.tensor(MULTI.slot_field, device="meta")
    step = CursorStep(build_network(WIDE, MULTI.fields), optimizer, "mean", 3, slots, 3, torch.float32)
    warmed_up(lambda: step.learn_event(full=False))
    graph = make_fx(lambda: step.learn_event(full=False))()
    held = [getattr(graph, str(node.target)) for node in graph.graph.nodes if node.op == "get_attr"]
    made = [node.kwargs["device"] for node in graph.graph.nodes if "device" in node.kwargs]
    assert {tensor.device.type for tensor in held} == {device.type for device in made} == {"meta"}


def test_the_reference_step_reads_from_the_device() -> None:
    meta = torch.device("meta")
    step = TorchStep(build_network(MODEL, 3), HELEN, "mean", 3, 3, meta, torch.float32)
    rows = torch.zeros(3, dtype=torch.int64, device=meta)
    with pytest.raises(RuntimeError, match="meta"):
        step.learn(Events(1, rows, rows, torch.zeros(3, device=meta), None, rows, True), 1.0, 1.0)


def test_steps_are_recorded_again_only_after_the_table_grew() -> None:
    recordings = []

    def counted(run: Run) -> Run:
        recordings.append(run)
        return traced(run)

    batch = make_batch(SINGLE, 24, seed=4, learn_only=True)
    first = int(batch.changes.row.max()) + 1
    many = np.arange(first, first + 2 * FIRST_CAPACITY)
    none = np.zeros(len(many), np.int32)
    grown = replace(
        one_event(batch, 3),
        rows=many[None, -4:],
        changes=RowChanges(none.astype(np.int64), many, none, many.astype(np.uint64)),
    )
    learner, expected = make(record=counted), reference()
    assert len(recordings) == 2  # one that learns and one that predicts
    for piece, times in ((part(batch, 0, 12), 2), (grown, 3), (part(batch, 12, 24), 3)):
        np.testing.assert_allclose(
            learner.learn(piece).probability, expected.learn(piece).probability, rtol=1e-4
        )
        assert len(recordings) == times
    assert_close(learner.state(), expected.state(), 1e-4)


def test_warm_up_runs_change_nothing() -> None:
    for optimizer in (HELEN, OPTIMIZERS[4]):
        learner = make(MULTI, optimizer=optimizer)
        learner.learn(make_batch(MULTI, 30, seed=7))
        before = learner.state()
        learner._runs.clear()
        learner._ready({(LEARN, False), (PREDICT, False), (0, False)})
        assert learner.state().equals(before)


# A non-finite update is discarded


@pytest.mark.parametrize(
    "columns",
    [{"label": np.nan}, {"weight": np.inf}, {"weight": np.nan}, {"weight": 1e30}],
    ids=["label-nan", "weight-inf", "weight-nan", "square-overflows"],
)
@pytest.mark.parametrize("optimizer", [HELEN, *(OPTIMIZERS[i] for i in (1, 3, 4, 6, 7))])
def test_a_non_finite_update_changes_no_bit_and_is_flagged(
    columns: dict[str, float], optimizer: OptimizerConfig
) -> None:
    batch = make_batch(MULTI, 30, seed=2)
    learner = make(MULTI, optimizer=optimizer)
    learner.learn(batch)
    state = learner.state()
    state.arrays["dense.weight"][:7] = -0.0  # signed zeros count as different bits
    learner.load_state(state)
    assert learner.learn(one_event(batch, 29, **columns)).skipped.tolist() == [True]
    after = learner.state()
    assert after.values == state.values
    assert all(after.arrays[name].tobytes() == array.tobytes() for name, array in state.arrays.items())
    assert learner.learn(one_event(batch, 29, label=1.0, weight=1.0)).skipped.tolist() == [False]
    assert not learner.state().equals(after)


def test_a_non_finite_second_pass_changes_no_bit_and_is_flagged() -> None:
    batch = make_batch(SINGLE, 40, seed=2)
    linear = replace(MODEL, sml=False, hidden=())
    # squares of gradients of 1e15 are finite, until the perturbed weights multiply them by 1e6
    heavy = one_event(batch, 39, label=1.0, weight=1e15)
    for radius, skipped in ((0.0, False), (1e6, True)):
        learner = make(SINGLE, linear, replace(HELEN, rho_dense=radius))
        learner.learn(replace(batch, action=np.full(40, PREDICT, np.uint8)))
        before = learner.state()
        assert learner.learn(heavy).skipped.tolist() == [skipped]
        assert learner.state().equals(before) == skipped


def test_skipped_events_inside_a_chunk_are_counted_like_in_the_reference() -> None:
    batch = make_batch(MULTI, 60, seed=2)
    weight = batch.weight.copy()
    weight[::7] = np.nan
    bad = replace(batch, weight=weight)
    optimizer = replace(HELEN, row_rule="adam", l2=0.02)
    learner, expected = (each(MULTI, optimizer=optimizer, dtype=torch.float64) for each in (make, reference))
    p, q = learner.learn(bad), expected.learn(bad)
    np.testing.assert_array_equal(p.skipped, q.skipped)
    assert 0 < p.skipped.sum() < 10
    assert_close(learner.state(), expected.state(), 1e-10)


def test_the_spare_row_does_not_affect_results() -> None:
    batch = make_batch(MULTI, 40, seed=6)
    learner, poisoned = make(MULTI), make(MULTI)
    rows = poisoned._cursor_step.rows
    for array in (rows.weight, *rows.accumulators):
        array[poisoned._cursor_step.spare] = np.nan
    np.testing.assert_array_equal(learner.learn(batch).probability, poisoned.learn(batch).probability)
    assert poisoned.state().equals(learner.state())


def test_uninitialised_and_negative_rows_are_rejected() -> None:
    batch = make_batch(SINGLE, 10, seed=4)
    foreign = replace(batch, rows=np.where(batch.rows == batch.rows.max(), 4711, batch.rows))
    with pytest.raises(StateError, match=r"uses row 4711, the learner has \d+ rows"):
        make().learn(foreign)
    changes = replace(batch.changes, row=batch.changes.row - 100)
    with pytest.raises(StateError, match=r"initialises row -\d+; rows start at 0"):
        make().learn(replace(batch, changes=changes))


# Where the learner can run

no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")


@pytest.mark.parametrize(
    ("model", "learner", "message"),
    [
        (
            MODEL,
            {"device": "cpu"},
            "needs a GPU, and learner.device = 'cpu'; set learner.kind = \"compiled\"",
        ),
        (WIDE, {"device": "cpu"}, "needs a GPU, and learner.device = 'cpu'; set learner.kind = \"torch\""),
        pytest.param(
            WIDE,
            {},
            'needs a GPU, and torch finds none here; set learner.kind = "torch"',
            marks=no_gpu,
            id="no-gpu",
        ),
        pytest.param(
            MODEL,
            {"device": "cuda:0"},
            "needs a GPU, and torch finds none here; "
            'set learner.kind = "compiled" and learner.device = "cpu"',
            marks=no_gpu,
            id="no-gpu-0",
        ),
    ],
)
def test_the_error_names_a_learner_that_can_run(
    model: ModelConfig, learner: dict[str, Any], message: str
) -> None:
    config = LearnerConfig(kind="cuda", **learner)
    with pytest.raises(ModelError) as refused:
        build_learner(model, HELEN, config, [0, 1], 2)
    assert str(refused.value) == f"learner.kind = 'cuda' {message}"


def test_revisit_is_rejected() -> None:
    revisit = OptimizerConfig(method="revisit")
    message = r"'revisit', which auto selects; set optimizer.method = \"base\", or .*kind = \"compiled\"$"
    for record in (warmed_up, recorded):
        with pytest.raises(ModelError, match=message):
            make(optimizer=revisit, record=record)
    with pytest.raises(ModelError, match=message):
        build_learner(MODEL, OptimizerConfig(), LearnerConfig(kind="cuda"), [0, 1], 2)
    assert isinstance(build_learner(MODEL, revisit, LearnerConfig(), [0, 1], 2), CompiledLearner)


def test_the_batch_protocol_rejects_the_cuda_learner() -> None:
    with pytest.raises(ModelError, match=r"learner\.kind = 'cuda' learns event by event; .* torch or auto"):
        build_batch_learner(MODEL, HELEN, LearnerConfig(kind="cuda"), [0, 1], 2)


@no_gpu
def test_auto_without_a_gpu_selects_cpu_learners() -> None:
    auto = LearnerConfig()
    assert isinstance(build_learner(MODEL, HELEN, auto, [0, 1], 2), CompiledLearner)
    assert type(build_learner(WIDE, HELEN, auto, [0, 1], 2)) is TorchLearner


# On a GPU

gpu = [
    pytest.mark.cuda,
    pytest.mark.skipif(
        not torch.cuda.is_available(),
        reason="torch finds no CUDA device: run where there is a GPU and torch is built for it",
    ),
]
on_gpu = LearnerConfig(kind="cuda", device="cuda", seed=5)


def cuda(schema: Schema, model: ModelConfig, optimizer: OptimizerConfig) -> CudaGraphLearner:
    config, dtype = (on_gpu, torch.float64)
    return CudaGraphLearner(model, optimizer, config, schema.slot_field, schema.fields, dtype=dtype)


class TestOnAGpu:
    pytestmark = gpu

    @schemas
    @optimizers
    def test_graph_steps_equal_those_of_the_reference(
        self, schema: Schema, optimizer: OptimizerConfig
    ) -> None:
        batch = make_batch(schema, 150, seed=3)
        learner = cuda(schema, MODEL, optimizer)
        expected = reference(schema, MODEL, optimizer, torch.float64)
        p, q = learner.learn(batch), expected.learn(batch)
        np.testing.assert_allclose(p.probability, q.probability, rtol=1e-6)
        assert_close(learner.state(), expected.state(), 1e-8)

    @pytest.mark.parametrize("model", MODELS, ids=lambda model: model.backbone)
    def test_every_network_can_be_recorded(self, model: ModelConfig) -> None:
        batch = make_batch(MULTI, 150, seed=3)
        learner, expected = cuda(MULTI, model, HELEN), reference(MULTI, model, HELEN, torch.float64)
        learner.learn(batch)
        expected.learn(batch)
        assert_close(learner.state(), expected.state(), 1e-8)

    def test_synchronising_work_gives_a_one_line_error(self) -> None:
        # in a separate process: a failed recording leaves residual state in the allocator
        code = (
            "import torch; from stream_ctr.learners.cuda.graph import recorded; "
            "number = torch.ones(1, device='cuda'); recorded(lambda: float(number))"
        )
        ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        last = ended.stderr.strip().splitlines()[-1]
        assert re.search(r"ModelError: .* cannot be recorded .* set learner\.kind = \"torch\"$", last)

    @pytest.mark.filterwarnings("ignore:Synchronization debug mode")
    def test_no_operation_synchronises_inside_a_chunk(self) -> None:
        batch = make_batch(SINGLE, 60, seed=5)
        learner = cuda(SINGLE, MODEL, HELEN)
        learner.learn(batch)
        step = learner._cursor_step
        rows = torch.arange(4, 6, device="cuda")
        values, events = torch.zeros((2, 4), device="cuda", dtype=torch.float64), rows.unsqueeze(1) * 0
        numbers = batch.ratio, batch.label, batch.weight
        step.chunk.upload(batch.rows, numbers, step.spare, step.learned)
        torch.cuda.set_sync_debug_mode("error")
        try:
            step.start_rows(rows, values, events)
            for run in learner._runs.values():
                run()
            step.settle(rows)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    def test_auto_selects_the_cuda_learner(self) -> None:
        for device in ("cuda", "cuda:0"):
            learner = build_learner(MODEL, HELEN, LearnerConfig(device=device), [0, 1], 2)
            assert isinstance(learner, CudaGraphLearner)
        assert isinstance(
            build_learner(MODEL, HELEN, LearnerConfig(device="cpu"), [0, 1], 2), CompiledLearner
        )
