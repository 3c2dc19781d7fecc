"""Checks that a snapshot's predictions are finite, before it serves.

A diverged network can have finite weights and predict NaN: a product overflows float32, and infinity minus
infinity, or infinity times zero, is NaN. Two checks find this:

1. A bound over all inputs: the forward pass with the absolute value of every weight, over a row that is at
   least as large as every row of the table, in every slot. Sums, products and ReLU are monotone in absolute
   values, so a finite logit here means that they overflow for no input. Learned weights stay far below the
   limit: logits are near 10, and the largest float32 is 3e38.
2. The predictions of real rows: every field empty, the largest rows, and a random sample. The sample is small
   if the bound is finite, because then only values hidden by tanh or softmax can overflow. Otherwise it is
   large: the bound grows faster with the depth of a network than its logits do.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from stream_ctr.config.features import slot_fields
from stream_ctr.errors import StateError
from stream_ctr.predictors.forward import Forward, build_forward
from stream_ctr.predictors.snapshot import LoadedSnapshot

PIECE_ROWS: Final = 65_536
"""Rows checked at a time; bounds the memory of temporary arrays."""
LARGEST_ROWS: Final = 64
FEW: Final = 192
"""Number of random events if the bound is finite."""
MANY: Final = 16_384
"""Number of random events if the bound is not finite."""
SEED: Final = 1


def check_finite(snapshot: LoadedSnapshot, forward: Forward) -> None:
    """Check the predictions of a snapshot's forward pass.

    Raises:
        StateError: a prediction is not a finite number.
    """
    fields, rows = snapshot.manifest.fields, snapshot.rows
    slots = slot_fields(fields)
    bound, largest = _extremes(rows)
    with np.errstate(all="ignore"):  # this code provokes overflows
        limits = {name: np.abs(array) for name, array in snapshot.dense.items()}
        limit = build_forward(snapshot.model, fields, limits, bound[np.newaxis, :])
        bounded = bool(np.isfinite(limit.logits(np.zeros((1, len(slots)), np.int64))).all())
        events = _events(slots, len(rows), largest, FEW if bounded else MANY)
        p = forward.probabilities(events)
    bad = int((~np.isfinite(p)).sum())
    if bad:
        raise StateError(
            f"the model has diverged: {bad} of {len(events)} predictions are not finite; lower the "
            "optimizer's learning rates, and return to an earlier checkpoint"
        )


def _extremes(rows: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """[d] the largest absolute value of each column, NaN if the column has one; and the numbers of the
    LARGEST_ROWS rows with the largest values."""
    bound = np.zeros(rows.shape[1], rows.dtype)
    numbers, sizes = np.zeros(0, np.int64), np.zeros(0, rows.dtype)
    for start in range(0, len(rows), PIECE_ROWS):
        piece = np.abs(rows[start : start + PIECE_ROWS])
        bound = np.maximum(bound, piece.max(axis=0))
        own = piece.max(axis=1, initial=0.0)
        sizes = np.concatenate([sizes, own])
        numbers = np.concatenate([numbers, np.arange(start, start + len(own))])
        if len(sizes) > LARGEST_ROWS:
            kept = np.argpartition(sizes, -LARGEST_ROWS)[-LARGEST_ROWS:]
            sizes, numbers = sizes[kept], numbers[kept]
    return bound, numbers


def _events(slots: list[int], rows: int, largest: NDArray[np.int64], sampled: int) -> NDArray[np.int64]:
    """Rows int64 [B, S] of events: all slots empty, every field's default row, each of the largest rows in
    all slots, and random rows with some empty slots."""
    random = np.random.default_rng(SEED)
    drawn = random.integers(0, rows, (sampled, len(slots)))
    drawn[random.random(drawn.shape) < 0.2] = -1
    empty = np.full((1, len(slots)), -1, np.int64)
    alike = np.repeat(largest[:, np.newaxis], len(slots), axis=1)
    return np.concatenate([empty, np.array([slots], np.int64), alike, drawn])
