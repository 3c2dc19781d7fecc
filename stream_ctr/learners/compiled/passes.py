"""Forward and backward pass of the deep network with Skip Meta Logit, compiled, one event at a time.

At batch size 1 the gradient of a matrix is an outer product d x^T, so the perturbed matrix W + c d x^T need
not be stored. With x' the input of the second pass and d' its gradient,

    (W + c d x^T) x'    = W x' + c d (x . x')
    (W + c d x^T)^T d'  = W^T d' + c x (d . d')
    ||d x^T||^2         = ||d||^2 ||x||^2

All functions work for any floating type; names as in :mod:`~stream_ctr.learners.compiled.workspace`.

The gradient of a label policy's loss is compiled from the definitions in
:mod:`stream_ctr.config.label_policy`.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from stream_ctr.config.label_policy import POLICIES
from stream_ctr.kernels.decorators import fast_part
from stream_ctr.learners.compiled.workspace import (
    BETA,
    BIAS,
    SCALE,
    SKIP,
    TOWER,
    Floats,
    Ints,
    Number,
    Pass,
    Shape,
)

FAST: Final = POLICIES.index("fast")
FNW: Final = POLICIES.index("fnw")


@fast_part
def dot(a: Floats, b: Floats) -> Number:
    """a . b of two vectors of equal length."""
    total = a.dtype.type(0.0)
    for i in range(a.size):
        total += a[i] * b[i]
    return total


@fast_part
def square(a: Floats) -> Number:
    """||a||^2 in double precision, which single-precision elements cannot overflow."""
    total = 0.0
    for i in range(a.size):
        total += float(a[i]) * float(a[i])
    return total


@fast_part
def tanh(x: Floats, out: Floats) -> None:
    """tanh of a vector: [n] -> [n]; accurate to 4 ulp in single precision, NaN stays NaN.

    The rational function is that of Eigen (``generic_fast_tanh_float``). Unlike the library function it
    vectorises. Beyond 7.9 tanh is 1 within single precision.
    """
    if x.itemsize > 4:
        for k in range(x.size):
            out[k] = math.tanh(x[k])
        return
    kind = x.dtype.type
    end = kind(7.90531110763549805)
    for k in range(x.size):
        a = x[k]
        a = end if a > end else a
        a = -end if a < -end else a
        b = a * a
        p = b * kind(-2.76076847742355e-16) + kind(2.00018790482477e-13)
        p = b * p + kind(-8.60467152213735e-11)
        p = b * p + kind(5.12229709037114e-08)
        p = b * p + kind(1.48572235717979e-05)
        p = b * p + kind(6.37261928875436e-04)
        p = b * p + kind(4.89352455891786e-03)
        q = b * kind(1.19825839466702e-06) + kind(1.18534705686654e-04)
        q = b * q + kind(2.26843463243900e-03)
        q = b * q + kind(4.89352518554385e-03)
        out[k] = a * p / q


@fast_part
def times(w: Floats, at: int, x: Floats, out: Floats) -> None:
    """W x for W [out, x] at offset ``at`` of w; four rows at a time share the loads of x."""
    n, rows = x.size, out.size
    for o in range(0, rows - 3, 4):
        # unsigned: a check for negative indices would stop vectorisation
        o_0, o_1 = np.uint64(at + o * n), np.uint64(at + (o + 1) * n)
        o_2, o_3 = np.uint64(at + (o + 2) * n), np.uint64(at + (o + 3) * n)
        a = b = c = d = w.dtype.type(0.0)
        for i in range(n):
            k = np.uint64(i)
            a += w[o_0 + k] * x[i]
            b += w[o_1 + k] * x[i]
            c += w[o_2 + k] * x[i]
            d += w[o_3 + k] * x[i]
        out[o], out[o + 1], out[o + 2], out[o + 3] = a, b, c, d
    for o in range(rows // 4 * 4, rows):
        out[o] = dot(w[at + o * n : at + (o + 1) * n], x)


@fast_part
def transposed_times(w: Floats, at: int, d: Floats, live: Ints, out: Floats) -> None:
    """W^T d for W [d, out] at offset ``at`` of w; rows of units without a gradient are not read."""
    n, lives = out.size, 0
    for o in range(d.size):
        if d[o] != 0:
            live[lives] = o
            lives += 1
    out[:] = 0
    for j in range(0, lives - 3, 4):
        l_0, l_1, l_2, l_3 = live[j], live[j + 1], live[j + 2], live[j + 3]
        d_0, d_1, d_2, d_3 = d[l_0], d[l_1], d[l_2], d[l_3]
        o_0, o_1 = np.uint64(at + l_0 * n), np.uint64(at + l_1 * n)
        o_2, o_3 = np.uint64(at + l_2 * n), np.uint64(at + l_3 * n)
        for i in range(n):
            k = np.uint64(i)
            pair = d_0 * w[o_0 + k] + d_1 * w[o_1 + k]
            out[i] += pair + (d_2 * w[o_2 + k] + d_3 * w[o_3 + k])
    for j in range(lives // 4 * 4, lives):
        d_0, o_0 = d[live[j]], np.uint64(at + live[j] * n)
        for i in range(n):
            out[i] += d_0 * w[o_0 + np.uint64(i)]


@fast_part
def share_fields(x: Floats, members: Ints, width: int) -> None:
    """Divide the numbers of each field by its number of rows."""
    for field in range(members.size):
        if members[field] > 1:
            for k in range(field * width, (field + 1) * width):
                x[k] /= x.dtype.type(members[field])


@fast_part
def units(shape: Shape, i: int) -> slice:
    """The slice of layer i in a vector of units."""
    return slice(shape.start[i], shape.start[i] + shape.width[i])


@fast_part
def _climbed(weight: Number, c: Number, gradient: Number) -> Number:
    """weight + c * gradient; the weight alone if c is 0, even if the gradient is not finite."""
    return weight + c * gradient if c != 0 else weight


@fast_part
def forward(w: Floats, shape: Shape, run: Pass, c: Number, old: Pass) -> Number:
    """The logit from x_0 in ``run``, with the weights plus c times the gradients of the pass ``old``."""
    layers, zero, one = shape.place.shape[0], w.dtype.type(0.0), w.dtype.type(1.0)
    logit: Number = zero
    for i in range(layers):
        below, here = units(shape, i), units(shape, i + 1)
        x, out, d = run.x[below], run.x[here], old.d[here]
        times(w, shape.place[i, TOWER], x, out)
        bias = w[shape.place[i, BIAS] : shape.place[i, BIAS] + out.size]
        ascent = c * (one + dot(old.x[below], x)) if c != 0 else c
        for k in range(out.size):
            a = out[k] + _climbed(bias[k], ascent, d[k])
            out[k] = zero if a <= 0 else a  # NaN stays NaN
        if shape.sml:
            logit += _skip_logit(w, shape, i, run, c, old)
    x, x_old = run.x[units(shape, layers)], old.x[units(shape, layers)]
    logit += dot(w[shape.output[0] : shape.output[0] + x.size], x) + w[shape.output[1]]
    if c != 0:
        logit += c * old.z[0] * (one + dot(x_old, x))
    return logit


@fast_part
def _skip_logit(w: Floats, shape: Shape, i: int, run: Pass, c: Number, old: Pass) -> Number:
    """F_(i+1)(x) (Deng et al. eq. 5, 10, 16), with the weights plus c times the gradients of ``old``."""
    here = units(shape, i + 1)
    x, t, e, x_old = run.x[here], run.t[here], old.e[here], old.x[here]
    inner = run.inner[here] if shape.units else run.inner[here][:1]
    times(w, shape.place[i, SCALE], x, inner)
    beta = w[shape.place[i, BETA] : shape.place[i, BETA] + inner.size]
    ascent = c * (w.dtype.type(1.0) + dot(x_old, x)) if c != 0 else c
    for k in range(inner.size):
        inner[k] += _climbed(beta[k], ascent, e[k])
    for k in range(x.size):
        s = inner[k if shape.units else 0]
        t[k] = (s if s > 0 else s * shape.slope) * x[k]
    tanh(t, t)
    logit = dot(w[shape.place[i, SKIP] : shape.place[i, SKIP] + x.size], t)
    if c != 0:
        logit += c * old.z[0] * dot(old.t[here], t)
    return logit


@fast_part
def backward(w: Floats, shape: Shape, run: Pass, c: Number, old: Pass, live: Ints) -> None:
    """Gradients of every layer from that of the logit in ``run.z``; same arguments as :func:`forward`."""
    layers, zero, z = shape.place.shape[0], w.dtype.type(0.0), run.z[0]
    climb = c * old.z[0] if c != 0 else c
    g, x_old = run.g[units(shape, layers)], old.x[units(shape, layers)]
    v = w[shape.output[0] : shape.output[0] + g.size]
    for k in range(g.size):
        g[k] = z * _climbed(v[k], climb, x_old[k])
    for i in range(layers - 1, -1, -1):
        below, here = units(shape, i), units(shape, i + 1)
        if shape.sml:
            _skip_backward(w, shape, i, run, climb, old)
        x, d, g = run.x[here], run.d[here], run.g[here]
        for k in range(x.size):
            d[k] = g[k] if x[k] > 0 else zero
        g, x_old = run.g[below], old.x[below]
        transposed_times(w, shape.place[i, TOWER], d, live, g)
        ascent = c * dot(old.d[here], d) if c != 0 else c
        if ascent != 0:
            for k in range(g.size):
                g[k] += ascent * x_old[k]


@fast_part
def _skip_backward(w: Floats, shape: Shape, i: int, run: Pass, climb: Number, old: Pass) -> None:
    """Add the skip logit's gradient at x to ``run.g`` and set that at beta; none flows through s to x."""
    here = units(shape, i + 1)
    x, inner, t, t_old = run.x[here], run.inner[here], run.t[here], old.t[here]
    e, g = run.e[here], run.g[here]
    skip = w[shape.place[i, SKIP] : shape.place[i, SKIP] + x.size]
    z, one, total = run.z[0], w.dtype.type(1.0), w.dtype.type(0.0)
    for k in range(x.size):
        s = inner[k if shape.units else 0]
        slope = one if s > 0 else shape.slope
        q = z * _climbed(skip[k], climb, t_old[k]) * (one - t[k] * t[k]) * slope
        g[k] += q * s
        if shape.units:
            e[k] = q * x[k]
        else:
            total += q * x[k]
    if not shape.units:
        e[0] = total


@fast_part
def dense_square(shape: Shape, run: Pass) -> Number:
    """Squared norm of the gradient of all dense parameters."""
    layers = shape.place.shape[0]
    total: Number = 0.0
    outputs: Number = 1.0
    for i in range(layers + 1):
        here = units(shape, i)
        x_square = square(run.x[here])
        if i > 0 and shape.sml:
            total += square(run.e[here] if shape.units else run.e[here][:1]) * (1.0 + x_square)
            outputs += square(run.t[here])
        if i < layers:
            total += square(run.d[units(shape, i + 1)]) * (1.0 + x_square)
        else:
            outputs += x_square
    return total + float(run.z[0]) * float(run.z[0]) * outputs


@fast_part
def logit_gradient(p: float, label: float, policy: int, r: float) -> float:
    """dL/dz of one label at p = sigmoid(z): ``LabelLoss.logit_gradient``."""
    if policy == FAST:
        return (p / (p + r) - label) * (1.0 - p)
    if policy != FNW and r == 1.0:
        return p - label
    gradient = p / (p + r * (1.0 - p)) - label
    if policy == FNW:
        return gradient * ((1.0 + p) * (1.0 - p + p * label))
    return gradient
