"""How Numba compiles this project's kernels: one decorator, one set of choices.

``error_model="numpy"`` drops the guard around every division that otherwise stops vectorisation. The
fast-math flags allow reordering but keep NaN and infinity: checks for non-finite numbers must work.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable
from types import ModuleType
from typing import ParamSpec, TypeVar, cast

import numba

from stream_ctr.kernel_cache import cache_folder, forgive

P = ParamSpec("P")
R = TypeVar("R")

FAST_MATH = {"reassoc", "contract", "arcp", "nsz"}


def kernel(function: Callable[P, R]) -> Callable[P, R]:
    """Compile for integers, hashing and tables; floating point stays strictly as written."""
    with cache_folder():
        compiled = numba.njit(cache=True, nogil=True, error_model="numpy")(function)
    forgive(compiled)
    return cast("Callable[P, R]", compiled)


def fast_kernel(function: Callable[P, R]) -> Callable[P, R]:
    """Compile for dense arithmetic: sums may be reordered, so results hold to a tolerance."""
    with cache_folder():
        compiled = numba.njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST_MATH)(function)
    forgive(compiled)
    return cast("Callable[P, R]", compiled)


def fast_part(function: Callable[P, R]) -> Callable[P, R]:
    """As :func:`fast_kernel`, but compiled anew with the kernel that calls it, never kept on its own."""
    compiled = numba.njit(nogil=True, error_model="numpy", fastmath=FAST_MATH)(function)
    return cast("Callable[P, R]", compiled)


def fast_leaf(function: Callable[P, R]) -> Callable[P, R]:
    """As :func:`fast_part`, and always in line: for arithmetic whose last bit must not depend on the process.

    What is not in line exists twice in a process that compiled it, by itself and within the kernel that was
    kept, optimised once and twice. The process runs the first, and all that load the kernel run the second.
    """
    compiled = numba.njit(nogil=True, error_model="numpy", fastmath=FAST_MATH, forceinline=True)(function)
    return cast("Callable[P, R]", compiled)


def finite_part(function: Callable[P, R]) -> Callable[P, R]:
    """As :func:`fast_part`, and no number in it is ever infinite: for small functions inside a kernel.

    Single-precision divisions become a reciprocal estimate with a Newton step, to within 2 units of the last
    place; with an infinite number they would give NaN.
    """
    flags = FAST_MATH | {"ninf"}
    compiled = numba.njit(nogil=True, error_model="numpy", fastmath=flags)(function)
    return cast("Callable[P, R]", compiled)


def source_digest(*modules: ModuleType) -> int:
    """A digest of the modules' sources, 0 to 2^60 - 1.

    A cached kernel that uses it as a variable of the enclosing function is compiled again whenever one of
    the modules has changed: such variables are part of the key of Numba's cache.
    """
    digest = hashlib.blake2b(digest_size=8)
    for module in modules:
        digest.update(inspect.getsource(module).encode())
    return int.from_bytes(digest.digest(), "little") >> 4
