"""What several backbones share: first-order weights, and products of pairs of vectors."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor


def split_wide(x: Tensor) -> tuple[Tensor, Tensor]:
    """Embeddings [..., F, d] and the first-order logit [...] of pooled rows [..., F, d + 1].

    The last number of a row is its first-order weight; pooled as the embedding is, it is the field's term.
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
    """Places of the pairs in the flattened table of products, int64."""
    # The first to ask may be a prediction, and what is made in inference mode cannot be learned with.
    with torch.inference_mode(mode=False):
        pairs = torch.triu_indices(fields, fields, offset=1, device=device)
        return torch.add(pairs[1], pairs[0], alpha=fields)
