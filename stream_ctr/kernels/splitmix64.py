"""The mixing function of the splitmix64 generator (Steele et al., OOPSLA 2014).

Initial weights, stochastic rounding and dataset splits are hashes built from it. Its bits must never change:
checkpoints and published results depend on them.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from stream_ctr.kernels.decorators import kernel

Bits = TypeVar("Bits", np.uint64, NDArray[np.uint64])

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
"""2^64 over the golden ratio, made odd: what the generator adds to its state at each step."""
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


def splitmix64(x: Bits) -> Bits:
    """The output of the generator whose state is ``x``: a bijection of 64-bit numbers, element by element.

    >>> [hex(value) for value in splitmix64(np.array([0, 1], np.uint64)).tolist()]
    ['0xe220a8397b1dcdaf', '0x910a2dec89025cc1']
    """
    x = x + GOLDEN
    x = (x ^ (x >> np.uint64(30))) * _MIX_1
    x = (x ^ (x >> np.uint64(27))) * _MIX_2
    return x ^ (x >> np.uint64(31))


mix = kernel(splitmix64)
"""The same for one np.uint64, compiled, for use inside kernels."""
