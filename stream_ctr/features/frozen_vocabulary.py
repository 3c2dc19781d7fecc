"""A vocabulary as it was at one moment, piece by piece, while keys are still added to it.

Nothing is ever removed from the table, a place once taken keeps its key and row, and rows are given out in
ascending order. So the entries with rows below a bound are the table as it was when it had so many rows; what
came later is left out. (An older key's search never passes a later key's place: that was free when the older
one was put in.) A place whose key is there and whose row is not yet has row 0, which no key ever has.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from stream_ctr.features.rows.vocabulary import keys_between

PIECE: Final = 1 << 20
"""Rows or places of a piece: for each piece of keys by row the whole table is gone through."""


@dataclass(frozen=True, slots=True)
class RowKeys:
    """Keys of the rows from ``first_row`` to ``used`` - 1, by row; see
    :class:`stream_ctr.state.frozen.Pieces`."""

    table_keys: NDArray[np.uint64]
    """[C]"""
    table_rows: NDArray[np.int32]
    """[C]"""
    first_row: int
    used: int

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(np.uint64)

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.used - self.first_row,)

    def pieces(self) -> Iterator[NDArray[Any]]:
        for start in range(self.first_row, self.used, PIECE):
            keys = np.zeros(min(PIECE, self.used - start), np.uint64)
            keys_between(self.table_keys, self.table_rows, keys, start)
            yield keys


@dataclass(frozen=True, slots=True)
class Places:
    """Keys or rows of the table's places, as :func:`.rows.vocabulary.lookup_rows` takes them; see
    :class:`stream_ctr.state.frozen.Pieces`."""

    table_keys: NDArray[np.uint64]
    """[C]"""
    table_rows: NDArray[np.int32]
    """[C]"""
    first_row: int
    used: int
    rows: bool
    """Rows int64 [C] instead of keys uint64 [C]."""

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(np.int64 if self.rows else np.uint64)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.table_keys.shape

    def pieces(self) -> Iterator[NDArray[Any]]:
        for start in range(0, len(self.table_keys), PIECE):
            rows = self.table_rows[start : start + PIECE].astype(np.int64)
            old = (rows >= self.first_row) & (rows < self.used)
            yield np.where(old, rows if self.rows else self.table_keys[start : start + PIECE], 0).astype(
                self.dtype
            )
