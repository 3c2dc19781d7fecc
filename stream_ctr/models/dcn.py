"""DCN, the deep and cross network (Wang et al. 2017).

x_(l+1) = x_0 (w_l . x_l) + b_l + x_l,   l = 0..L-1
z_0 = v . [x_L, tower(x_0)] + c
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from stream_ctr.models.dropout import Dropout
from stream_ctr.models.layers import output, tower
from stream_ctr.models.layout import Parameter, Weights, xavier
from stream_ctr.models.parameters import hidden_parameters, output_parameters


@dataclass(frozen=True, slots=True)
class DCN:
    """Rank-one cross layers in parallel with a deep tower; the cross network alone if ``hidden`` is empty."""

    fields: int
    embedding: int
    hidden: tuple[int, ...]
    layers: int
    base_logit: float = 0.0

    @property
    def row_blocks(self) -> tuple[int, ...]:
        """Widths of the parts of a row: the embedding alone."""
        return (self.embedding,)

    def parameters(self) -> list[Parameter]:
        """The dense parameters, in the order of the layout."""
        width = self.fields * self.embedding
        cross = []
        for i in range(1, self.layers + 1):
            cross.append(Parameter(f"cross.{i}.weight", (width,), xavier(width, 1)))
            cross.append(Parameter(f"cross.{i}.bias", (width,)))
        last = self.hidden[-1] if self.hidden else 0
        return [
            *hidden_parameters(width, self.hidden),
            *cross,
            *output_parameters(width + last, self.base_logit),
        ]

    def forward(self, p: Weights, x_Fd: Tensor, drop: Dropout | None = None) -> tuple[Tensor, list[Tensor]]:
        """Base logit z_0 and hidden-layer outputs x_i; see :meth:`~.build.Backbone.forward`."""
        x_0 = x_Fd.flatten(-2)
        x = x_0
        for i in range(1, self.layers + 1):
            x = x_0 * torch.matmul(x, p[f"cross.{i}.weight"]).unsqueeze(-1) + p[f"cross.{i}.bias"] + x
        outputs = tower(p, x_0, len(self.hidden), drop)
        return output(p, torch.cat([x, *outputs[-1:]], -1)), outputs
