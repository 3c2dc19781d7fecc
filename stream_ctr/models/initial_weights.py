"""Initial weights as a hash: the same seed and name give the same value on every machine and in every run.

There is no hidden state. The values of a row depend on (seed, field, key, column) alone. They do not depend
on the order in which rows appear, on how events are chunked, or on restarts.
"""

from __future__ import annotations

import hashlib
import math

import numpy as np
from numpy.typing import NDArray

from stream_ctr.kernels.decorators import kernel
from stream_ctr.kernels.splitmix64 import mix

_LOW_32 = np.uint64(0xFFFFFFFF)


@kernel
def _normal(stream: np.uint64, index: int) -> float:
    """Standard normal number at ``index`` of a stream (Box and Muller 1958; the first of the pair)."""
    bits = mix(stream ^ mix(np.uint64(index)))
    radius_uniform = (float(bits >> np.uint64(32)) + 0.5) * 2.0**-32  # in (0, 1): its logarithm is finite
    angle_uniform = float(bits & _LOW_32) * 2.0**-32
    return math.sqrt(-2.0 * math.log(radius_uniform)) * math.cos(2.0 * math.pi * angle_uniform)


@kernel
def row_values(
    seed: int, field: NDArray[np.int32], key: NDArray[np.uint64], width: int, scale: float
) -> NDArray[np.float32]:
    """Initial values of K rows: normal with standard deviation ``scale``; zero for key 0.

    Shapes: field int32 [K], key uint64 [K] -> float32 [K, width]. Key 0 denotes the default row of a field,
    which all values without their own row share.
    """
    values = np.zeros((key.size, width), np.float32)
    for k in range(key.size):
        if key[k] == np.uint64(0):
            continue
        stream = mix(mix(mix(np.uint64(seed)) ^ np.uint64(field[k])) ^ key[k])
        for column in range(width):
            values[k, column] = scale * _normal(stream, column)
    return values


@kernel
def _normal_values(stream: np.uint64, size: int, scale: float) -> NDArray[np.float32]:
    """float32 [size] of one named parameter."""
    values = np.empty(size, np.float32)
    for index in range(size):
        values[index] = scale * _normal(stream, index)
    return values


def dense_values(seed: int, name: str, shape: tuple[int, ...], scale: float) -> NDArray[np.float32]:
    """Initial values of a dense parameter: normal, from a hash of (seed, name, index).

    >>> dense_values(1, "tower.1.weight", (2, 2), 0.1).round(3).tolist() == \\
    ...     dense_values(1, "tower.1.weight", (4, 1), 0.1).round(3).reshape(2, 2).tolist()
    True
    """
    digest = hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=8).digest()
    stream = np.uint64(int.from_bytes(digest, "little"))
    return _normal_values(stream, math.prod(shape), scale).reshape(shape)
