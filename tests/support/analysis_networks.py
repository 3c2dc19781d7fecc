"""Small networks and files for the tests of the analyses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stream_ctr.analysis.surface import Surface
from stream_ctr.config.learner import LearnerConfig
from stream_ctr.config.model import ModelConfig
from stream_ctr.config.optimizer import OptimizerConfig
from stream_ctr.learners.torch.learner import TorchLearner
from tests.support.learner_events import Schema, make_batch


def trained_surface(
    model: ModelConfig, schema: Schema, events: int = 60
) -> tuple[Surface, NDArray[np.int64], NDArray[np.float64]]:
    """A network after some events, and the rows [n, S] and labels [n] of those events."""
    batch = make_batch(schema, events, seed=5)
    learner = TorchLearner(
        model, OptimizerConfig(), LearnerConfig(device="cpu", seed=3), schema.slot_field, schema.fields
    )
    learner.learn(batch)
    label = np.nan_to_num(batch.label, nan=1.0).astype(np.float64)
    slots = np.array(schema.slot_field, np.int64)
    return Surface(model, slots, schema.fields, learner.state()), batch.rows, label


def write_criteo(path: Path, rows: int) -> None:
    """A file in Criteo's format: few values a column, labels that depend on some of them."""
    rng = np.random.default_rng(7)
    values = rng.zipf(1.6, (rows, 39)).clip(max=9)
    chance = 1.0 / (1.0 + np.exp(1.0 - 0.8 * (values[:, 13] % 2) - 0.8 * (values[:, 14] % 2)))
    lines = []
    for number in range(rows):
        integers = [str(value) for value in values[number, :13]]
        texts = [f"{value:08x}" for value in values[number, 13:]]
        label = str(int(rng.random() < chance[number]))
        lines.append("\t".join([label, *integers, *texts]) + "\n")
    path.write_text("".join(lines))
