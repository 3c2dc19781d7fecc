"""Log loss of single predictions: -ln p of a click, -ln(1 - p) of a non-click, in nats."""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from stream_ctr.kernels.decorators import kernel

EPSILON: Final = 1e-7
"""Log losses see probabilities clipped to [EPSILON, 1 - EPSILON], about the last step of float32 below 1.
The largest loss of one event is therefore -ln(EPSILON) = 16.1."""


@kernel
def logs_of(probability: float) -> tuple[float, float]:
    """ln p and ln(1 - p) of one probability, clipped to [EPSILON, 1 - EPSILON]."""
    p = min(max(probability, EPSILON), 1.0 - EPSILON)
    return math.log(p), math.log1p(-p)


@kernel
def log_losses(probability: NDArray[np.float32], label: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Log loss [B] of probabilities [B] on labels [B] of 0 and 1; the same bits in chunks of any size."""
    out = np.empty(len(probability), np.float64)
    for b in range(len(probability)):
        hit, miss = logs_of(np.float64(probability[b]))
        out[b] = -hit if label[b] else -miss
    return out


def vector_log_losses(
    probability: NDArray[np.floating[Any]], clicked: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Log loss of probabilities of any shape, NaN for NaN; ``clicked`` is broadcast to their shape.

    NumPy's vectorised logarithms may differ from those of :func:`log_losses` in the last bit.
    """
    p = np.clip(probability.astype(np.float64), EPSILON, 1.0 - EPSILON)
    losses: NDArray[np.float64] = -np.where(clicked, np.log(p), np.log1p(-p))
    return losses
