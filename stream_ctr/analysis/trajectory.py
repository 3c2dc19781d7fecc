"""Optimizer trajectories in weight space, on one stream, from the same initial weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stream_ctr.analysis.rows import Rows
from stream_ctr.config.learner import LearnerConfig
from stream_ctr.config.model import ModelConfig
from stream_ctr.config.optimizer import OptimizerConfig
from stream_ctr.learners.base import Learner
from stream_ctr.learners.build import build_learner
from stream_ctr.metrics.log_loss import log_losses


@dataclass(frozen=True, slots=True)
class Trajectory:
    """Trajectory of one optimizer: T intervals of the stream, T + 1 points."""

    optimizer: str
    events: NDArray[np.int64]
    """[T + 1] events learned at each point, starting with 0."""
    dense: NDArray[np.float32]
    """[T + 1, P] dense weights at each point."""
    row_move: NDArray[np.float64]
    """[T] norm of the joint change of the embedding rows that existed before the interval."""
    loss: NDArray[np.float64]
    """[T] mean log loss of the interval's events, each predicted before it was learned."""
    skipped: int
    """Updates skipped because they were not finite."""

    @property
    def move(self) -> NDArray[np.float64]:
        """[T] norm of the dense weights' change over each interval."""
        return np.asarray(np.linalg.norm(np.diff(self.dense.astype(np.float64), axis=0), axis=1))

    @property
    def distance(self) -> NDArray[np.float64]:
        """[T + 1] distance of the dense weights from the start."""
        return np.asarray(np.linalg.norm(self.dense.astype(np.float64) - self.dense[0], axis=1))

    @property
    def straightness(self) -> float:
        """Distance from start to end over the path length: 1 is a straight line. NaN if the length is 0."""
        length = float(self.move.sum())
        return float(self.distance[-1]) / length if length else float("nan")


def follow(
    rows: Rows,
    model: ModelConfig,
    name: str,
    optimizer: OptimizerConfig,
    config: LearnerConfig,
    progress: Callable[[int], None] = lambda events: None,
) -> Trajectory:
    """Learn the rows event by event, and record the weights after each batch.

    Raises:
        ModelError: model, optimizer and device are incompatible.
    """
    learner = build_learner(model, optimizer, config, rows.slot_field.tolist(), len(rows.fields))
    dense, table = _weights(learner)
    places, moves, losses, events, skipped = [dense], [], [], [0], 0
    for batch in rows.batches:
        result = learner.learn(batch)
        skipped += int(result.skipped.sum())
        before = table
        dense, table = _weights(learner)
        places.append(dense)
        moves.append(float(np.linalg.norm(table[: len(before)].astype(np.float64) - before)))
        losses.append(float(log_losses(result.probability, batch.label.astype(np.uint8)).mean()))
        events.append(events[-1] + len(batch))
        progress(events[-1])
    return Trajectory(name, np.array(events), np.stack(places), np.array(moves), np.array(losses), skipped)


def _weights(learner: Learner) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Dense weights [P] and embedding rows [V, D]."""
    arrays = learner.state().arrays
    return arrays["dense.weight"].astype(np.float32), arrays["rows.weight"].astype(np.float32)


@dataclass(frozen=True, slots=True)
class Plane:
    """The plane of the first two principal components of all points of several trajectories."""

    places: tuple[NDArray[np.float64], ...]
    """For each trajectory, its points [T + 1, 2] in the plane; the common start is (0, 0)."""
    explained: tuple[float, float]
    """Share of the variance of all points along each axis."""


def common_plane(paths: list[NDArray[np.float32]]) -> Plane:
    """Project trajectories [T_i + 1, P] with a common start onto their first two principal components.

    Signs are chosen so that the entry with the largest absolute value in each component is positive.
    """
    start = paths[0][0].astype(np.float64)
    stacked = np.concatenate([path.astype(np.float64) - start for path in paths])
    centred = stacked - stacked.mean(axis=0)
    # T is much smaller than P, so the components are computed from the T x T products.
    values, vectors = np.linalg.eigh(centred @ centred.T)
    total = float(values.clip(min=0.0).sum())
    axes = np.zeros((2, stacked.shape[1]))
    explained = [0.0, 0.0]
    for number in range(min(2, len(values))):
        value = float(values[-1 - number])
        if total > 0.0 and value > 1e-12 * total:
            axis = vectors[:, -1 - number] @ centred / np.sqrt(value)
            axes[number] = axis * np.sign(axis[np.abs(axis).argmax()])
            explained[number] = value / total
    flat = stacked @ axes.T
    ends = np.cumsum([len(path) for path in paths])[:-1]
    return Plane(tuple(np.split(flat, ends)), (explained[0], explained[1]))
