"""Counter-based random numbers: a pure function of a seed, a name and a block.

A block of draws is Philox's output for the key (seed, hash of name and block). Any part of a stream can
therefore be generated on its own and in any order, with the same result.
"""

from __future__ import annotations

import math
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def uniforms(seed: int, name: str, block: int, count: int) -> Floats:
    """[count] numbers in [0, 1).

    >>> bool((uniforms(1, "a", 0, 3) == uniforms(1, "a", 0, 5)[:3]).all())
    True
    """
    place = blake2b(f"{name}:{block}".encode(), digest_size=8).digest()
    key = np.array([seed, int.from_bytes(place, "little")], np.uint64)
    raw = np.random.Philox(key=key).random_raw(count)
    return np.asarray((raw >> np.uint64(11)) * 2.0**-53, np.float64)


def normals(seed: int, name: str, *shape: int) -> Floats:
    """Standard normal draws of shape ``shape`` (Box and Muller 1958)."""
    count = math.prod(shape)
    u = uniforms(seed, name, 0, 2 * count)
    return gauss(u[:count], u[count:]).reshape(shape)


def gauss(u: Floats, v: Floats) -> Floats:
    """Standard normal numbers [E] from two arrays of uniform numbers [E]."""
    return np.asarray(np.sqrt(-2.0 * np.log1p(-u)) * np.cos(2.0 * np.pi * v), np.float64)


def zipf(count: int, exponent: float, shift: float) -> Floats:
    """[count] probabilities proportional to 1 / (rank + shift)^exponent, rank from 1 (Mandelbrot 1953)."""
    weight = (np.arange(1, count + 1) + shift) ** -exponent
    return np.asarray(weight / weight.sum(), np.float64)


def choose(cumulative: Floats, u: Floats) -> NDArray[np.int64]:
    """Index [E] of each ``u`` [E] in a cumulative distribution [N]."""
    index = np.searchsorted(cumulative, u, side="right")
    return np.minimum(index, len(cumulative) - 1).astype(np.int64)
