"""The memory floor of a learning step: moving the model's state with almost no arithmetic.

An event must read and write the dense parameters, their accumulators and its own rows once, and each pass
must read the weights twice, forward and backward. The floor uses arrays of exactly the model's sizes, so they
are in the same level of the memory hierarchy: dense arrays in cache, rows depending on the table's size.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from stream_ctr.batch import Batch
from stream_ctr.bench.step.data import FIELDS
from stream_ctr.config.learner import LearnerConfig
from stream_ctr.config.model import ModelConfig
from stream_ctr.config.optimizer import OptimizerConfig
from stream_ctr.kernels.decorators import fast_kernel
from stream_ctr.learners.compiled.learner import CompiledLearner
from stream_ctr.learners.compiled.workspace import ALIGN, aligned


@fast_kernel
def move_state(
    rows: NDArray[np.int64],
    table: NDArray[np.float32],
    dense: NDArray[np.float32],
    reads: int,
    updates: int,
    change: np.float32,
) -> np.float32:
    """Move the state of one model for B events.

    Shapes: rows int64 [B, S], table [R, A * D] with a row's numbers adjacent, dense [A, P] with the weights
    first. The weights are read ``reads`` times. ``change`` is added to every number ``updates`` times; it is
    0, but only at run time, so the compiler cannot remove the additions.
    """
    total = np.float32(0.0)
    weights = dense[0]
    flat = dense.reshape(dense.size)
    for b in range(rows.shape[0]):
        for _ in range(updates):
            for s in range(rows.shape[1]):
                for k in range(table.shape[1]):
                    table[rows[b, s], k] += change
        for _ in range(reads):
            read = np.float32(0.0)
            for i in range(weights.size):
                read += weights[i]
            total += read
        for _ in range(updates):
            for i in range(flat.size):
                flat[i] += change
    return total


class Floor:
    """The memory floor of one model and optimizer, with the interface of a learner."""

    def __init__(
        self, model: ModelConfig, optimizer: OptimizerConfig, rows: int, passes: int, updates: int = 1
    ) -> None:
        """``rows`` is the size of the events' embedding table; each event makes ``updates`` updates."""
        learner = CompiledLearner(model, optimizer, LearnerConfig(device="cpu"), list(range(FIELDS)), FIELDS)
        arrays = learner.state().arrays
        dense = [array for name, array in arrays.items() if name.startswith("dense.")]
        of_rows = [a for name, a in arrays.items() if name.startswith("rows.") and a.dtype == np.float32]
        # Aligned to cache lines as in the learner; an unaligned floor would flatter the learner.
        parameters = -(-dense[0].size // ALIGN) * ALIGN
        width = sum(array.shape[1] for array in of_rows)
        self._dense = aligned(len(dense) * parameters, np.float32).reshape(len(dense), parameters)
        self._table = aligned(rows * width, np.float32).reshape(rows, width)
        self._reads, self._updates = 2 * passes, updates

    def learn(self, batch: Batch) -> None:
        """Move the state for the events of a batch."""
        self.move(batch.rows)

    def move(self, rows: NDArray[np.int64]) -> None:
        """Move the state for events with ``rows`` [B, S]."""
        move_state(rows, self._table, self._dense, self._reads, self._updates, np.float32(0.0))
