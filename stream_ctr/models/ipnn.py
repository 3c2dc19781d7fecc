"""IPNN, the product-based network with inner products (Qu et al. 2016).

z_0 = v . x_H + c over a tower whose input is x_0 = [e_1, ..., e_F, e_1 . e_2, e_1 . e_3, ..., e_(F-1) . e_F]
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from stream_ctr.models.dropout import Dropout
from stream_ctr.models.layers import output, pair_products, tower
from stream_ctr.models.layout import Parameter, Weights
from stream_ctr.models.parameters import tower_parameters


@dataclass(frozen=True, slots=True)
class IPNN:
    """One tower over the embeddings and the inner products of all pairs of fields."""

    fields: int
    embedding: int
    hidden: tuple[int, ...]
    base_logit: float = 0.0

    @property
    def row_blocks(self) -> tuple[int, ...]:
        """Widths of the parts of a row: the embedding alone."""
        return (self.embedding,)

    def parameters(self) -> list[Parameter]:
        """The dense parameters, in the order of the layout."""
        inputs = self.fields * self.embedding + self.fields * (self.fields - 1) // 2
        return tower_parameters(inputs, self.hidden, self.base_logit)

    def forward(self, p: Weights, x_Fd: Tensor, drop: Dropout | None = None) -> tuple[Tensor, list[Tensor]]:
        """Base logit z_0 and hidden-layer outputs x_i; see :meth:`~.build.Backbone.forward`."""
        x = torch.cat([x_Fd.flatten(-2), pair_products(x_Fd)], -1)
        outputs = tower(p, x, len(self.hidden), drop)
        return output(p, outputs[-1] if outputs else x), outputs
