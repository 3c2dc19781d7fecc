"""Accumulators in 16 bits: bfloat16 with stochastic rounding.

A bfloat16 number is the upper half of a float32. Its 8 significant bits cannot hold a sum that grows by less
than one part in 256, so with rounding to nearest a second moment stalls once it is about 256 times the square
of a step. Stochastic rounding rounds up with the probability of the part that is cut off and is right in
expectation, whatever the size (Gupta et al., ICML 2015). With the bits b of a float32 number and r from 0 to
2^16 - 1,

    stored = (b + r) div 2^16,    r = 16 bits of (key + place * 0x9E3779B1) mod 2^32

``place`` is the index of the number within its kind; ``key`` is a hash of seed, step and kind. The result
therefore depends neither on how events are chunked nor on restarts. Over steps r is as random as the hash.
Over places it is a Weyl sequence, which spreads evenly and costs one addition per number. Second moments use
the upper 16 bits of the sum, all other accumulators the lower 16.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from stream_ctr.kernels.decorators import kernel
from stream_ctr.kernels.splitmix64 import mix

WEYL: Final = 0x9E3779B1
"""2^32 over the golden ratio, made odd: multiples of it spread evenly over 32 bits."""
NEAREST: Final = 1 << 15
"""The r that rounds to nearest; used for the initial value of an accumulator."""
MOST: Final = 3.3895313892515355e38
"""The largest finite bfloat16 number; sums of squares saturate here."""

DENSE: Final = 0
ROWS: Final = 1
SECOND_TURN: Final = 2
"""Kinds of places: dense parameters, rows, and dense parameters at the replay of an event (revisit)."""


@kernel
def rounding_key(seed: int, step: int, kind: int) -> np.uint64:
    """The rounding key of one step, below 2^32."""
    return mix(mix(mix(np.uint64(seed)) ^ np.uint64(step)) ^ np.uint64(kind)) >> np.uint64(32)


def narrowed(values: NDArray[np.floating[Any]]) -> NDArray[np.uint16]:
    """The bits of the bfloat16 numbers nearest to ``values``, which are finite and not negative.

    >>> [hex(bits) for bits in narrowed(np.array([1.0, 1.005, 0.0]))]
    ['0x3f80', '0x3f81', '0x0']
    """
    bits = np.minimum(values, MOST).astype(np.float32).view(np.uint32)
    stored: NDArray[np.uint16] = ((bits + np.uint32(NEAREST)) >> np.uint32(16)).astype(np.uint16)
    return stored


def widened(stored: NDArray[np.uint16]) -> NDArray[np.float32]:
    """The float32 numbers that bfloat16 bits stand for.

    >>> widened(np.array([0x3F80, 0xC000], np.uint16)).tolist()
    [1.0, -2.0]
    """
    wide: NDArray[np.float32] = (stored.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return wide


def bits_of(value: float) -> int:
    """The bits of the bfloat16 number nearest to ``value``.

    >>> hex(bits_of(1.0))
    '0x3f80'
    """
    return int(narrowed(np.array([value]))[0])
