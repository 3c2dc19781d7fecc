"""Feature counts: N_jk and M_j = max_k N_jk of Helen's radii (arXiv 2403.00798, eq. 7).

Running counts cover the whole stream; decayed counts lose half of their weight every half-life. A decayed
count is a pair (N, t): its weight at a later time T is N * 2^(-(T - t) / H), so no pass over all rows is
needed. Counts are float64, because float32 stops counting at 2^24.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from stream_ctr.kernels.decorators import kernel

NEVER = -(2**63)
"""Clock time before the first event."""


class Counts(NamedTuple):
    """Counts of rows and fields, as input of the kernels."""

    number: NDArray[np.float64]
    """[V] N of each row, at its time."""
    time_ms: NDArray[np.int64]
    """[V] when N was last changed; [0] for running counts."""
    maximum: NDArray[np.float64]
    """[F] M of each field, at its time."""
    maximum_time_ms: NDArray[np.int64]
    """[F] when M was last changed."""
    clock_ms: NDArray[np.int64]
    """[1] largest event time so far."""
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
    """N / M of the pairs (N, t) and (M, t), in [0, 1]; 0 while the field has no counts.

    Both weights decay alike, so the current time cancels out and only the difference of the two times
    remains. In this form nothing underflows, however old both counts are.
    """
    if maximum == 0.0:
        return 0.0
    return min(weight_at(count / maximum, time_ms, maximum_time_ms, half_life_ms), 1.0)
