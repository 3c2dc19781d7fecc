"""Optimizer state of batch steps in the units of event-by-event steps.

A batch step sees the mean gradient G of B events, a stream the gradient g of one. Without a change of units
the first events of a stream would look B times larger than all that the accumulators hold, and each would
move the weights as far as the first update of a fresh run. For gradients that scatter more than their mean:

* a row is in few events of a batch, so its part of G is g / B: its second moments are B^2 too small, its
  first ones B;
* a dense weight's G has 1 / B of the variance of g: running averages of G^2 are B too small, their first
  moments right; sums over N / B steps instead of N events (AdaGrad) are B^2 too small.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from stream_ctr.config.optimizer import OptimizerConfig
from stream_ctr.optim.moments import narrowed, widened
from stream_ctr.state.state import State

SUMS: Final = ("adagrad",)
"""Rules that sum squared gradients; all others average them."""


def per_event(state: State, optimizer: OptimizerConfig, batch_size: int) -> State:
    """The learner's state after steps of ``batch_size`` events, as a stream goes on; weights are untouched.

    Accumulators of a first-order rule of its own (FTRL) are left as they are: its weights follow from them.
    """
    size = float(batch_size)
    row_start = optimizer.row_initial if optimizer.row_rule in SUMS else 0.0
    dense_start = optimizer.dense_initial if optimizer.dense_rule in SUMS else 0.0
    dense_square = size**2 if optimizer.dense_rule in SUMS else size
    scales = {
        "rows.square": (row_start, size**2),
        "rows.mean": (0.0, size),
        "dense.square": (dense_start, dense_square),
    }
    arrays = dict(state.arrays)
    for name, (start, scale) in scales.items():
        if name in arrays:
            array, half = arrays[name], arrays[name].dtype == np.uint16
            old = (widened(array) if half else array).astype(np.float64)
            grown = start + (old - start) * scale
            arrays[name] = narrowed(grown) if half else grown.astype(array.dtype)
    return State(arrays, dict(state.values))
