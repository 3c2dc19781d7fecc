"""A x + b for many events, as fast as a library's matrix product, each event with the bits it has alone.

A library sums in an order that depends on how many events stand together. Here every output of an event is
summed in the order of the inputs, four at a time, whatever stands beside it. Speed comes from two things:
the inputs are taken in slices whose weights stay in the first cache while all events pass, and four events
share the loads of a weight.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from stream_ctr.kernels.decorators import fast_kernel, fast_part

Floats = NDArray[np.float32]

SLICE: Final = 6144
"""Weights of one slice of the inputs: 24 KiB."""


@fast_kernel
def affine(x: Floats, across: Floats, bias: Floats) -> Floats:
    """A x + b: x [B, I], ``across`` the transpose of A [I, O], b [O] -> [B, O]."""
    inputs, outputs = across.shape
    events = x.shape[0]
    out = np.empty((events, outputs), np.float32)
    for b in range(events):
        for o in range(outputs):
            out[b, o] = bias[o]
    depth = max(4, SLICE // max(1, outputs) // 4 * 4)
    for start in range(0, inputs, depth):
        stop = min(start + depth, inputs)
        for b in range(0, events - 3, 4):
            add_to_four(x, b, across, start, stop, out)
        for b in range(events // 4 * 4, events):
            add_to_one(x, b, across, start, stop, out)
    return out


@fast_part
def add_to_one(x: Floats, b: int, across: Floats, start: int, stop: int, out: Floats) -> None:
    """Add what the inputs from ``start`` to ``stop`` give to event b; ``start`` is a multiple of 4."""
    for i in range(start, stop - 3, 4):
        x_0, x_1, x_2, x_3 = x[b, i], x[b, i + 1], x[b, i + 2], x[b, i + 3]
        for o in range(out.shape[1]):
            a_0, a_1, a_2, a_3 = across[i, o], across[i + 1, o], across[i + 2, o], across[i + 3, o]
            out[b, o] += x_0 * a_0 + x_1 * a_1 + x_2 * a_2 + x_3 * a_3
    for i in range(start + (stop - start) // 4 * 4, stop):
        for o in range(out.shape[1]):
            out[b, o] += x[b, i] * across[i, o]


@fast_part
def add_to_four(x: Floats, b: int, across: Floats, start: int, stop: int, out: Floats) -> None:
    """What :func:`add_to_one` does to events b to b + 3, term by term the same."""
    c, d, e = b + 1, b + 2, b + 3
    for i in range(start, stop - 3, 4):
        x_0, x_1, x_2, x_3 = x[b, i], x[b, i + 1], x[b, i + 2], x[b, i + 3]
        y_0, y_1, y_2, y_3 = x[c, i], x[c, i + 1], x[c, i + 2], x[c, i + 3]
        u_0, u_1, u_2, u_3 = x[d, i], x[d, i + 1], x[d, i + 2], x[d, i + 3]
        v_0, v_1, v_2, v_3 = x[e, i], x[e, i + 1], x[e, i + 2], x[e, i + 3]
        for o in range(out.shape[1]):
            a_0, a_1, a_2, a_3 = across[i, o], across[i + 1, o], across[i + 2, o], across[i + 3, o]
            out[b, o] += x_0 * a_0 + x_1 * a_1 + x_2 * a_2 + x_3 * a_3
            out[c, o] += y_0 * a_0 + y_1 * a_1 + y_2 * a_2 + y_3 * a_3
            out[d, o] += u_0 * a_0 + u_1 * a_1 + u_2 * a_2 + u_3 * a_3
            out[e, o] += v_0 * a_0 + v_1 * a_1 + v_2 * a_2 + v_3 * a_3
    for i in range(start + (stop - start) // 4 * 4, stop):
        for o in range(out.shape[1]):
            out[b, o] += x[b, i] * across[i, o]
            out[c, o] += x[c, i] * across[i, o]
            out[d, o] += x[d, i] * across[i, o]
            out[e, o] += x[e, i] * across[i, o]
