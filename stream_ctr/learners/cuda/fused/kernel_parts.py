"""Functions that several Triton kernels of the fused step share.

A Triton kernel works on whole tiles of numbers; ``kind`` is the type of the weights. Sums of squares and
values derived from them are in double precision, as in the compiled learner, so that squares of
single-precision numbers do not overflow. No sum uses atomic additions, so results are reproducible bit for
bit.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def tanh(x: tl.tensor) -> tl.tensor:
    """tanh of a tile; accurate to 4 ulp in single precision, NaN stays NaN.

    The rational function is that of Eigen (``generic_fast_tanh_float``), as in the compiled learner.
    """
    if x.dtype == tl.float64:
        shrunk = tl.exp(-2.0 * tl.abs(x))
        size = (1.0 - shrunk) / (1.0 + shrunk)
        # near 0 the difference cancels; the series is accurate to the last digit there
        b = x * x
        series = 1.0 - b * (0.3333333333333333 - b * (0.13333333333333333 - b * 0.05396825396825397))
        y = tl.where(tl.abs(x) < 1e-3, x * series, tl.where(x < 0.0, -size, size))
    else:
        a = tl.where(x > 7.90531110763549805, 7.90531110763549805, x)
        a = tl.where(a < -7.90531110763549805, -7.90531110763549805, a)
        b = a * a
        p = b * -2.76076847742355e-16 + 2.00018790482477e-13
        p = b * p + -8.60467152213735e-11
        p = b * p + 5.12229709037114e-08
        p = b * p + 1.48572235717979e-05
        p = b * p + 6.37261928875436e-04
        p = b * p + 4.89352455891786e-03
        q = b * 1.19825839466702e-06 + 1.18534705686654e-04
        q = b * q + 2.26843463243900e-03
        q = b * q + 4.89352518554385e-03
        y = a * p / q
    return y


@triton.jit
def over_root(radius: tl.tensor, norm: tl.tensor, smallest: tl.constexpr) -> tl.tensor:
    """radius / sqrt(norm) for a squared norm; 0 if ``norm`` is below the smallest normal number."""
    real = norm >= smallest
    return tl.where(real, radius / tl.sqrt(tl.where(real, norm, 1.0)), 0.0)


@triton.jit
def row_gradient(
    g: tl.tensor,
    members: tl.tensor,
    f: tl.tensor,
    k: tl.tensor,
    fields: tl.tensor,
    width: tl.tensor,
    mean: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor]:
    """Gradient [f, k] of one row of each field, and the number of rows [f].

    All rows of a field have the same gradient. ``g`` is the gradient at x_0; with ``mean`` it is divided by
    the number of rows.
    """
    count = tl.load(members + f, mask=f < fields, other=0.0)
    inside = (f < fields)[:, None] & (k < width)[None, :] & (count > 0.0)[:, None]
    own = tl.load(g + f[:, None] * width + k[None, :], mask=inside, other=0.0)
    if mean:
        own = own / tl.maximum(count, 1.0)[:, None]
    return own, count


@triton.jit
def squared_norms(
    sums: tl.tensor,
    g: tl.tensor,
    members: tl.tensor,
    fields: tl.tensor,
    width: tl.tensor,
    mean: tl.constexpr,
    layers: tl.constexpr,
    f_block: tl.constexpr,
    k_block: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor]:
    """Squared gradient norms of all dense parameters and of all rows of the event.

    ``sums`` [2 H + 2] are ||x_i||^2 of x_0 to x_H, then ||d_i||^2 of layers 1 to H, then the share of the
    output layer and the skip logits. The gradient of A_i is d_i x_(i-1)^T and that of b_i is d_i.
    """
    dense = tl.load(sums + 2 * layers + 1)
    for i in tl.static_range(layers):
        dense += tl.load(sums + layers + 1 + i) * (1.0 + tl.load(sums + i))
    total = tl.zeros((f_block,), tl.float64)
    k = tl.arange(0, k_block)
    for first in range(0, fields, f_block):
        f = first + tl.arange(0, f_block)
        own, count = row_gradient(g, members, f, k, fields, width, mean)
        total += count * tl.sum(own.to(tl.float64) * own.to(tl.float64), 1)
    return dense, tl.sum(total, 0)
