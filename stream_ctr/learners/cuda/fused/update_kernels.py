"""Kernels of the fused step outside its passes: perturbation, finiteness check and update."""

from __future__ import annotations

import triton
import triton.language as tl

from stream_ctr.learners.cuda.fused.kernel_parts import over_root, row_gradient, squared_norms
from stream_ctr.learners.cuda.fused.pass_kernels import (
    AT,
    CLIMB,
    EPSILON,
    FINITE,
    FIRST_FINITE,
    LEARNED,
    RATE,
    ROWS,
)

ADAGRAD = tl.constexpr(1)
ADAM = tl.constexpr(2)
"""Base rules, as in :mod:`~stream_ctr.learners.compiled.workspace`; 0 is SGD."""


@triton.jit(do_not_specialize=["slots", "fields", "width", "spare"])
def ascend(
    x: tl.tensor,
    g: tl.tensor,
    x_second: tl.tensor,
    sums: tl.tensor,
    state: tl.tensor,
    event: tl.tensor,
    numbers: tl.tensor,
    members: tl.tensor,
    field_slots: tl.tensor,
    slots: tl.tensor,
    fields: tl.tensor,
    width: tl.tensor,
    spare: tl.tensor,
    rho_rows: tl.constexpr,
    rho_dense: tl.constexpr,
    xi: tl.constexpr,
    warm_up: tl.constexpr,
    sam: tl.constexpr,
    table_norm: tl.constexpr,
    global_norm: tl.constexpr,
    smallest: tl.constexpr,
    largest: tl.constexpr,
    mean: tl.constexpr,
    most: tl.constexpr,
    layers: tl.constexpr,
    f_block: tl.constexpr,
    k_block: tl.constexpr,
) -> None:
    """Write c of the dense perturbation and x_0 of the second pass (Helen eq. 7, 8 and algorithm 1, or SAM).

    Each row moves by a factor times its gradient. All rows of a field have the same gradient, so x_0 moves by
    this gradient times the sum or mean of the factors. Grid: one program.
    """
    kind = x.dtype.element_ty
    dense, of_rows = squared_norms(sums, g, members, fields, width, mean, layers, f_block, k_block)
    finite = (dense <= largest) & (of_rows <= largest)
    tl.store(state + FIRST_FINITE, finite.to(tl.float64))
    at = tl.load(event + AT)
    share = (tl.load(event + LEARNED) + 1).to(tl.float64) * 0.0 + 1.0
    if warm_up > 0:
        share = tl.minimum(tl.load(event + LEARNED).to(tl.float64) / warm_up, 1.0)
    norm = dense
    if global_norm:
        norm += of_rows
    tl.store(state + CLIMB, over_root(rho_dense * share, norm, smallest))
    k = tl.arange(0, k_block)
    for first in range(0, fields, f_block):
        f = first + tl.arange(0, f_block)
        own, count = row_gradient(g, members, f, k, fields, width, mean)
        square = tl.sum(own.to(tl.float64) * own.to(tl.float64), 1)
        if sam:
            square = square * 0.0 + of_rows + dense
        elif table_norm:
            square *= count
        factor = tl.zeros((f_block,), tl.float64)
        for m in range(most):
            slot = tl.load(field_slots + f * most + m, mask=f < fields, other=-1)
            row = tl.load(event + ROWS + slot, mask=slot >= 0, other=spare)
            ratio = tl.load(numbers + at * (slots + 2) + slot, mask=row != spare, other=0.0)
            bound = tl.full((f_block,), xi, tl.float64)  # a plain number would be single precision
            radius = tl.maximum(ratio.to(tl.float64), bound) * rho_rows * share
            if sam:
                radius = radius * 0.0 + rho_rows * share
            factor += tl.where(row != spare, over_root(radius, square, smallest), 0.0)
        if mean:
            factor = factor / tl.maximum(count, 1.0)
        place = f[:, None] * width + k[None, :]
        inside = (f < fields)[:, None] & (k < width)[None, :]
        x_0 = tl.load(x + place, mask=inside, other=0.0)
        tl.store(x_second + place, x_0 + factor.to(kind)[:, None] * own, mask=inside)


@triton.jit
def corrected(
    rate: tl.constexpr,
    epsilon: tl.constexpr,
    log_beta_1: tl.constexpr,
    log_beta_2: tl.constexpr,
    step: tl.tensor,
    rule: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor]:
    """Learning rate and epsilon of a step; Adam multiplies both sides of its fraction by sqrt(c2)."""
    number = step.to(tl.float64)
    wide_rate = number * 0.0 + rate
    wide_epsilon = number * 0.0 + epsilon
    if rule == ADAM:
        root_2 = tl.sqrt(1.0 - tl.exp(number * log_beta_2))
        wide_rate = root_2 * rate / (1.0 - tl.exp(number * log_beta_1))
        wide_epsilon = root_2 * epsilon
    return wide_rate, wide_epsilon


@triton.jit(do_not_specialize=["fields", "width"])
def finish(
    sums: tl.tensor,
    g: tl.tensor,
    members: tl.tensor,
    state: tl.tensor,
    event: tl.tensor,
    learned: tl.tensor,
    cursor: tl.tensor,
    skipped: tl.tensor,
    fields: tl.tensor,
    width: tl.tensor,
    largest: tl.constexpr,
    second: tl.constexpr,
    rate: tl.constexpr,
    epsilon: tl.constexpr,
    log_beta_1: tl.constexpr,
    log_beta_2: tl.constexpr,
    rule: tl.constexpr,
    mean: tl.constexpr,
    layers: tl.constexpr,
    f_block: tl.constexpr,
    k_block: tl.constexpr,
) -> None:
    """Decide whether the update is applied; advance count and cursor, set the flag. Grid: one program.

    Values that this kernel overwrites are read from the copies in ``event``, so no value is read after it may
    have changed.
    """
    dense, of_rows = squared_norms(sums, g, members, fields, width, mean, layers, f_block, k_block)
    finite = (dense <= largest) & (of_rows <= largest)
    if second:
        finite = finite & (tl.load(state + FIRST_FINITE) > 0.0)
    at = tl.load(event + AT)
    now = tl.load(event + LEARNED) + finite.to(tl.int64)
    tl.store(event + FINITE, finite.to(tl.int64))
    tl.store(learned, now)
    tl.store(cursor, at + 1)
    tl.store(skipped + at, finite == 0)
    wide_rate, wide_epsilon = corrected(rate, epsilon, log_beta_1, log_beta_2, now, rule)
    tl.store(state + RATE, wide_rate)
    tl.store(state + EPSILON, wide_epsilon)


@triton.jit
def stepped(
    w: tl.tensor,
    mean: tl.tensor,
    square: tl.tensor,
    place: tl.tensor,
    g: tl.tensor,
    inside: tl.tensor,
    rate: tl.tensor,
    epsilon: tl.tensor,
    rule: tl.constexpr,
    beta_1: tl.constexpr,
    beta_2: tl.constexpr,
    largest: tl.constexpr,
    every: tl.constexpr,
) -> None:
    """One step of a base rule for the numbers at ``place`` under ``g``; see :mod:`stream_ctr.optim.rules`.

    Without ``every``, numbers whose gradient is 0 are neither read nor written.
    """
    if not every:
        inside = inside & (g != 0.0)
    w_old = tl.load(w + place, mask=inside, other=0.0)
    if rule == ADAM:
        m_old = tl.load(mean + place, mask=inside, other=0.0)
        v_old = tl.load(square + place, mask=inside, other=0.0)
        m = m_old + (1.0 - beta_1) * (g - m_old)
        v = v_old * beta_2 + (1.0 - beta_2) * (g * g)
        tl.store(mean + place, m, mask=inside)
        tl.store(square + place, v, mask=inside)
        change = rate * m / (tl.sqrt(v) + epsilon)
    elif rule == ADAGRAD:
        a = tl.load(square + place, mask=inside, other=0.0) + g * g
        a = tl.where(a < largest, a, largest)
        tl.store(square + place, a, mask=inside)
        change = rate * g / (tl.sqrt(a) + epsilon)
    else:
        change = rate * g
    tl.store(w + place, w_old - change, mask=inside)


@triton.jit
def update_dense(
    w: tl.tensor,
    mean: tl.tensor,
    square: tl.tensor,
    tiles: tl.tensor,
    run: tl.tensor,
    state: tl.tensor,
    event: tl.tensor,
    rule: tl.constexpr,
    beta_1: tl.constexpr,
    beta_2: tl.constexpr,
    largest: tl.constexpr,
    every: tl.constexpr,
    o_block: tl.constexpr,
    k_block: tl.constexpr,
) -> None:
    """Update one tile of one dense parameter; its gradient d x^T is computed here and never stored.

    ``tiles`` int64 [T, 6] holds, for each tile, its offset in ``w``, the row length of its matrix, its rows
    and columns, and the offsets of d and x in ``run``. Grid: T programs.
    """
    kind = w.dtype.element_ty
    if tl.load(event + FINITE) != 0:
        tile = tiles + tl.program_id(0) * 6
        begin, stride = tl.load(tile), tl.load(tile + 1)
        rows, columns = tl.load(tile + 2), tl.load(tile + 3)
        o, k = tl.arange(0, o_block), tl.arange(0, k_block)
        d = tl.load(run + tl.load(tile + 4) + o, mask=o < rows, other=0.0)
        x = tl.load(run + tl.load(tile + 5) + k, mask=k < columns, other=0.0)
        place = begin + o[:, None] * stride + k[None, :]
        inside = (o < rows)[:, None] & (k < columns)[None, :]
        rate, epsilon = tl.load(state + RATE).to(kind), tl.load(state + EPSILON).to(kind)
        g = d[:, None] * x[None, :]
        stepped(w, mean, square, place, g, inside, rate, epsilon, rule, beta_1, beta_2, largest, every)


@triton.jit(do_not_specialize=["width", "spare"])
def update_rows(
    w: tl.tensor,
    mean: tl.tensor,
    square: tl.tensor,
    step: tl.tensor,
    touched: tl.tensor,
    before: tl.tensor,
    g: tl.tensor,
    members: tl.tensor,
    slot_field: tl.tensor,
    event: tl.tensor,
    width: tl.tensor,
    spare: tl.tensor,
    rate: tl.constexpr,
    epsilon: tl.constexpr,
    log_beta_1: tl.constexpr,
    log_beta_2: tl.constexpr,
    l2: tl.constexpr,
    rule: tl.constexpr,
    beta_1: tl.constexpr,
    beta_2: tl.constexpr,
    largest: tl.constexpr,
    every: tl.constexpr,
    shared: tl.constexpr,
    k_block: tl.constexpr,
) -> None:
    """Update the row of one slot, with the L2 penalty since its last touch. Grid: the S slots.

    A negative time of the last touch marks a row that was initialised in this chunk; see
    :class:`~stream_ctr.learners.cuda.step.CursorStep`.
    """
    kind = w.dtype.element_ty
    slot = tl.program_id(0)
    row = tl.load(event + ROWS + slot)
    if (tl.load(event + FINITE) != 0) & (row != spare):
        f, k = tl.load(slot_field + slot), tl.arange(0, k_block)
        inside = k < width
        own = tl.load(g + f * width + k, mask=inside, other=0.0)
        if shared:
            own = own / tl.load(members + f)
        now = tl.load(event + LEARNED) + 1
        if l2 > 0.0:
            last = tl.load(touched + row)
            last = tl.where(last < 0, tl.load(before + tl.maximum(-1 - last, 0)), last)
            w_old = tl.load(w + row * width + k, mask=inside, other=0.0)
            # computed as one product: l2 times the steps since the last touch, in the weights' type
            due = ((now - last).to(tl.float64) * l2).to(kind)
            own += due * w_old
            tl.debug_barrier()  # all threads must read the time before one of them writes it
            tl.store(touched + row, now)
        count = now * 0
        if rule == ADAM:
            count = tl.load(step + row) + 1
            tl.debug_barrier()
            tl.store(step + row, count)
        wide_rate, wide_epsilon = corrected(rate, epsilon, log_beta_1, log_beta_2, count, rule)
        rate_k, epsilon_k = wide_rate.to(kind), wide_epsilon.to(kind)
        place = row * width + k
        stepped(
            w, mean, square, place, own, inside, rate_k, epsilon_k, rule, beta_1, beta_2, largest, every
        )  # fmt: skip
