"""Learners are built as configured; invalid settings are rejected with value and allowed range."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from stream_ctr.config.learner import LearnerConfig
from stream_ctr.config.model import ModelConfig
from stream_ctr.config.optimizer import OptimizerConfig
from stream_ctr.errors import ModelError
from stream_ctr.learners.build import build_batch_learner, build_learner
from stream_ctr.learners.torch.learner import TorchLearner, choose_device
from tests.support.learner_events import Schema, make_batch

CPU = LearnerConfig(device="cpu")


@pytest.mark.parametrize(
    ("table", "setting", "message"),
    [
        ("model", {"backbone": "transformer"}, r"model\.backbone = 'transformer' is unknown; choose dnn"),
        ("model", {"scale": "vector"}, r"model\.scale = 'vector' is unknown; choose unit or scalar"),
        ("model", {"pooling": "max"}, r"model\.pooling = 'max' is unknown; choose mean or sum"),
        ("model", {"hidden": ()}, r"model\.sml = true needs hidden layers"),
        ("model", {"hidden": (8, 0)}, r"every width in model\.hidden must .* got \[8, 0\]"),
        ("model", {"embedding": 0}, r"model\.embedding must be at least 1, got 0"),
        ("model", {"embedding_scale": -1.0}, r"model\.embedding_scale must be at least 0, got -1"),
        ("model", {"slope": float("nan")}, r"model\.slope must be a finite number, got nan"),
        (
            "optimizer",
            {"method": "hellen"},
            r"optimizer\.method = 'hellen' is unknown; choose auto or base or sam or asam",
        ),
        (
            "optimizer",
            {"perturb": "rows"},
            r"optimizer\.perturb = 'rows' is unknown; choose both or embedding",
        ),
        (
            "optimizer",
            {"row_rule": "lion"},
            r"optimizer\.row_rule = 'lion' is unknown; choose sgd or adagrad",
        ),
        (
            "optimizer",
            {"counts": "all"},
            r"optimizer\.counts = 'all' is unknown; choose stream or batch or f",
        ),
        ("optimizer", {"rows": "all"}, r"optimizer\.rows = 'all' is unknown; choose lazy or dense"),
        (
            "optimizer",
            {"row_rule": "ftrl"},
            r"row_rule = 'ftrl': FTRL-proximal is for first-order .*first_order_rule; here choose sgd",
        ),
        ("optimizer", {"dense_rule": "ftrl"}, r"dense_rule = 'ftrl': FTRL.* choose sgd .* or radam"),
        ("optimizer", {"first_order_rule": "vw"}, r"first_order_rule = 'vw' is unknown; .* or ftrl"),
        (
            "optimizer",
            {"first_order_rule": "ftrl"},
            r"first_order_rule = 'ftrl': this model has no first-order weights; choose a .* \"rows\"",
        ),
        (
            "optimizer",
            {"rows": "dense"},
            r"optimizer\.rows = 'dense' .* only available in the batch protocol; .* 'lazy'",
        ),
        (
            "optimizer",
            {"counts": "fixed"},
            r"optimizer\.counts = 'fixed' .* batch protocol; .* stream",
        ),
        ("optimizer", {"eta": -0.01}, r"optimizer\.eta must be a finite number of at least 0, got -0\.01"),
        ("optimizer", {"ftrl_l1": -1.0}, r"optimizer\.ftrl_l1 must be .* got -1\.0"),
        (
            "optimizer",
            {"first_order_rate": 0.0},
            r"optimizer\.first_order_rate must be .* above 0, got 0\.0",
        ),
        ("optimizer", {"rho": -0.5}, r"optimizer\.rho must be a finite number of at least 0, got -0\.5"),
        ("optimizer", {"rho_dense": float("inf")}, r"optimizer\.rho_dense must be .* got inf"),
        ("optimizer", {"row_initial": -0.1}, r"optimizer\.row_initial must be .* got -0\.1"),
        ("optimizer", {"dense_initial": float("nan")}, r"optimizer\.dense_initial must be .* got nan"),
        ("optimizer", {"l2": -1e-6}, r"optimizer\.l2 must be .* got -1e-06"),
        ("optimizer", {"xi": 1.5}, r"optimizer\.xi must be between 0 and 1, got 1\.5"),
        ("optimizer", {"xi": float("nan")}, r"optimizer\.xi must be between 0 and 1, got nan"),
        ("optimizer", {"row_rate": 0.0}, r"optimizer\.row_rate must be a finite number above 0, got 0\.0"),
        (
            "optimizer",
            {"dense_rate": float("nan")},
            r"optimizer\.dense_rate must be .* above 0, got nan",
        ),
        ("optimizer", {"warm_up_events": -1}, r"optimizer\.warm_up_events must be at least 0, got -1"),
        ("learner", {"kind": "jax"}, r"learner\.kind = 'jax' is unknown; choose auto or compiled or cuda"),
        ("learner", {"threads": 0}, r"learner\.threads must be at least 1, got 0"),
        ("learner", {"seed": -1}, r"learner\.seed must be between 0 and 2\^63 - 1, got -1"),
        (
            "learner",
            {"device": "tpu"},
            r"learner\.device = 'tpu' is unknown; choose auto, cpu, cuda or cuda:N",
        ),
        ("learner", {"device": "cuda:x"}, r"learner\.device = 'cuda:x' is unknown"),
        ("learner", {"device": "cuda:999"}, r"learner\.device = 'cuda:999': torch finds \d+ GPU"),
    ],
)
def test_an_invalid_setting_is_rejected_with_its_range(
    table: str, setting: dict[str, Any], message: str
) -> None:
    configs: dict[str, Any] = {"model": ModelConfig(), "optimizer": OptimizerConfig(), "learner": CPU}
    configs[table] = replace(configs[table], **setting)
    with pytest.raises(ModelError, match=message):
        build_learner(configs["model"], configs["optimizer"], configs["learner"], [0, 1], 2)


def test_a_schema_without_fields_is_rejected() -> None:
    with pytest.raises(ModelError, match="the schema has no fields"):
        build_learner(ModelConfig(), OptimizerConfig(), CPU, [], 0)


def test_auto_uses_a_gpu_if_there_is_one() -> None:
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


def test_the_seed_determines_every_initial_weight() -> None:
    states = [
        build_learner(ModelConfig(), OptimizerConfig(), replace(CPU, seed=seed), [0, 1], 2).state()
        for seed in (1, 1, 2)
    ]
    assert states[0].equals(states[1])
    assert not states[0].equals(states[2])


def test_an_untrained_model_predicts_the_base_rate() -> None:
    model = ModelConfig(embedding=4, hidden=(8,), base_rate=0.03)
    learner = build_learner(model, OptimizerConfig(), LearnerConfig(device="cpu"), [0, 1], 2)
    default_rows = np.array([[0, 1]])
    # The default rows are zero, so the prediction is the output bias alone.
    assert learner.predict(default_rows) == pytest.approx(0.03, rel=1e-5)


@pytest.mark.parametrize("rate", [0.0, 1.0, -0.1, float("nan")])
def test_a_base_rate_outside_0_to_1_is_rejected(rate: float) -> None:
    model = ModelConfig(embedding=4, hidden=(8,), base_rate=rate)
    with pytest.raises(ModelError, match=r"model\.base_rate"):
        build_learner(model, OptimizerConfig(), LearnerConfig(device="cpu"), [0, 1], 2)


BEYOND_THE_KERNELS: list[tuple[dict[str, Any], str]] = [
    ({"method": "asam"}, "optimizer.method = 'asam'"),
    ({"row_rule": "rmsprop"}, "optimizer.row_rule = 'rmsprop'"),
    ({"dense_rule": "nadam"}, "optimizer.dense_rule = 'nadam'"),
    ({"row_rule": "radam"}, "optimizer.row_rule = 'radam'"),
    ({"counts": "batch"}, "optimizer.counts = 'batch'"),
]


@pytest.mark.parametrize(("setting", "named"), BEYOND_THE_KERNELS)
def test_settings_without_kernels_are_rejected_by_compiled_but_not_torch(
    setting: dict[str, Any], named: str
) -> None:
    model, optimizer = ModelConfig(embedding=2, hidden=(3,)), replace(OptimizerConfig(), **setting)
    with pytest.raises(ModelError) as refused:
        build_learner(model, optimizer, replace(CPU, kind="compiled"), [0, 1], 2)
    assert str(refused.value) == f'the compiled learner does not support {named}; set learner.kind = "torch"'
    assert isinstance(build_learner(model, optimizer, CPU, [0, 1], 2), TorchLearner)


def test_the_batch_learner_accepts_batch_settings_and_rejects_compiled() -> None:
    model, dense = ModelConfig(embedding=2, hidden=(3,)), OptimizerConfig(rows="dense", counts="fixed")
    learner = build_batch_learner(model, dense, CPU, [0, 1], 2)
    with pytest.raises(ModelError, match=r"optimizer\.rows = 'dense'"):
        learner.learn(make_batch(Schema((0, 1)), 3, seed=1))
    with pytest.raises(
        ModelError, match=r"learner\.kind = 'compiled' learns event by event; for batches .* torch"
    ):
        build_batch_learner(model, dense, replace(CPU, kind="compiled"), [0, 1], 2)
    with pytest.raises(ModelError, match=r"learner\.threads must be at least 1, got 0"):
        build_batch_learner(model, dense, replace(CPU, threads=0), [0, 1], 2)
