"""Training of the networks to analyse: on the same rows, in the same order, from the same initial weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch

from stream_ctr.analysis.rows import Rows
from stream_ctr.config.learner import LearnerConfig
from stream_ctr.config.model import ModelConfig
from stream_ctr.config.optimizer import OptimizerConfig
from stream_ctr.learners.base import Learner
from stream_ctr.learners.build import build_batch_learner, build_learner
from stream_ctr.models.build import build_network
from stream_ctr.models.layout import Layout
from stream_ctr.offline.presets import batch_preset
from stream_ctr.reporting.progress import Reporter
from stream_ctr.state.state import State

Initial = Literal["he", "xavier", "torch"]
"""Initialization of the tower's hidden weights: the project's default, that of many published networks, or
that of PyTorch's linear layer."""


@dataclass(frozen=True, slots=True)
class Trained:
    """Result of a training."""

    state: State
    skipped: int
    """Events whose update was skipped because it was not finite."""


def same_base(name: str, rate: float, rho: float | None = None) -> OptimizerConfig:
    """The batch protocol's optimizer ``name`` with common settings, so that optimizers differ only in method.

    Rows and dense weights use ``rate``. ``rho`` is the radius of the perturbation; None keeps the optimizer's
    own. N / M is taken from the batches, so that the same optimizer can also learn event by event.

    >>> same_base("helen", 1e-3, 0.01).row_rule, same_base("helen", 1e-3, 0.01).rho_dense
    ('adam', 0.01)

    Raises:
        UsageError: the optimizer does not exist.
    """
    found = replace(batch_preset(name), counts="stream", row_rate=rate, dense_rate=rate)
    return found if rho is None else replace(found, rho=rho, rho_dense=rho)


def train(
    rows: Rows,
    model: ModelConfig,
    optimizer: OptimizerConfig,
    steps: int,
    *,
    by_event: bool,
    seed: int,
    device: str,
    initial: Initial = "he",
    progress: Callable[[int], None] = lambda step: None,
) -> Trained:
    """Learn ``steps`` batches, each as one update or, with ``by_event``, event by event like a stream.

    ``initial`` is the initialization of the tower's hidden layers.

    Raises:
        ModelError: model, optimizer and device are incompatible.
    """
    slots, fields = rows.slot_field.tolist(), len(rows.fields)
    config = LearnerConfig(device=device, seed=seed)
    skipped = 0
    if by_event:
        stream: Learner = build_learner(model, optimizer, config, slots, fields)
        learner, learn = stream, stream.learn
    else:
        batches = build_batch_learner(model, optimizer, config, slots, fields)
        learner, learn = batches, batches.learn_batch
    if initial != "he":
        learner.load_state(started(learner.state(), build_network(model, fields).layout, initial))
    for step, batch in enumerate(rows.steps(steps), start=1):
        skipped += int(learn(batch).skipped.sum())
        progress(step)
    return Trained(learner.state(), skipped)


def started(state: State, layout: Layout, initial: Initial) -> State:
    """The state of an untrained learner with its tower's hidden weights rescaled to ``initial``.

    The variance of a weight is 2 / inputs for He, 2 / (inputs + outputs) for Xavier, and 1 / (3 inputs) for
    PyTorch's linear layer.
    """
    weight = state.arrays["dense.weight"].copy()
    for name, view in layout.views(torch.from_numpy(weight)).items():
        if name.startswith("tower.") and name.endswith(".weight"):
            outputs, inputs = view.shape
            view *= math.sqrt(inputs / (inputs + outputs) if initial == "xavier" else 1.0 / 6.0)
    return State({**state.arrays, "dense.weight": weight}, state.values)


def progress_of(reporter: Reporter, what: str, of: int, **names: object) -> Callable[[int], None]:
    """A function that reports how many of ``of`` steps are done, together with ``names``."""

    def report(done: int) -> None:
        reporter.progress(**names, **{what: done}, of=of)

    return report
