"""Forward and backward pass of the fused step: Triton kernels over one event.

Names of a pass; each is a vector over x_0 and the units of all layers: ``x`` outputs, ``inner`` w_i x_i +
beta_i (only the first place of a layer with one scale), ``t`` tanh(s_i x_i), ``d`` and ``e`` the loss
gradients at b_i and beta_i, ``g`` the loss gradient at x_0 and, for the skip logits alone, at x_i. ``z`` [1]
is the gradient at the logit. ``*_old`` belong to the first pass. The second pass uses the weights plus c
times the gradients of the first, which are outer products and never stored (see
:mod:`~stream_ctr.learners.compiled.passes` for the identities). Weight matrices are split over many programs,
by rows in the forward pass and by columns in the backward pass. Each program sums in a fixed order.
"""

from __future__ import annotations

import triton
import triton.language as tl

AT = tl.constexpr(0)
LEARNED = tl.constexpr(1)
FINITE = tl.constexpr(2)
ROWS = tl.constexpr(3)
"""Places in ``event``, int64 [3 + S]: index of the event in its chunk, updates before it, whether its update
is finite, and its rows."""
CLIMB = tl.constexpr(0)
FIRST_FINITE = tl.constexpr(1)
RATE = tl.constexpr(2)
EPSILON = tl.constexpr(3)
"""Places in ``state``, float64 [4]: c of the dense perturbation c g, whether the first pass is finite, and
learning rate and epsilon of the dense rule's step."""


@triton.jit(do_not_specialize=["slots", "fields", "width", "spare"])
def gather(
    cursor: tl.tensor,
    learned: tl.tensor,
    rows: tl.tensor,
    before: tl.tensor,
    table: tl.tensor,
    field_slots: tl.tensor,
    event: tl.tensor,
    members: tl.tensor,
    x: tl.tensor,
    slots: tl.tensor,
    fields: tl.tensor,
    width: tl.tensor,
    spare: tl.tensor,
    most: tl.constexpr,
    mean: tl.constexpr,
    s_block: tl.constexpr,
    f_block: tl.constexpr,
    k_block: tl.constexpr,
) -> None:
    """Write x_0 of the event at the cursor, and the data about the event that the other kernels need.

    ``field_slots`` int32 [F, most] holds the slots of each field, padded with -1; ``members`` [F] is the
    number of slots that hold a row. Grid: blocks of fields.
    """
    kind = x.dtype.element_ty
    block = tl.program_id(0)
    at = tl.load(cursor)
    if block == 0:
        done = tl.load(learned)
        s = tl.arange(0, s_block)
        own = tl.load(rows + at * slots + s, mask=s < slots, other=spare)
        tl.store(event + ROWS + s, own, mask=s < slots)
        tl.store(event + AT, at)
        tl.store(event + LEARNED, done)
        tl.store(before + at, done)
    f = block * f_block + tl.arange(0, f_block)
    k = tl.arange(0, k_block)
    total = tl.zeros((f_block, k_block), kind)
    count = tl.zeros((f_block,), kind)
    for m in range(most):
        slot = tl.load(field_slots + f * most + m, mask=f < fields, other=-1)
        row = tl.load(rows + at * slots + slot, mask=slot >= 0, other=spare)
        here = row != spare
        inside = here[:, None] & (k < width)[None, :]
        total += tl.load(table + row[:, None] * width + k[None, :], mask=inside, other=0.0)
        count += here.to(kind)
    if mean:
        total = total / tl.maximum(count, 1.0)[:, None]
    tl.store(members + f, count, mask=f < fields)
    tl.store(x + f[:, None] * width + k[None, :], total, mask=(f < fields)[:, None] & (k < width)[None, :])


@triton.jit(do_not_specialize=["size", "tower", "bias", "rows", "scale", "beta", "scales"])
def forward(
    w: tl.tensor,
    x: tl.tensor,
    above: tl.tensor,
    inner: tl.tensor,
    x_old: tl.tensor,
    d_old: tl.tensor,
    e_old: tl.tensor,
    state: tl.tensor,
    norm: tl.tensor,
    size: tl.tensor,
    tower: tl.tensor,
    bias: tl.tensor,
    rows: tl.tensor,
    scale: tl.tensor,
    beta: tl.tensor,
    scales: tl.tensor,
    second: tl.constexpr,
    o_block: tl.constexpr,
    k_block: tl.constexpr,
) -> None:
    """Products with x_i: ``above`` = x_(i+1) = relu(A x_i + b), and ``inner`` = w_i x_i + beta_i.

    A [rows, size] starts at ``tower`` in ``w``, w_i [scales, size] at ``scale``; rows or scales may be 0.
    ``d_old`` belongs to layer i + 1, ``e_old`` to layer i; ``norm`` receives ||x_i||^2. Grid: blocks of rows
    of A, then of w_i.
    """
    kind = x.dtype.element_ty
    block = tl.program_id(0)
    tiles = tl.cdiv(rows, o_block)
    up = block < tiles
    o = tl.where(up, block, block - tiles) * o_block + tl.arange(0, o_block)
    mine = o < tl.where(up, rows, scales)
    begin = tl.where(up, tower, scale)
    total = tl.zeros((o_block, k_block), kind)
    old = tl.zeros((k_block,), kind)
    square = tl.zeros((k_block,), tl.float64)
    for first in range(0, size, k_block):
        k = first + tl.arange(0, k_block)
        inside = k < size
        x_k = tl.load(x + k, mask=inside, other=0.0)
        place = begin + o.to(tl.int64)[:, None] * size + k[None, :]
        w_ok = tl.load(w + place, mask=mine[:, None] & inside[None, :], other=0.0)
        total += w_ok * x_k[None, :]
        square += x_k.to(tl.float64) * x_k.to(tl.float64)
        if second:
            old += x_k * tl.load(x_old + k, mask=inside, other=0.0)
    out = tl.sum(total, 1) + tl.load(w + tl.where(up, bias, beta) + o, mask=mine, other=0.0)
    if second:
        climb = tl.load(state + CLIMB).to(kind) * (1.0 + tl.sum(old, 0))
        out += climb * tl.load(d_old + o, mask=mine & up, other=0.0)
        out += climb * tl.load(e_old + o, mask=mine & (block >= tiles), other=0.0)
    tl.store(above + o, tl.where(out <= 0.0, 0.0, out), mask=mine & up)  # NaN stays NaN
    tl.store(inner + o, out, mask=mine & (block >= tiles))
    if block == 0:
        tl.store(norm, tl.sum(square, 0))


@triton.jit(do_not_specialize=["size", "tower", "rows"])
def backward(
    w: tl.tensor,
    d: tl.tensor,
    x: tl.tensor,
    g: tl.tensor,
    below: tl.tensor,
    d_old: tl.tensor,
    x_old: tl.tensor,
    state: tl.tensor,
    norm: tl.tensor,
    size: tl.tensor,
    tower: tl.tensor,
    rows: tl.tensor,
    second: tl.constexpr,
    lowest: tl.constexpr,
    skips: tl.constexpr,
    o_block: tl.constexpr,
    k_block: tl.constexpr,
) -> None:
    """From d_(i+1) through A [rows, size] to x_i: ``below`` = d_i, or the gradient ``g`` if i is 0.

    With skip logits, ``g`` holds their gradient at x_i. ``x``, ``g``, ``x_old`` and ``below`` belong to
    layer i, ``d`` and ``d_old`` to the layer above; ``norm`` receives ||d_(i+1)||^2. Grid: blocks of columns
    of A.
    """
    kind = d.dtype.element_ty
    block = tl.program_id(0)
    k = block * k_block + tl.arange(0, k_block)
    inside = k < size
    total = tl.zeros((o_block, k_block), kind)
    old = tl.zeros((o_block,), kind)
    square = tl.zeros((o_block,), tl.float64)
    for first in range(0, rows, o_block):
        o = first + tl.arange(0, o_block)
        mine = o < rows
        d_o = tl.load(d + o, mask=mine, other=0.0)
        place = tower + o.to(tl.int64)[:, None] * size + k[None, :]
        w_ok = tl.load(w + place, mask=mine[:, None] & inside[None, :], other=0.0)
        total += w_ok * d_o[:, None]
        square += d_o.to(tl.float64) * d_o.to(tl.float64)
        if second:
            old += d_o * tl.load(d_old + o, mask=mine, other=0.0)
    out = tl.sum(total, 0)
    if second:
        climb = tl.load(state + CLIMB).to(kind) * tl.sum(old, 0)
        out += climb * tl.load(x_old + k, mask=inside, other=0.0)
    if lowest:
        tl.store(g + k, out, mask=inside)
    else:
        if skips:
            out += tl.load(g + k, mask=inside, other=0.0)
        x_k = tl.load(x + k, mask=inside, other=0.0)
        tl.store(below + k, tl.where(x_k > 0.0, out, 0.0), mask=inside)
    if block == 0:
        tl.store(norm, tl.sum(square, 0))
