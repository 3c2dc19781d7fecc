"""How often each feature was seen: N_jk and M_j = max_k N_jk of Helen's radii (arXiv 2403.00798, eq. 7).

Running counts over the whole stream, or decayed ones that lose half of their weight every half-life. A
decayed count is a pair (N, t): its weight at a later time T is N * 2^(-(T - t) / H), so nothing ever
sweeps over all rows. Counts are float64: float32 stands still at 2^24.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from stream_ctr.kernels.decorators import kernel

NEVER = -(2**63)
"""Time of the clock before any event."""


class Counts(NamedTuple):
    """Counts of rows and fields, as the kernels take them."""

    number: NDArray[np.float64]
    """[V] N of each row, at its time."""
    time_ms: NDArray[np.int64]
    """[V] when N was last changed; [0] for running counts."""
    maximum: NDArray[np.float64]
    """[F] M of each field, at its time."""
    maximum_time_ms: NDArray[np.int64]
    """[F] when M was last changed."""
    clock_ms: NDArray[np.int64]
    """[1] largest event time seen."""
    half_life_ms: float
    """Half-life of decayed counts, 0 for running counts."""


@kernel
def weight_at(count: float, time_ms: int, now_ms: int, half_life_ms: float) -> float:
    """Weight of the pair (N, t) at another time; N itself for running counts."""
    if half_life_ms == 0.0:
        return count
    return count * 2.0 ** ((np.float64(time_ms) - np.float64(now_ms)) / half_life_ms)


@kernel
def count_ratio(
    count: float, time_ms: int, maximum: float, maximum_time_ms: int, half_life_ms: float
) -> float:
    """N / M of the pairs (N, t) and (M, t), in [0, 1]; 0 while nothing of the field was counted.

    Both weights decay alike, so 'now' cancels: only the distance of the two times is left. Written that
    way nothing underflows however long ago both were seen.
    """
    if maximum == 0.0:
        return 0.0
    return min(weight_at(count / maximum, time_ms, maximum_time_ms, half_life_ms), 1.0)
