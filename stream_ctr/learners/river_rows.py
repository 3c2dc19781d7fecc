"""What a river model knows of each row: the part of its state that predictions need, kept at hand.

river keeps its weights in dicts by feature. Making an array of all of them for every snapshot would hold the
learner up for as long as the vocabulary is large, so only the rows that were touched since are made again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

from stream_ctr.learners.river.codecs import Codec
from stream_ctr.learners.river.inputs import Feature


class RowWeights:
    """Weights float64 [R, codec.width] by row, of the features that the rows belong to."""

    def __init__(self, codec: Codec) -> None:
        self._codec = codec
        self._table = np.zeros((0, codec.width))
        self._stale: set[int] = set()
        self._rows = 0

    def touch(self, rows: Iterable[int]) -> None:
        """The model has learned of these rows, or they have become another feature's; negative ones are
        none."""
        self._stale.update(rows)

    def table(self, feature: Callable[[int], Feature]) -> NDArray[np.float64]:
        """A copy of all rows as of now, R the largest row touched so far plus 1."""
        self._stale.discard(-1)
        if self._stale:
            self._reserve(max(self._stale) + 1)
            for row in self._stale:
                self._table[row] = self._codec.row(feature(row))
            self._stale.clear()
        return self._table[: self._rows].copy()

    def _reserve(self, rows: int) -> None:
        self._rows = max(self._rows, rows)
        if rows > len(self._table):
            longer = np.zeros((max(rows, 2 * len(self._table)), self._table.shape[1]))
            longer[: len(self._table)] = self._table
            self._table = longer
