"""Counts the sightings of keys that have no row yet, in bounded memory.

A count-min sketch with conservative update (Cormode and Muthukrishnan 2005; Estan and Varghese 2002): an
estimate is never too low until the sketch ages. When half of its cells are in use, estimates start to be too
high, so all cells are halved until less than a quarter is in use. Values seen long ago and rarely are
forgotten first, and memory is constant however many new values arrive. Ageing visits all cells, but at least
a quarter of them must fill up before it runs again, so the amortised cost per event is constant.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from stream_ctr.kernels.decorators import kernel

DEPTH = 4
CELLS = 1 << 20
"""Cells in each of the DEPTH rows, 2 bytes each: 8 MB, exact up to some 10^5 values waiting at a time."""
LARGEST_COUNT = 2**16 - 1

_MULTIPLIERS = np.array(
    [0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0xD6E8FEB86659FD93], np.uint64
)
_SHIFT = np.uint64(64 - 20)


@kernel
def _cell(key: np.uint64, depth: int, cells: int) -> int:
    return int((key * _MULTIPLIERS[depth]) >> _SHIFT) & (cells - 1)


@kernel
def count_sighting(sketch: NDArray[np.uint16], used: NDArray[np.int64], key: np.uint64, enough: int) -> int:
    """Count one sighting; returns the key's sightings so far, including this one, up to ``enough``.

    sketch uint16 [DEPTH, CELLS]; used int64 [DEPTH], number of nonzero cells in each row.
    """
    cells = sketch.shape[1]
    lowest = enough
    for depth in range(DEPTH):
        lowest = min(lowest, int(sketch[depth, _cell(key, depth, cells)]))
    estimate = min(lowest + 1, enough)
    for depth in range(DEPTH):
        cell = _cell(key, depth, cells)
        if int(sketch[depth, cell]) < estimate:
            if sketch[depth, cell] == 0:
                used[depth] += 1
            sketch[depth, cell] = estimate
    if used.max() * 2 > cells:
        _age(sketch, used)
    return estimate


@kernel
def _age(sketch: NDArray[np.uint16], used: NDArray[np.int64]) -> None:
    cells = sketch.shape[1]
    while used.max() * 4 >= cells:
        for depth in range(DEPTH):
            used[depth] = 0
            for cell in range(cells):
                sketch[depth, cell] >>= 1
                if sketch[depth, cell] > 0:
                    used[depth] += 1


def empty_sketch(cells: int = CELLS) -> NDArray[np.uint16]:
    """A new sketch; ``cells`` is a power of two, at most CELLS."""
    return np.zeros((DEPTH, cells), np.uint16)


def used_cells(sketch: NDArray[np.uint16]) -> NDArray[np.int64]:
    """Number of nonzero cells in each row, int64 [DEPTH]."""
    return np.asarray(np.count_nonzero(sketch, axis=1), np.int64)
