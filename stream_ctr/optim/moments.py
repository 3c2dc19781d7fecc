"""Accumulators in 16 bits: bfloat16 with stochastic rounding.

A bfloat16 number is the upper half of a float32: its 8 significant bits cannot hold a sum that grows by less
than one part in 256. Rounded to the nearest, a second moment stalls as soon as it is some 256 times a step's
square. Rounded up with the probability of the part that is cut off, it is right in expectation, whatever its
size (Gupta et al., ICML 2015). So with the bits b of a float32 number and r, 0 to 2^16 - 1,

    stored = (b + r) div 2^16,    r = 16 bits of (key + place * 0x9E3779B1) mod 2^32

``place`` is the number's place among those of its kind, ``key`` a hash of the seed, of the step and of the
kind: nothing depends on how events are chunked, and a restart rounds as if there had been none. Over steps r
is as random as the hash; over places it is a Weyl sequence, which costs one addition a number and spreads
evenly. Second moments take the upper 16 bits of the sum and all others its lower ones.
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
"""The r that rounds to the nearest number: for what an accumulator starts at."""
MOST: Final = 3.3895313892515355e38
"""The largest finite bfloat16 number; sums of squares end there."""

DENSE: Final = 0
ROWS: Final = 1
SECOND_TURN: Final = 2
"""Kinds of places: the dense parameters, the rows, and the dense parameters at an event's second turn."""


@kernel
def rounding_key(seed: int, step: int, kind: int) -> np.uint64:
    """The key of one step's rounding, below 2^32."""
    return mix(mix(mix(np.uint64(seed)) ^ np.uint64(step)) ^ np.uint64(kind)) >> np.uint64(32)


def narrowed(values: NDArray[np.floating[Any]]) -> NDArray[np.uint16]:
    """Finite numbers of 0 or more to the nearest bfloat16, as its bits.

    >>> [hex(bits) for bits in narrowed(np.array([1.0, 1.005, 0.0]))]
    ['0x3f80', '0x3f81', '0x0']
    """
    bits = np.minimum(values, MOST).astype(np.float32).view(np.uint32)
    stored: NDArray[np.uint16] = ((bits + np.uint32(NEAREST)) >> np.uint32(16)).astype(np.uint16)
    return stored


def widened(stored: NDArray[np.uint16]) -> NDArray[np.float32]:
    """The numbers behind the bits.

    >>> widened(np.array([0x3F80, 0xC000], np.uint16)).tolist()
    [1.0, -2.0]
    """
    wide: NDArray[np.float32] = (stored.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return wide


def bits_of(value: float) -> int:
    """The bits of one number, to the nearest.

    >>> hex(bits_of(1.0))
    '0x3f80'
    """
    return int(narrowed(np.array([value]))[0])
