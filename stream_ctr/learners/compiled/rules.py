"""Compiled base rules: one step of the dense parameters, and one of the rows of an event.

Definitions and constants are those of :mod:`stream_ctr.optim.rules`.
"""

from __future__ import annotations

import math

import numpy as np

from stream_ctr.kernels.decorators import fast_leaf, fast_part, finite_part
from stream_ctr.learners.compiled.moments import (
    closed_mean,
    closed_square,
    next_weyl,
    opened,
    started,
    weyl_at,
)
from stream_ctr.learners.compiled.workspace import (
    ADAGRAD,
    ADAM,
    BETA,
    BIAS,
    SCALE,
    SGD,
    SKIP,
    TOWER,
    Floats,
    Ints,
    Method,
    Moments,
    Number,
    Parameters,
    Pass,
    RulePlan,
    Scratch,
    Shape,
    Table,
)
from stream_ctr.optim.moments import ROWS, rounding_key


@finite_part
def _divide(a: Number, b: Number) -> Number:
    """a / b by a reciprocal estimate and a Newton step; a full division would be the bottleneck of a step."""
    return a / b


@fast_leaf
def _corrected(rule: RulePlan, step: int) -> tuple[Number, Number]:
    """Learning rate and epsilon of this step; Adam multiplies both sides of its fraction by sqrt(c2)."""
    if rule.kind != ADAM:
        return rule.rate, rule.epsilon
    root_2 = math.sqrt(1.0 - rule.beta_2 ** float(step))
    return rule.rate * root_2 / (1.0 - rule.beta_1 ** float(step)), rule.epsilon * root_2


@fast_leaf
def _adam(
    w: Floats,
    mean: Moments,
    square: Moments,
    at: np.uint64,
    d: Number,
    x: Floats,
    rate: Number,
    epsilon: Number,
    rule: RulePlan,
    key: np.uint32,
) -> None:
    """m <- m + (1 - b1)(g - m);  v <- b2 v + (1 - b2) g^2;  w <- w - rate m / (sqrt(v) + eps).

    Updates x.size numbers from offset ``at`` on, whose gradient is g = d x. The offset is unsigned: a check
    for negative indices would prevent vectorisation.
    """
    kind = w.dtype.type
    rise_1, keep_2, rise_2 = kind(1.0 - rule.beta_1), kind(rule.beta_2), kind(1.0 - rule.beta_2)
    weyl, every = weyl_at(key, at), not rule.skip
    for i in range(x.size):
        k = at + np.uint64(i)
        g = d * x[i]
        m_old, v_old = kind(opened(mean[k])), kind(opened(square[k]))
        m = m_old + rise_1 * (g - m_old)
        v = v_old * keep_2 + rise_2 * (g * g)
        if every or g != 0:
            mean[k] = closed_mean(m, mean, weyl)
            square[k] = closed_square(v, square, weyl)
            w[k] -= _divide(rate * m, np.sqrt(v) + epsilon)
        weyl = next_weyl(weyl)


@fast_leaf
def _adagrad(
    w: Floats,
    square: Moments,
    at: np.uint64,
    d: Number,
    x: Floats,
    rate: Number,
    epsilon: Number,
    largest: Number,
    key: np.uint32,
) -> None:
    """a <- a + g^2;  w <- w - rate g / (sqrt(a) + eps), g = d x; a saturates at ``largest``."""
    kind, weyl = w.dtype.type, weyl_at(key, at)
    for i in range(x.size):
        k = at + np.uint64(i)
        g = d * x[i]
        a = kind(opened(square[k])) + g * g
        a = a if a < largest else largest
        square[k] = closed_square(a, square, weyl)
        w[k] -= _divide(rate * g, np.sqrt(a) + epsilon)
        weyl = next_weyl(weyl)


@fast_leaf
def _sgd(w: Floats, at: np.uint64, d: Number, x: Floats, rate: Number) -> None:
    """w <- w - rate g, g = d x."""
    for i in range(x.size):
        w[at + np.uint64(i)] -= rate * (d * x[i])


@fast_part
def _update_outer(
    dense: Parameters,
    at: int,
    d: Floats,
    x: Floats,
    rate: Number,
    epsilon: Number,
    rule: RulePlan,
    largest: Number,
    key: np.uint32,
) -> None:
    """One step of the matrix [d, x] at offset ``at``, whose gradient is d x^T.

    Rows of inactive units are skipped, except by Adam without ``rule.skip``, which also moves weights whose
    gradient is 0.
    """
    w, mean, square = dense.weight, dense.mean, dense.square
    for o in range(d.size):
        row = np.uint64(at + o * x.size)
        if d[o] == 0 and (rule.skip or rule.kind != ADAM):
            continue
        if rule.kind == ADAM:
            _adam(w, mean, square, row, d[o], x, rate, epsilon, rule, key)
        elif rule.kind == ADAGRAD:
            _adagrad(w, square, row, d[o], x, rate, epsilon, largest, key)
        else:
            _sgd(w, row, d[o], x, rate)


@fast_leaf
def _put(out: Floats, at: int, d: Number, x: Floats) -> None:
    """Write the gradient d x of a vector parameter to ``out`` at offset ``at``."""
    for k in range(x.size):
        out[at + k] = d * x[k]


@fast_part
def update_dense(
    dense: Parameters,
    shape: Shape,
    run: Pass,
    rule: RulePlan,
    step: int,
    scratch: Scratch,
    largest: Number,
    turn: int,
) -> None:
    """One step of the base rule for every dense parameter, under the gradients in ``run``.

    ``turn`` is the kind of places of :mod:`stream_ctr.optim.moments`: DENSE, or SECOND_TURN in a replay.
    Vector parameters, most of which are short, are contiguous and are updated together.
    """
    kind, layers, one = dense.weight.dtype.type, shape.place.shape[0], scratch.one
    wide_rate, wide_epsilon = _corrected(rule, step)
    rate, epsilon, most = kind(wide_rate), kind(wide_epsilon), kind(largest)
    key = np.uint32(rounding_key(rule.seed, step, turn))
    below = slice(shape.start[0], shape.start[0] + shape.width[0])
    vectors, place = scratch.vectors, shape.place
    first = dense.weight.size - vectors.size
    for i in range(layers):
        here = slice(shape.start[i + 1], shape.start[i + 1] + shape.width[i + 1])
        d = run.d[here]
        _update_outer(dense, place[i, TOWER], d, run.x[below], rate, epsilon, rule, most, key)
        _put(vectors, place[i, BIAS] - first, one[0], d)
        if shape.sml:
            e = run.e[here] if shape.units else run.e[here][:1]
            _update_outer(dense, place[i, SCALE], e, run.x[here], rate, epsilon, rule, most, key)
            _put(vectors, place[i, BETA] - first, one[0], e)
            _put(vectors, place[i, SKIP] - first, run.z[0], run.t[here])
        below = here
    _put(vectors, shape.output[0] - first, run.z[0], run.x[below])
    _put(vectors, shape.output[1] - first, run.z[0], one)
    _update_outer(dense, first, one, vectors, rate, epsilon, rule, most, key)


@fast_part
def update_rows(
    table: Table,
    shape: Shape,
    run: Pass,
    rows: Ints,
    rule: RulePlan,
    method: Method,
    now: int,
    scratch: Scratch,
) -> None:
    """One step of the base rule for the rows of an event, with the L2 penalty since each row's last touch."""
    kind, one, g, w = table.weight.dtype.type, scratch.one[0], scratch.row, table.weight
    key = np.uint32(rounding_key(rule.seed, now, ROWS))
    for s in range(rows.size):
        row = rows[s]
        if row < 0:
            continue
        at, field = np.uint64(row * g.size), shape.slot_field[s] * g.size
        for k in range(g.size):
            g[k] = run.g[field + k]
        if method.l2 > 0.0:
            due = kind(method.l2) * kind(now - table.touched[row])
            for k in range(g.size):
                g[k] += due * w[at + np.uint64(k)]
            table.touched[row] = now
        step = 0
        if rule.kind == ADAM:
            step = table.step[row] + 1
            table.step[row] = step
        wide_rate, wide_epsilon = _corrected(rule, step)
        rate, epsilon = kind(wide_rate), kind(wide_epsilon)
        if rule.kind == ADAM:
            _adam(w, table.mean, table.square, at, one, g, rate, epsilon, rule, key)
        elif rule.kind == ADAGRAD:
            _adagrad(w, table.square, at, one, g, rate, epsilon, kind(method.largest), key)
        else:
            _sgd(w, at, one, g, rate)


@fast_part
def start_row(table: Table, row: int, values: Floats, rule: RulePlan, now: int) -> None:
    """Initialise a row with ``values`` [D], as if last touched at event ``now``."""
    at = row * values.size
    for k in range(values.size):
        table.weight[at + k] = values[k]
        if rule.kind == ADAM:
            table.mean[at + k] = started(rule.initial, table.mean)
        if rule.kind != SGD:
            table.square[at + k] = started(rule.initial, table.square)
    table.step[row] = 0
    table.touched[row] = now
