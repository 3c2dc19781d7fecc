"""Frequency ratios N / M (Helen eq. 7) from complete counts: of one batch, or of a whole dataset."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def count_ratios(
    count: NDArray[np.float64], field: NDArray[np.int64], defaults: int, fields: int
) -> NDArray[np.float32]:
    """N_jk / M_j (Helen eq. 7) of V rows, float32 [V], from their counts [V] and fields [V].

    The first ``defaults`` rows are the default rows of the fields: M_j excludes them, and their ratio is 0.
    With the counts of the whole dataset the result holds the ratios of ``optimizer.counts = "fixed"`` by row.

    >>> count_ratios(np.array([9.0, 0.0, 4.0, 2.0, 5.0]), np.array([0, 1, 0, 0, 1]), 2, 2).tolist()
    [0.0, 0.0, 1.0, 0.5, 1.0]
    """
    own, of_field = count[defaults:], field[defaults:]
    maximum = np.zeros(fields)
    np.maximum.at(maximum, of_field, own)
    ratio = np.zeros(len(count), np.float32)
    np.divide(own, maximum[of_field], out=ratio[defaults:], where=own > 0.0, casting="same_kind")
    return ratio
