"""Label policies' losses: gradients against finite differences, and zero on average at the truth."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from stream_ctr.batch import COPY, LEARN, SETTLE
from stream_ctr.config.label_policy import POLICIES, LabelLoss, refuse_labels
from stream_ctr.config.learner import LearnerConfig
from stream_ctr.config.model import ModelConfig
from stream_ctr.config.optimizer import OptimizerConfig
from stream_ctr.errors import ConfigError, ModelError
from stream_ctr.learners.compiled.learner import CompiledLearner
from stream_ctr.learners.compiled.passes import logit_gradient
from stream_ctr.learners.torch.learner import TorchLearner
from tests.support.learner_events import SINGLE, make_batch

LOSSES = [
    LabelLoss("wait"),
    LabelLoss("wait", 0.3),
    LabelLoss("fast"),
    LabelLoss("fast", 0.3),
    LabelLoss("fnw"),
    LabelLoss("fnw", 0.3),
    LabelLoss("naive"),
]
LOGITS = [-20.0, -5.0, -1.0, -0.1, 0.0, 0.7, 3.0, 12.0]


def written_loss(loss: LabelLoss, z: float, label: float, weight_z: float) -> float:
    """The loss as each policy defines it: cross entropy at a shifted logit."""

    def log_sigmoid(x: float) -> float:
        return -math.log1p(math.exp(-x)) if x > 0 else x - math.log1p(math.exp(x))

    shift = -math.log(loss.keep_negatives)
    at = (log_sigmoid(z) if loss.policy == "fast" else z) + shift
    weight = 1.0
    if loss.policy == "fnw":
        p = 1.0 / (1.0 + math.exp(-weight_z))  # no gradient flows through this factor
        weight = 1.0 + p if label == 1.0 else (1.0 - p) * (1.0 + p)
    return -weight * (label * log_sigmoid(at) + (1.0 - label) * log_sigmoid(-at))


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("label", [0.0, 1.0])
def test_gradients_are_those_of_the_written_losses(loss: LabelLoss, label: float) -> None:
    for z in LOGITS:
        step = 1e-5
        numeric = (written_loss(loss, z + step, label, z) - written_loss(loss, z - step, label, z)) / (
            2.0 * step
        )
        p = 1.0 / (1.0 + math.exp(-z))
        assert loss.logit_gradient(p, label) == pytest.approx(numeric, rel=1e-5, abs=1e-9)
        compiled = logit_gradient(p, label, POLICIES.index(loss.policy), loss.keep_negatives)
        assert compiled == pytest.approx(numeric, rel=1e-5, abs=1e-9)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("p", [0.001, 0.2, 0.9])
def test_expected_gradients_are_zero_at_the_truth(loss: LabelLoss, p: float) -> None:
    """Expectation over the labels that each policy produces: one per impression, or a copy per click."""
    zeros = loss.keep_negatives * (1.0 - p if loss.policy == "wait" else 1.0)
    mean = p * loss.logit_gradient(p, 1.0) + zeros * loss.logit_gradient(p, 0.0)
    if loss.policy == "naive":
        assert mean > 0.1 * p * p, "it is drawn below the truth"
        b = p / (1.0 + p)
        assert p * loss.logit_gradient(b, 1.0) + loss.logit_gradient(b, 0.0) == pytest.approx(0.0, abs=1e-12)
    else:
        assert mean == pytest.approx(0.0, abs=1e-12)
        assert (p * loss.logit_gradient(1.1 * p, 1.0) + zeros * loss.logit_gradient(1.1 * p, 0.0)) > 0.0


@pytest.mark.parametrize("loss", LOSSES)
def test_gradients_are_finite_at_extreme_probabilities(loss: LabelLoss) -> None:
    for p in (np.float32(0.0), np.float32(1e-45), np.float32(1.0)):
        for label in (0.0, 1.0):
            assert np.isfinite(loss.logit_gradient(p, label))
    assert np.isnan(loss.logit_gradient(0.5, math.nan))


@pytest.mark.parametrize("loss", [LabelLoss("wait", 0.5), LabelLoss("fast"), LabelLoss("fnw", 0.5)])
def test_torch_and_compiled_learn_alike_under_every_policy(loss: LabelLoss) -> None:
    model = ModelConfig(embedding=4, hidden=(8, 6), embedding_scale=0.5)
    optimizer = OptimizerConfig(method="helen", perturb="both", rho=0.01, rho_dense=0.01)
    config, slots = LearnerConfig(device="cpu"), SINGLE.slot_field
    batch = make_batch(SINGLE, 120, seed=3)
    one = TorchLearner(model, optimizer, config, slots, SINGLE.fields, labels=loss)
    two = CompiledLearner(model, optimizer, config, slots, SINGLE.fields, labels=loss)
    plain = CompiledLearner(model, optimizer, config, slots, SINGLE.fields)
    p = one.learn(batch).probability
    np.testing.assert_allclose(two.learn(batch).probability, p, rtol=0, atol=1e-5)
    assert np.abs(plain.learn(batch).probability - p).max() > 1e-3


@pytest.mark.parametrize("kind", [TorchLearner, CompiledLearner])
def test_rows_that_settle_are_left_alone(kind: type[TorchLearner] | type[CompiledLearner]) -> None:
    learner = kind(
        ModelConfig(embedding=4, hidden=(8, 6)),
        OptimizerConfig(),
        LearnerConfig(device="cpu"),
        SINGLE.slot_field,
        SINGLE.fields,
    )
    batch = make_batch(SINGLE, 12, seed=3)
    learner.learn(batch)
    before = learner.state()
    again = make_batch(SINGLE, 12, seed=3)
    settle = replace(again, action=np.full(12, SETTLE, np.uint8), changes=type(again.changes).none())
    assert np.isnan(learner.learn(settle).probability).all()
    assert learner.state().equals(before)
    copies = replace(settle, action=np.full(12, LEARN | COPY, np.uint8), label=np.ones(12, np.float32))
    assert np.isfinite(learner.learn(copies).probability).all()
    assert not learner.state().equals(before)


def test_invalid_label_settings_are_rejected() -> None:
    with pytest.raises(ConfigError, match=r"keep_negatives must be above 0 and at most 1, got 0\.0"):
        LabelLoss("wait", 0.0)
    with pytest.raises(ConfigError, match="keep_negatives must be above 0 and at most 1, got nan"):
        LabelLoss("wait", math.nan)
    with pytest.raises(ConfigError, match=r"cannot go with join\.policy = 'naive'"):
        LabelLoss("naive", 0.5)
    refuse_labels(LabelLoss("wait"), "river-ftrl")
    with pytest.raises(ModelError, match=r"river-ftrl cannot learn under join\.policy = 'fast'"):
        refuse_labels(LabelLoss("fast"), "river-ftrl")
