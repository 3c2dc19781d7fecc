"""DLRM (Naumov et al. 2019): inner products of pairs of vectors as inputs of the top tower.

    y = bottom tower of the dense fields' embeddings, of an embedding's width   (only with dense fields)
    x_0 = [u_1 . u_2, u_1 . u_3, ...] over the other fields' embeddings and y, then y itself
    z_0 = v . x_H + c over the top tower

All features are embedded here, integers by their bucket. The bottom tower therefore reads embeddings of the
dense fields; in the paper it reads raw numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from stream_ctr.models.dropout import Dropout
from stream_ctr.models.layers import affine, output, pair_products, tower
from stream_ctr.models.layout import Parameter, Weights
from stream_ctr.models.parameters import hidden_parameters, tower_parameters


@dataclass(frozen=True, slots=True)
class DLRM:
    """DLRM; skip logits start from the hidden layers of the top tower."""

    fields: int
    embedding: int
    hidden: tuple[int, ...]
    """Widths of the hidden layers of the top tower."""
    dense: int
    """Number of leading fields that go through the bottom tower; 0 means no bottom tower."""
    bottom: tuple[int, ...]
    base_logit: float = 0.0

    @property
    def row_blocks(self) -> tuple[int, ...]:
        """Widths of the parts of a row: the embedding alone."""
        return (self.embedding,)

    def parameters(self) -> list[Parameter]:
        """The dense parameters, in the order of the layout."""
        below, vectors = [], self.fields
        if self.dense:
            widths = (*self.bottom, self.embedding)
            below = hidden_parameters(self.dense * self.embedding, widths, "bottom")
            vectors = self.fields - self.dense + 1
        inputs = vectors * (vectors - 1) // 2 + (self.embedding if self.dense else 0)
        return below + tower_parameters(inputs, self.hidden, self.base_logit)

    def forward(self, p: Weights, x_Fd: Tensor, drop: Dropout | None = None) -> tuple[Tensor, list[Tensor]]:
        """Base logit z_0 and top-tower outputs x_i; see :meth:`~.build.Backbone.forward`."""
        if self.dense:
            # The last bottom layer is an output layer, so dropout does not apply to it.
            dense = x_Fd[..., : self.dense, :].flatten(-2)
            below = [dense, *tower(p, dense, len(self.bottom), drop, "bottom")][-1]
            last = f"bottom.{len(self.bottom) + 1}"
            y = torch.relu(affine(p[f"{last}.weight"], p[f"{last}.bias"], below))
            vectors = torch.cat([x_Fd[..., self.dense :, :], y.unsqueeze(-2)], -2)
            x = torch.cat([pair_products(vectors), y], -1)
        else:
            x = pair_products(x_Fd)
        outputs = tower(p, x, len(self.hidden), drop)
        return output(p, outputs[-1] if outputs else x), outputs
