"""Compiled replay of past events; :mod:`stream_ctr.learners.revisit` describes the method."""

from __future__ import annotations

import math

from stream_ctr.kernels.decorators import fast_part
from stream_ctr.learners.compiled.moments import opened
from stream_ctr.learners.compiled.passes import share_fields
from stream_ctr.learners.compiled.workspace import (
    ADAGRAD,
    Floats,
    Ints,
    Number,
    Pass,
    Past,
    RulePlan,
    Scratch,
    Shape,
    Table,
)


@fast_part
def keep_rows(table: Table, past: Past, at: int, rows: Ints, width: int) -> None:
    """Before the step of an event: record its rows and their values."""
    trace = past.trace[at]
    for s in range(rows.size):
        past.rows[at, s] = rows[s]
        for k in range(width):
            trace[s, k] = table.weight[rows[s] * width + k] if rows[s] >= 0 else 0


@fast_part
def keep_steps(table: Table, past: Past, at: int, width: int) -> None:
    """After the step of an event: replace the recorded values by what the step added to each row."""
    trace = past.trace[at]
    for s in range(trace.shape[0]):
        row = past.rows[at, s]
        if row >= 0:
            for k in range(width):
                trace[s, k] = table.weight[row * width + k] - trace[s, k]


@fast_part
def gather_past(
    table: Table, past: Past, at: int, number: int, shape: Shape, scratch: Scratch, x: Floats
) -> None:
    """x_0 of past event ``number`` without its own steps, and the number of rows of each field.

    A row that was initialised since then belongs to another key: its slot counts as empty.
    """
    width, members, trace = scratch.row.size, scratch.members, past.trace[at]
    x[: shape.width[0]] = 0
    members[:] = 0
    for s in range(trace.shape[0]):
        row = past.rows[at, s]
        if row >= 0 and table.touched[row] > number:
            row = past.rows[at, s] = -1
        if row < 0:
            continue
        field = shape.slot_field[s]
        members[field] += 1
        for k in range(width):
            x[field * width + k] += table.weight[row * width + k] - trace[s, k]
    if shape.mean:
        share_fields(x, members, width)


@fast_part
def renew_rows(
    table: Table, past: Past, at: int, shape: Shape, run: Pass, rule: RulePlan, part: Number
) -> None:
    """w_k <- w_k + part (s_k - d_k): move each row's old step towards the new one."""
    kind, trace = table.weight.dtype.type, past.trace[at]
    width = trace.shape[1]
    rate, epsilon, share = kind(rule.rate), kind(rule.epsilon), kind(part)
    for s in range(trace.shape[0]):
        row = past.rows[at, s]
        if row < 0:
            continue
        field = shape.slot_field[s] * width
        for k in range(width):
            step = -rate * run.g[field + k]
            if rule.kind == ADAGRAD:
                step /= math.sqrt(opened(table.square[row * width + k])) + epsilon
            table.weight[row * width + k] += share * (step - trace[s, k])


@fast_part
def scale_pass(run: Pass, part: Number) -> None:
    """Multiply the gradients of the dense parameters by ``part``."""
    share = run.z.dtype.type(part)
    run.z[0] *= share
    for k in range(run.d.size):
        run.d[k] *= share
        run.e[k] *= share
