"""Accumulators in float or in 16 bits inside compiled code; see :mod:`stream_ctr.optim.moments`.

The kind is known when a kernel is compiled, so neither has a runtime cost for the other.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types
from numba.extending import overload

from stream_ctr.kernels.decorators import fast_part
from stream_ctr.learners.compiled.workspace import Moments, Number
from stream_ctr.optim.moments import MOST, NEAREST, WEYL

_HALF = np.uint32(16)
_LOW = np.uint32(0xFFFF)
_WEYL = np.uint32(WEYL)
_NEAREST = np.uint32(NEAREST)
_MOST = np.float32(MOST).view(np.uint32) | _LOW


def opened(stored: Any) -> Any:
    """The value of a stored accumulator element."""
    raise NotImplementedError


def closed_square(value: Any, like: Moments, weyl: Any) -> Any:
    """The stored form of a second moment: ``value``, rounded with the upper half of ``weyl``."""
    raise NotImplementedError


def closed_mean(value: Any, like: Moments, weyl: Any) -> Any:
    """The stored form of a first moment: ``value``, rounded with the lower half of ``weyl``."""
    raise NotImplementedError


@overload(opened)
def _opened(stored: Any) -> Any:
    def of_bits(stored: Any) -> Any:
        return np.uint32(np.uint32(stored) << _HALF).view(np.float32)

    def of_number(stored: Any) -> Any:
        return stored

    return of_bits if isinstance(stored, types.Integer) else of_number


@overload(closed_square)
def _closed_square(value: Any, like: Any, weyl: Any) -> Any:
    def bits(value: Any, like: Any, weyl: Any) -> Any:
        up = np.uint32(np.float32(value).view(np.uint32) + np.uint32(weyl >> _HALF))
        return np.uint16(min(up, _MOST) >> _HALF)

    def number(value: Any, like: Any, weyl: Any) -> Any:
        return value

    return bits if isinstance(like.dtype, types.Integer) else number


@overload(closed_mean)
def _closed_mean(value: Any, like: Any, weyl: Any) -> Any:
    def bits(value: Any, like: Any, weyl: Any) -> Any:
        return np.uint16(np.uint32(np.float32(value).view(np.uint32) + np.uint32(weyl & _LOW)) >> _HALF)

    def number(value: Any, like: Any, weyl: Any) -> Any:
        return value

    return bits if isinstance(like.dtype, types.Integer) else number


@fast_part
def weyl_at(key: np.uint32, place: np.uint64) -> np.uint32:
    """The Weyl sequence of a step at ``place``; :func:`next_weyl` gives the value at the next place."""
    return np.uint32(key + np.uint32(place) * _WEYL)


@fast_part
def next_weyl(weyl: np.uint32) -> np.uint32:
    """The Weyl sequence at the next place."""
    return np.uint32(weyl + _WEYL)


@fast_part
def started(initial: Number, like: Moments) -> Any:
    """The stored form of the initial value of an accumulator."""
    return closed_square(initial, like, _NEAREST << _HALF)
