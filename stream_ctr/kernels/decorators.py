"""Decorators that compile this project's kernels with one set of Numba options.

``error_model="numpy"`` removes the guard around every division, which would prevent vectorisation. The
fast-math flags allow reordering but keep NaN and infinity, because checks for non-finite numbers must work.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, cast

import numba
from numba.core.dispatcher import Dispatcher

from stream_ctr.kernels.compiler import load_only

P = ParamSpec("P")
R = TypeVar("R")

FAST_MATH = {"reassoc", "contract", "arcp", "nsz"}


def kernel(function: Callable[P, R]) -> Callable[P, R]:
    """Compile for integers, hashing and tables; floating-point operations are never reordered."""
    return _kept(function, numba.njit(nogil=True, error_model="numpy"))


def fast_kernel(function: Callable[P, R]) -> Callable[P, R]:
    """Compile for dense arithmetic: sums may be reordered, so results are exact only to a tolerance."""
    return _kept(function, numba.njit(nogil=True, error_model="numpy", fastmath=FAST_MATH))


def fast_part(function: Callable[P, R]) -> Callable[P, R]:
    """Like :func:`fast_kernel`, but compiled into each kernel that calls it and never cached on its own.

    Code that must give equal bits does not call it from Python: LLVM may order its sums differently when it
    is compiled alone than when it is part of a kernel.
    """
    compiled = numba.njit(nogil=True, error_model="numpy", fastmath=FAST_MATH)(function)
    return cast("Callable[P, R]", compiled)


def fast_leaf(function: Callable[P, R]) -> Callable[P, R]:
    """Like :func:`fast_part`, but always inlined: for scalar arithmetic inside a loop.

    LLVM would leave some of these functions as calls, and a step with Adam would take 10 % longer.
    """
    compiled = numba.njit(nogil=True, error_model="numpy", fastmath=FAST_MATH, forceinline=True)(function)
    return cast("Callable[P, R]", compiled)


def finite_part(function: Callable[P, R]) -> Callable[P, R]:
    """Like :func:`fast_part`, for small functions inside a kernel whose numbers are never infinite.

    Single-precision divisions become a reciprocal estimate with a Newton step, to within 2 units of the last
    place; with an infinite number they would give NaN.
    """
    flags = FAST_MATH | {"ninf"}
    compiled = numba.njit(nogil=True, error_model="numpy", fastmath=flags)(function)
    return cast("Callable[P, R]", compiled)


def _kept(function: Callable[P, R], jit: Any) -> Callable[P, R]:
    """A kernel that is cached on disk; the plain function if NUMBA_DISABLE_JIT turns compilation off."""
    compiled = jit(function)
    if isinstance(compiled, Dispatcher):
        load_only(compiled)
    return cast("Callable[P, R]", compiled)
