"""Every backbone in the torch learner: learns event by event, in any chunks, from any checkpoint."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from stream_ctr.batch import LEARN, PREDICT, Batch, RowChanges
from stream_ctr.config.learner import LearnerConfig
from stream_ctr.config.model import ModelConfig
from stream_ctr.config.optimizer import OptimizerConfig
from stream_ctr.errors import ModelError
from stream_ctr.learners.build import build_learner
from stream_ctr.learners.compiled.learner import CompiledLearner
from stream_ctr.learners.torch.learner import TorchLearner
from tests.support.backbone_variants import BACKBONES, small
from tests.support.learner_events import MULTI, chunks, make_batch, part

CPU = LearnerConfig(device="cpu", kind="torch", seed=3)
HELEN = OptimizerConfig(method="helen", rho=0.01, rho_dense=0.01, row_rate=0.1, dense_rate=0.02)
MODELS = [
    *(small(backbone=name, sml=sml, embedding_scale=0.1) for name in BACKBONES for sml in (False, True)),
    small(backbone="dcnv2", cross_experts=2, sml=True, embedding_scale=0.1),
    small(
        backbone="dlrm",
        bottom_fields=1,
        bottom=(16,),
        embedding=8,
        hidden=(16,),
        sml=True,
        embedding_scale=0.2,
    ),
]
every = pytest.mark.parametrize(
    "model", MODELS, ids=[f"{m.backbone}-{'sml' if m.sml else 'alone'}-{i}" for i, m in enumerate(MODELS)]
)


def planted(events: int) -> Batch:
    """Three fields of three values; the first two almost determine the click."""
    random = np.random.default_rng(5)
    values = random.integers(0, 3, (events, 3))
    rows = 3 + 3 * np.arange(3) + values
    likely = (values[:, 0] == 0) | (values[:, 1] == 2)
    keys = np.arange(1, 10, dtype=np.uint64)
    nothing = np.full(events, np.nan, np.float32)
    return Batch(
        rows=rows.astype(np.int64),
        ratio=np.full(rows.shape, 0.5, np.float32),
        label=(random.random(events) < np.where(likely, 0.9, 0.05)).astype(np.float32),
        weight=np.ones(events, np.float32),
        action=np.full(events, PREDICT | LEARN, np.uint8),
        served=nothing,
        time_ms=np.arange(events, dtype=np.int64),
        impression=np.arange(events, dtype=np.int64),
        truth=nothing,
        changes=RowChanges(
            np.zeros(9, np.int64), np.arange(3, 12), np.repeat(np.arange(3, dtype=np.int32), 3), keys
        ),
    )


@every
def test_a_problem_with_known_ground_truth_is_learned_at_batch_size_one(model: ModelConfig) -> None:
    batch = planted(300)
    p = build_learner(model, HELEN, CPU, [0, 1, 2], 3).learn(batch).probability.astype(np.float64)
    tail = slice(150, None)
    y, p = batch.label[tail], p[tail]
    rate = float(y.mean())
    entropy = -rate * np.log(rate) - (1 - rate) * np.log1p(-rate)
    loss = -np.mean(np.where(y > 0.5, np.log(p), np.log1p(-p)))
    assert loss < 0.8 * entropy


@every
def test_chunks_and_checkpoints_change_no_bit(model: ModelConfig) -> None:
    batch = make_batch(MULTI, 40, seed=21)
    whole, resumed = (build_learner(model, HELEN, CPU, MULTI.slot_field, MULTI.fields) for _ in range(2))
    whole.learn(batch)
    for chunk in chunks(part(batch, 0, 25), 7):
        resumed.learn(chunk)
    again = build_learner(model, HELEN, CPU, MULTI.slot_field, MULTI.fields)
    again.load_state(resumed.state())
    again.learn(part(batch, 25, 40))
    assert again.state().equals(whole.state())


@pytest.mark.parametrize("backbone", BACKBONES)
def test_only_touched_rows_change(backbone: str) -> None:
    batch = make_batch(MULTI, 30, seed=22)
    model = small(backbone=backbone, sml=True, hidden=(16,), embedding_scale=0.5)
    learner = build_learner(model, HELEN, CPU, MULTI.slot_field, MULTI.fields)
    learner.learn(part(batch, 0, 29))
    before = learner.state().arrays["rows.weight"]
    learner.learn(
        replace(part(batch, 29, 30), action=np.full(1, LEARN, np.uint8), label=np.ones(1, np.float32))
    )
    after = learner.state().arrays["rows.weight"]
    touched = set(batch.rows[29][batch.rows[29] >= 0].tolist()) | set(
        batch.changes.row[batch.changes.event == 29].tolist()
    )
    changed = set(np.flatnonzero((before != after[: len(before)]).any(axis=1)).tolist())
    assert changed
    assert changed <= touched


def test_auto_selects_the_compiled_learner_if_it_supports_the_network() -> None:
    auto = LearnerConfig(kind="auto", device="cpu")
    for model, kind in (
        (ModelConfig(hidden=(4,), embedding=2), CompiledLearner),
        (ModelConfig(hidden=(4,), embedding=2, cross_layers=5), CompiledLearner),  # dnn has no cross layers
        (ModelConfig(hidden=(4,), embedding=2, backbone="dcn"), TorchLearner),
        (ModelConfig(hidden=(4,), embedding=2, skip="tanh"), TorchLearner),
        (ModelConfig(hidden=(4,), embedding=2, scale="low_rank"), TorchLearner),
    ):
        assert isinstance(build_learner(model, OptimizerConfig(), auto, [0, 1], 2), kind)


def test_compiled_names_the_unsupported_setting_and_torch() -> None:
    compiled = LearnerConfig(kind="compiled", device="cpu")
    for model, setting in (
        (ModelConfig(backbone="dcn"), r"model\.backbone = 'dcn'"),
        (ModelConfig(skip="vanilla"), r"model\.skip = 'vanilla'"),
    ):
        with pytest.raises(
            ModelError, match=rf'compiled learner does not support {setting}; .* learner\.kind = "torch"'
        ):
            build_learner(model, OptimizerConfig(), compiled, [0, 1], 2)


@pytest.mark.parametrize("kind", ["auto", "compiled", "torch"])
def test_dropout_is_rejected_for_a_stream(kind: str) -> None:
    learner = replace(CPU, kind="auto" if kind == "auto" else "compiled" if kind == "compiled" else "torch")
    with pytest.raises(ModelError, match=r"model\.dropout = 0\.2 is only available in the batch"):
        build_learner(ModelConfig(dropout=0.2), OptimizerConfig(), learner, [0, 1], 2)
