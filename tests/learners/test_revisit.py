"""Replay of past events: recorded data, checkpoints and rejected settings."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from stream_ctr.config.learner import LearnerConfig
from stream_ctr.config.model import ModelConfig
from stream_ctr.config.optimizer import OptimizerConfig
from stream_ctr.errors import ModelError, StateError
from stream_ctr.learners.base import Learner
from stream_ctr.learners.compiled.learner import CompiledLearner
from stream_ctr.learners.torch.learner import TorchLearner
from stream_ctr.optim.validation import check_optimizer
from stream_ctr.state.state import State
from tests.support.learner_events import MULTI, make_batch, part

CPU = LearnerConfig(device="cpu", seed=5)
MODEL = ModelConfig(embedding=4, hidden=(7, 6), embedding_scale=0.3)
REVISIT = OptimizerConfig(method="revisit", revisit_after=13)
KINDS: list[type[CompiledLearner] | type[TorchLearner]] = [CompiledLearner, TorchLearner]
kinds = pytest.mark.parametrize("kind", KINDS, ids=["compiled", "torch"])


def make(kind: type[CompiledLearner] | type[TorchLearner], optimizer: OptimizerConfig) -> Learner:
    return kind(MODEL, optimizer, CPU, MULTI.slot_field, MULTI.fields)


@kinds
def test_before_the_first_replay_revisit_equals_base(
    kind: type[CompiledLearner] | type[TorchLearner],
) -> None:
    batch = make_batch(MULTI, 14, seed=2, learn_only=True)
    one, base = make(kind, REVISIT), make(kind, OptimizerConfig())
    for learner in (one, base):
        learner.learn(part(batch, 0, 12))
    names = list(base.state().arrays)
    assert all(np.array_equal(one.state().arrays[name], base.state().arrays[name]) for name in names)
    for learner in (one, base):
        learner.learn(part(batch, 12, 13))
    assert not np.array_equal(one.state().arrays["rows.weight"], base.state().arrays["rows.weight"])


@kinds
def test_waiting_events_are_saved_oldest_first(
    kind: type[CompiledLearner] | type[TorchLearner],
) -> None:
    batch = make_batch(MULTI, 40, seed=3, learn_only=True)
    learner = make(kind, REVISIT)
    learner.learn(part(batch, 0, 5))
    np.testing.assert_array_equal(learner.state().arrays["past.rows"], batch.rows[:5])
    learner.learn(part(batch, 5, 40))
    arrays = learner.state().arrays
    np.testing.assert_array_equal(arrays["past.rows"], batch.rows[28:])
    np.testing.assert_array_equal(arrays["past.label"], batch.label[28:])
    np.testing.assert_array_equal(arrays["past.weight"], batch.weight[28:])
    newest = arrays["past.trace"][-1][batch.rows[39] >= 0]
    assert np.abs(newest).min() > 0.0
    assert not arrays["past.trace"][-1][batch.rows[39] < 0].any()


@kinds
def test_a_run_may_resume_with_another_interval_or_start_to_revisit(
    kind: type[CompiledLearner] | type[TorchLearner],
) -> None:
    batch = make_batch(MULTI, 80, seed=4)
    first = make(kind, REVISIT)
    first.learn(part(batch, 0, 40))
    sooner, base = make(kind, replace(REVISIT, revisit_after=6)), make(kind, OptimizerConfig())
    sooner.load_state(first.state())
    for name in ("rows", "trace"):
        kept = first.state().arrays[f"past.{name}"][-5:]
        np.testing.assert_array_equal(sooner.state().arrays[f"past.{name}"], kept)
    base.load_state(first.state())
    base.learn(part(batch, 40, 60))
    assert not [name for name in base.state().arrays if name.startswith("past.")]
    again = make(kind, REVISIT)
    again.load_state(base.state())
    result = again.learn(part(batch, 60, 80))  # events that were not saved are never replayed
    assert not result.skipped.any()
    later = make(kind, replace(REVISIT, revisit_after=30))
    later.load_state(first.state())
    later.learn(part(batch, 40, 80))
    assert np.isfinite(later.state().arrays["rows.weight"]).all()


@kinds
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("past.trace", np.zeros((12, 5, 3), np.float32)),
        ("past.label", np.zeros(12)),
        ("past.rows", np.zeros((3, 5), np.int64)),
        ("past.weight", None),
    ],
)
def test_mismatched_saved_events_are_rejected(
    kind: type[CompiledLearner] | type[TorchLearner], name: str, value: np.ndarray | None
) -> None:
    learner = make(kind, REVISIT)
    learner.learn(make_batch(MULTI, 40, seed=3, learn_only=True))
    state = learner.state()
    arrays = {key: array for key, array in state.arrays.items() if key != name}
    if value is not None:
        arrays[name] = value
    with pytest.raises(StateError, match=r"the saved array past\."):
        learner.load_state(State(arrays, state.values))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"revisit_after": 0}, "optimizer.revisit_after must be between 1 and 1,000,000, got 0"),
        ({"revisit_rows": 1.5}, "optimizer.revisit_rows must be between 0 and 1, got 1.5"),
        ({"revisit_dense": float("nan")}, "optimizer.revisit_dense must be between 0 and 1, got nan"),
        (
            {"row_rule": "adam"},
            "row_rule = 'adam' is incompatible with method = 'revisit'; choose adagrad or sgd",
        ),
        ({"dense_rule": "adam"}, "dense_rule = 'adam' is incompatible with"),
        ({"l2": 0.1}, "optimizer.l2 = 0.1 is incompatible with"),
    ],
)
def test_settings_incompatible_with_revisit_are_rejected(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message.replace(".", r"\.")):
        check_optimizer(replace(REVISIT, **changes))
