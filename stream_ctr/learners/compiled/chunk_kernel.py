"""Compiled kernels that learn a chunk of events, one after the other, with their row changes."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from stream_ctr.kernels.decorators import fast_kernel, fast_part
from stream_ctr.learners.compiled.passes import (
    backward,
    dense_square,
    forward,
    logit_gradient,
    share_fields,
    square,
)
from stream_ctr.learners.compiled.revisit import gather_past, keep_rows, keep_steps, renew_rows, scale_pass
from stream_ctr.learners.compiled.rules import start_row, update_dense, update_rows
from stream_ctr.learners.compiled.workspace import (
    Chunk,
    Floats,
    Ints,
    Method,
    Number,
    Pass,
    Scratch,
    Shape,
    Workspace,
)
from stream_ctr.optim.moments import DENSE, SECOND_TURN

Probabilities = NDArray[np.float32]


@fast_part
def gather(
    rows: Ints, shape: Shape, table: Floats, scratch: Scratch, g: Floats, moved: bool, x: Floats
) -> None:
    """Pool the rows into ``x`` = x_0 and count the rows of each field; ``moved``: use w + c g of each row."""
    width, factor, members = scratch.row.size, scratch.factor, scratch.members
    x[: shape.width[0]] = 0
    members[:] = 0
    for s in range(rows.size):
        row = rows[s]
        if row < 0:
            continue
        at, begin = shape.slot_field[s] * width, row * width
        members[shape.slot_field[s]] += 1
        if moved and factor[s] != 0:
            for k in range(width):
                x[at + k] += table[begin + k] + factor[s] * g[at + k]
        else:
            for k in range(width):
                x[at + k] += table[begin + k]
    if shape.mean:
        share_fields(x, members, width)


@fast_part
def _predicted(ws: Workspace, rows: Ints, run: Pass, c: Number, moved: bool) -> Number:
    """Probability of one event; ``c`` and ``moved`` perturb weights and rows along the first gradients."""
    table, w, first = ws.table.weight, ws.dense.weight, ws.first
    gather(rows, ws.shape, table, ws.scratch, first.g, moved, run.x)
    return w.dtype.type(1.0 / (1.0 + math.exp(-float(forward(w, ws.shape, run, c, first)))))


@fast_part
def differentiate(
    ws: Workspace, run: Pass, c: Number, p: Number, label: Number, weight: Number
) -> tuple[Number, Number]:
    """Write gradients of the weighted log loss to ``run``; returns the squared norms (dense, rows)."""
    w, scratch, width = ws.dense.weight, ws.scratch, ws.scratch.row.size
    kind, method = w.dtype.type, ws.method
    run.z[0] = kind(logit_gradient(float(p), float(label), method.policy, method.keep)) * kind(weight)
    backward(w, ws.shape, run, c, ws.first, scratch.live)
    if ws.shape.mean:
        share_fields(run.g, scratch.members, width)
    total = 0.0
    for field in range(scratch.members.size):
        scratch.square[field] = 0.0
        if scratch.members[field] > 0:
            scratch.square[field] = square(run.g[field * width : (field + 1) * width])
            total += scratch.members[field] * scratch.square[field]
    return dense_square(ws.shape, run), total


@fast_part
def over_root(radius: Number, norm: Number, method: Method) -> Number:
    """radius / sqrt(norm) for a squared norm; 0 if ``norm`` is below the smallest normal number."""
    return radius / math.sqrt(norm) if norm >= method.smallest else 0.0


@fast_part
def row_factors(ws: Workspace, share: Number, rows: Ints, ratio: NDArray[np.float32], total: Number) -> bool:
    """Set c of eps = c g for the row of each slot (Helen eq. 7, 8); returns whether any c is not 0."""
    method, scratch, slot_field = ws.method, ws.scratch, ws.shape.slot_field
    radius, moved, factor = method.rho_rows * share, False, scratch.factor
    for s in range(rows.size):
        factor[s] = 0
        if rows[s] < 0 or radius == 0.0:
            continue
        if method.sam:
            factor[s] = over_root(radius, total, method)
        else:
            norm = scratch.square[slot_field[s]]
            if method.table_norm:
                norm *= scratch.members[slot_field[s]]
            factor[s] = over_root(radius * max(float(ratio[s]), method.xi), norm, method)
        moved = moved or factor[s] != 0
    return moved


@fast_part
def _step(ws: Workspace, chunk: Chunk, b: int, learned: int) -> tuple[Number, bool]:
    """Learn event b; returns its probability before the update, and whether the update was finite."""
    method, kind = ws.method, ws.dense.weight.dtype.type
    rows, label, weight = chunk.rows[b], chunk.label[b], chunk.weight[b]
    run, zero = ws.first, kind(0.0)
    p = _predicted(ws, rows, run, zero, False)
    of_dense, of_rows = differentiate(ws, run, zero, p, label, weight)
    if not (of_dense <= method.largest and of_rows <= method.largest):
        return p, False
    if method.rho_rows > 0.0 or method.rho_dense > 0.0:
        share = 1.0 if learned >= method.warm_up else learned / method.warm_up
        norm = of_dense + of_rows if method.global_norm else of_dense
        c = kind(over_root(method.rho_dense * share, norm, method))
        moved = row_factors(ws, share, rows, chunk.ratio[b], of_dense + of_rows)
        if moved or c != 0:  # otherwise the second pass would repeat the first
            run = ws.second
            p_2 = _predicted(ws, rows, run, c, moved)
            of_dense, of_rows = differentiate(ws, run, c, p_2, label, weight)
            if not (of_dense <= method.largest and of_rows <= method.largest):
                return p, False
    now = learned + 1
    if method.revisit_after > 0:
        at = learned % method.revisit_after
        ws.past.label[at], ws.past.weight[at] = label, weight
        keep_rows(ws.table, ws.past, at, rows, ws.scratch.row.size)
    update_dense(ws.dense, ws.shape, run, ws.dense_rule, now, ws.scratch, method.largest, DENSE)
    update_rows(ws.table, ws.shape, run, rows, ws.row_rule, method, now, ws.scratch)
    if method.revisit_after > 0:
        keep_steps(ws.table, ws.past, learned % method.revisit_after, ws.scratch.row.size)
        _revisit(ws, now)
    return p, True


@fast_part
def _revisit(ws: Workspace, now: int) -> None:
    """Replay the event that was learned ``revisit_after`` events ago, if its gradients are finite."""
    method, past, run, zero = ws.method, ws.past, ws.first, ws.dense.weight.dtype.type(0.0)
    number = now - method.revisit_after
    if number < 0:
        return
    at = number % method.revisit_after
    gather_past(ws.table, past, at, number, ws.shape, ws.scratch, run.x)
    z = float(forward(ws.dense.weight, ws.shape, run, zero, run))
    p = ws.dense.weight.dtype.type(1.0 / (1.0 + math.exp(-z)))
    of_dense, of_rows = differentiate(ws, run, zero, p, past.label[at], past.weight[at])
    if not (of_dense <= method.largest and of_rows <= method.largest):
        return
    renew_rows(ws.table, past, at, ws.shape, run, ws.row_rule, method.revisit_rows)
    if method.revisit_dense > 0.0:
        scale_pass(run, method.revisit_dense)
        update_dense(ws.dense, ws.shape, run, ws.dense_rule, now, ws.scratch, method.largest, SECOND_TURN)


@fast_kernel
def learn_chunk(
    ws: Workspace, chunk: Chunk, learned: int, probability: Probabilities, skipped: NDArray[np.bool_]
) -> int:
    """Learn a chunk after ``learned`` earlier updates; returns the new number of updates.

    Row changes are applied just before their event. A non-finite update changes no bit and is flagged.
    Writes probability float32 [B] and skipped bool [B].
    """
    zero = ws.dense.weight.dtype.type(0.0)
    for b in range(chunk.rows.shape[0]):
        for k in range(chunk.first[b], chunk.first[b + 1]):
            start_row(ws.table, chunk.changed[k], chunk.values[k], ws.row_rule, learned)
        if chunk.learns[b]:
            p, done = _step(ws, chunk, b, learned)
            probability[b] = p
            skipped[b] = not done
            learned += done
        elif chunk.scores[b]:
            probability[b] = _predicted(ws, chunk.rows[b], ws.first, zero, False)
        else:
            probability[b] = np.nan
    return learned


@fast_kernel
def predict_rows(ws: Workspace, rows: Ints, probability: Probabilities) -> None:
    """Probabilities float32 [B] of rows int64 [B, S]; changes only scratch space."""
    zero = ws.dense.weight.dtype.type(0.0)
    for b in range(rows.shape[0]):
        probability[b] = _predicted(ws, rows[b], ws.first, zero, False)
