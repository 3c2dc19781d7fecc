"""The head of the fused step: the logit, its gradient, and the parts of the skip logits in both."""

from __future__ import annotations

import triton
import triton.language as tl

from stream_ctr.learners.cuda.fused.kernel_parts import tanh
from stream_ctr.learners.cuda.fused.pass_kernels import AT, CLIMB

PLAIN = tl.constexpr(0)
FAST = tl.constexpr(1)
FNW = tl.constexpr(2)
THINNED = tl.constexpr(3)
"""Label policies: labels as they arrive, fast, fnw, and labels as they arrive with negatives subsampled."""


@triton.jit
def logit_gradient(p: tl.tensor, label: tl.tensor, policy: tl.constexpr, r: tl.constexpr) -> tl.tensor:
    """dL/dz of one label at p = sigmoid(z): ``LabelLoss.logit_gradient``."""
    if policy == PLAIN:
        gradient = p - label
    elif policy == FAST:
        gradient = (p / (p + r) - label) * (1.0 - p)
    else:
        gradient = p / (p + r * (1.0 - p)) - label
        if policy == FNW:
            gradient = gradient * ((1.0 + p) * (1.0 - p + p * label))
    return gradient


@triton.jit
def skip_units(
    w: tl.tensor,
    x: tl.tensor,
    inner: tl.tensor,
    t_old: tl.tensor,
    climb: tl.tensor,
    u: tl.tensor,
    mine: tl.tensor,
    start: tl.constexpr,
    place: tl.constexpr,
    slope: tl.constexpr,
    per_unit: tl.constexpr,
    second: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor, tl.tensor, tl.tensor, tl.tensor]:
    """x, s, slope of s, tanh(s x) (Deng et al. eq. 5, 10, 16) and logit weight of units ``u`` of a layer.

    The units of the layer start at ``start``; its weights W_i start at ``place`` in ``w``.
    """
    x_u = tl.load(x + start + u, mask=mine, other=0.0)
    raw = tl.load(inner + start + (u if per_unit else u * 0), mask=mine, other=0.0)
    rise = tl.where(raw > 0.0, tl.full(raw.shape, 1.0, raw.dtype), tl.full(raw.shape, slope, raw.dtype))
    s = raw * rise
    skip = tl.load(w + place + u, mask=mine, other=0.0)
    if second:
        skip += climb * tl.load(t_old + start + u, mask=mine, other=0.0)
    return x_u, s, rise, tanh(s * x_u), skip


@triton.jit
def logit_over(
    w: tl.tensor,
    x: tl.tensor,
    inner: tl.tensor,
    t: tl.tensor,
    x_old: tl.tensor,
    t_old: tl.tensor,
    climb: tl.tensor,
    k: tl.tensor,
    starts: tl.constexpr,
    skips: tl.constexpr,
    output: tl.constexpr,
    layers: tl.constexpr,
    slope: tl.constexpr,
    per_unit: tl.constexpr,
    second: tl.constexpr,
    block: tl.constexpr,
) -> tl.tensor:
    """The logit without its bias; also writes ``t`` of all units."""
    total = tl.zeros((block,), x.dtype.element_ty)
    if len(skips) > 0:
        for i in tl.static_range(1, layers + 1):
            for first in range(0, starts[i + 1] - starts[i], block):
                u = first + k
                mine = u < starts[i + 1] - starts[i]
                _, _, _, t_u, skip = skip_units(
                    w, x, inner, t_old, climb, u, mine, starts[i], skips[i - 1], slope, per_unit, second
                )
                tl.store(t + starts[i] + u, t_u, mask=mine)
                total += skip * t_u
    for first in range(0, starts[layers + 1] - starts[layers], block):
        u = first + k
        mine = u < starts[layers + 1] - starts[layers]
        v = tl.load(w + output + u, mask=mine, other=0.0)
        if second:
            v += climb * tl.load(x_old + starts[layers] + u, mask=mine, other=0.0)
        total += v * tl.load(x + starts[layers] + u, mask=mine, other=0.0)
    return tl.sum(total, 0)


@triton.jit
def back_to_skips(
    w: tl.tensor,
    x: tl.tensor,
    inner: tl.tensor,
    e: tl.tensor,
    g: tl.tensor,
    sums: tl.tensor,
    t_old: tl.tensor,
    climb: tl.tensor,
    z: tl.tensor,
    k: tl.tensor,
    starts: tl.constexpr,
    skips: tl.constexpr,
    layers: tl.constexpr,
    slope: tl.constexpr,
    per_unit: tl.constexpr,
    second: tl.constexpr,
    block: tl.constexpr,
) -> tl.tensor:
    """Write ``e`` of all layers and, below the last layer, ``g`` of the skip logits.

    Returns the squared gradient norm of w_i, beta_i and W_i.
    """
    square = tl.zeros((block,), tl.float64)
    for i in tl.static_range(1, layers + 1):
        x_square = 1.0 + tl.load(sums + i)
        layer = tl.zeros((block,), x.dtype.element_ty)
        for first in range(0, starts[i + 1] - starts[i], block):
            u = first + k
            mine = u < starts[i + 1] - starts[i]
            x_u, s, rise, t_u, skip = skip_units(
                w, x, inner, t_old, climb, u, mine, starts[i], skips[i - 1], slope, per_unit, second
            )
            q = z * skip * (1.0 - t_u * t_u)
            of_scale = q * rise * x_u
            of_t = z.to(tl.float64) * t_u.to(tl.float64)
            square += of_t * of_t
            if per_unit:
                tl.store(e + starts[i] + u, of_scale, mask=mine)
                square += of_scale.to(tl.float64) * of_scale.to(tl.float64) * x_square
            else:
                layer += of_scale
            if i < layers:
                tl.store(g + starts[i] + u, q * s, mask=mine)
        if not per_unit:
            of_layer = tl.sum(layer, 0)
            tl.store(e + starts[i], of_layer)
            wide = of_layer.to(tl.float64)
            square += tl.where(k == 0, wide * wide * x_square, 0.0)
    return tl.sum(square, 0)


@triton.jit
def back_to_top(
    w: tl.tensor,
    x: tl.tensor,
    inner: tl.tensor,
    d: tl.tensor,
    g: tl.tensor,
    x_old: tl.tensor,
    t_old: tl.tensor,
    climb: tl.tensor,
    z: tl.tensor,
    k: tl.tensor,
    starts: tl.constexpr,
    skips: tl.constexpr,
    output: tl.constexpr,
    layers: tl.constexpr,
    slope: tl.constexpr,
    per_unit: tl.constexpr,
    second: tl.constexpr,
    block: tl.constexpr,
) -> tl.tensor:
    """Write ``d`` of the last layer, or ``g`` at x_0 without layers; returns v's squared gradient norm."""
    square = tl.zeros((block,), tl.float64)
    for first in range(0, starts[layers + 1] - starts[layers], block):
        u = first + k
        mine = u < starts[layers + 1] - starts[layers]
        x_u = tl.load(x + starts[layers] + u, mask=mine, other=0.0)
        v = tl.load(w + output + u, mask=mine, other=0.0)
        if second:
            v += climb * tl.load(x_old + starts[layers] + u, mask=mine, other=0.0)
        of_output = z.to(tl.float64) * x_u.to(tl.float64)
        square += of_output * of_output
        at_x = z * v
        if len(skips) > 0:
            _, s, _, t_u, skip = skip_units(
                w, x, inner, t_old, climb, u, mine, starts[layers], skips[layers - 1], slope, per_unit, second
            )
            at_x += z * skip * (1.0 - t_u * t_u) * s
        if layers == 0:
            tl.store(g + u, at_x, mask=mine)
        else:
            tl.store(d + starts[layers] + u, tl.where(x_u > 0.0, at_x, 0.0), mask=mine)
    return tl.sum(square, 0)


@triton.jit
def head(
    w: tl.tensor,
    x: tl.tensor,
    inner: tl.tensor,
    t: tl.tensor,
    d: tl.tensor,
    e: tl.tensor,
    g: tl.tensor,
    z: tl.tensor,
    x_old: tl.tensor,
    t_old: tl.tensor,
    z_old: tl.tensor,
    state: tl.tensor,
    sums: tl.tensor,
    event: tl.tensor,
    numbers: tl.tensor,
    probability: tl.tensor,
    cursor: tl.tensor,
    starts: tl.constexpr,
    skips: tl.constexpr,
    output: tl.constexpr,
    bias: tl.constexpr,
    layers: tl.constexpr,
    slots: tl.constexpr,
    slope: tl.constexpr,
    per_unit: tl.constexpr,
    policy: tl.constexpr,
    keep: tl.constexpr,
    second: tl.constexpr,
    learns: tl.constexpr,
    block: tl.constexpr,
) -> None:
    """From the units to the logit and its probability, and back to d_H, e, and g of the skip logits.

    Layer i has units ``starts[i]`` to ``starts[i + 1]`` - 1; x_0 is layer 0. W_i starts at ``skips[i - 1]``
    in ``w``; ``skips`` is empty without skip logits. v starts at ``output``, c is at ``bias``. Only the first
    pass writes the probability of the event. Grid: one program.
    """
    kind = x.dtype.element_ty
    at = tl.load(event + AT)
    k = tl.arange(0, block)
    climb = 0.0
    if second:
        climb = tl.load(state + CLIMB).to(kind) * tl.load(z_old)
    logit = logit_over(
        w, x, inner, t, x_old, t_old, climb, k,
        starts, skips, output, layers, slope, per_unit, second, block,
    ) + tl.load(w + bias)  # fmt: skip
    if second:
        logit += climb
    p = (1.0 / (1.0 + tl.exp(-logit.to(tl.float64)))).to(kind)
    if not second:
        tl.store(probability + at, p.to(tl.float32))
    if not learns:
        tl.store(cursor, at + 1)
    else:
        label = tl.load(numbers + at * (slots + 2) + slots).to(tl.float64)
        weight = tl.load(numbers + at * (slots + 2) + slots + 1)
        z_here = logit_gradient(p.to(tl.float64), label, policy, keep).to(kind) * weight
        tl.store(z, z_here)
        square = z_here.to(tl.float64) * z_here.to(tl.float64)
        if len(skips) > 0:
            square += back_to_skips(
                w, x, inner, e, g, sums, t_old, climb, z_here, k,
                starts, skips, layers, slope, per_unit, second, block,
            )  # fmt: skip
        square += back_to_top(
            w, x, inner, d, g, x_old, t_old, climb, z_here, k,
            starts, skips, output, layers, slope, per_unit, second, block,
        )  # fmt: skip
        tl.store(sums + 2 * layers + 1, square)
