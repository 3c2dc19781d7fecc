"""Accumulators in 16 bits: bfloat16 with stochastic rounding, as plain arrays and tensors.

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

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stream_ctr.kernels import kernel
from stream_ctr.models.initial import mix

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


class Accumulators:
    """How the accumulators of a rule are kept, in the weights' own type or in 16 bits.

    A rule calculates with what :meth:`opened` hands out; :meth:`close` keeps the result.
    """

    def __init__(self, moments: str, seed: int, dtype: torch.dtype) -> None:
        """``moments`` as in the configuration; ``dtype`` is that of the weights."""
        self.half = moments == "bfloat16"
        self._seed, self._dtype = seed, dtype

    def start(self, shape: Sequence[int], initial: float, device: torch.device) -> Tensor:
        """An accumulator that starts at ``initial``."""
        if not self.half:
            return torch.full(tuple(shape), initial, device=device, dtype=self._dtype)
        return torch.full(tuple(shape), self.bits(initial), device=device, dtype=torch.uint16)

    def bits(self, initial: float) -> int:
        """What an accumulator in 16 bits holds at its start."""
        return int(narrowed(np.array([initial]))[0])

    def opened(self, stored: Sequence[Tensor]) -> list[Tensor]:
        """The numbers, to calculate with and to change."""
        if not self.half:
            return list(stored)
        wide = ((array.to(torch.int32) << 16).view(torch.float32) for array in stored)
        return [array.to(self._dtype) for array in wide]

    def closed(
        self, names: Sequence[str], values: Sequence[Tensor], place: Tensor, step: int, kind: int
    ) -> list[Tensor]:
        """What is to be kept of ``values`` after ``step``; ``place`` int64 is broadcast to their shapes."""
        if not self.half:
            return list(values)
        weyl = (place * WEYL + int(rounding_key(self._seed, step, kind))) & 0xFFFFFFFF
        kept = []
        for name, value in zip(names, values, strict=True):
            square = name.endswith("square")
            r = weyl >> 16 if square else weyl & 0xFFFF
            single = (value.clamp(max=MOST) if square else value).to(torch.float32)
            bits = single.view(torch.int32).to(torch.int64) & 0xFFFFFFFF
            kept.append(((bits + r) >> 16).to(torch.uint16))
        return kept
