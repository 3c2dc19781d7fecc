"""Layers that backbones share: the deep tower, pooling, first-order weights and pairwise products.

Every backbone has a tower of ReLU layers and an output layer to one logit. The embedding of a field is the
mean or the sum of the rows of its values.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

from stream_ctr.models.dropout import Dropout
from stream_ctr.models.layout import Weights


def affine(weight_OI: Tensor, bias_O: Tensor, x: Tensor) -> Tensor:
    """weight x + bias of a batch [B, I] -> [B, O], or of one event [I] -> [O].

    One event uses matrix-vector products, whose backward pass is shorter than that of a batch of 1.
    """
    if x.dim() == 1:
        return torch.addmv(bias_O, weight_OI, x)
    return torch.nn.functional.linear(x, weight_OI, bias_O)


def tower(
    p: Weights, x: Tensor, layers: int, drop: Dropout | None = None, prefix: str = "tower"
) -> list[Tensor]:
    """Outputs x_i = relu(A_i x_(i-1) + b_i) of the hidden layers, first to last: each [B, h_i] or [h_i].

    With ``drop``, the next layer and the caller both see x_i after dropout.
    """
    outputs = []
    for i in range(1, layers + 1):
        x = torch.relu(affine(p[f"{prefix}.{i}.weight"], p[f"{prefix}.{i}.bias"], x))
        if drop is not None:
            x = drop(x)
        outputs.append(x)
    return outputs


def output(p: Weights, x: Tensor) -> Tensor:
    """v . x + c: [B, I] -> [B], or [I] -> [1]."""
    return torch.matmul(x, p["output.weight"]) + p["output.bias"]


def parallel_tower(p: Weights, x: Tensor, layers: int, drop: Dropout | None) -> tuple[Tensor, list[Tensor]]:
    """Logit and hidden-layer outputs of a tower in parallel with another part; c alone if ``layers`` is 0."""
    outputs = tower(p, x, layers, drop)
    return (output(p, outputs[-1]) if outputs else p["output.bias"]), outputs


def pool(x_ND: Tensor, segment_N: Tensor, segments: int, mode: Literal["mean", "sum"]) -> Tensor:
    """Pool N rows of width D into segments [segments, D]; a segment is one field of one event.

    ``segment_N`` (int64) is the segment of each row. A segment without rows is zero.

    >>> pool(torch.tensor([[1.0], [3.0], [5.0]]), torch.tensor([0, 0, 2]), 3, "mean").tolist()
    [[2.0], [0.0], [5.0]]
    """
    total = x_ND.new_zeros((segments, x_ND.shape[1])).index_add(0, segment_N, x_ND)
    if mode == "sum":
        return total
    count = torch.bincount(segment_N, minlength=segments).clamp_(min=1)
    return total / count.to(x_ND.dtype).unsqueeze(1)


def split_wide(x: Tensor) -> tuple[Tensor, Tensor]:
    """Embeddings [..., F, d] and the first-order logit [...] of pooled rows [..., F, d + 1].

    The last number of a row is its first-order weight, pooled in the same way as the embedding.
    """
    return x[..., :-1], x[..., -1].sum(-1)


def pair_sum(x: Tensor) -> Tensor:
    """Sum over all pairs i < j of x_i . x_j: [..., F, d] -> [...] (Rendle 2010, lemma 3.1)."""
    total = x.sum(-2)
    return 0.5 * (total.square() - x.square().sum(-2)).sum(-1)


def pair_products(x: Tensor) -> Tensor:
    """x_i . x_j of all pairs i < j, in the order (0, 1), (0, 2), ...: [..., F, d] -> [..., F (F - 1) / 2]."""
    products = torch.matmul(x, x.transpose(-1, -2)).flatten(-2)
    return torch.index_select(products, -1, _pairs(x.shape[-2], x.device))


@lru_cache(maxsize=32)
def _pairs(fields: int, device: torch.device) -> Tensor:
    """Indices int64 of the pairs i < j in the flattened matrix of products."""
    # The first caller may be a prediction; tensors created in inference mode cannot take part in autograd.
    with torch.inference_mode(mode=False):
        pairs = torch.triu_indices(fields, fields, offset=1, device=device)
        return torch.add(pairs[1], pairs[0], alpha=fields)
