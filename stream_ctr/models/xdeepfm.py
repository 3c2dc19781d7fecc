"""xDeepFM (Lian et al. 2018): a compressed interaction network, a linear part and a deep tower.

    X^k_h = sum_{i,j} W^k_hij (X^0_i * X^(k-1)_j) + b^k_h,   h = 1..H_k, X^0 the embeddings    (eq. 6)
    z_0 = sum_j w_j + sum_{k,h} a_kh sum_d X^k_hd + v . x_H + c                                (eq. 8)

All feature maps of a layer feed the next layer and the output, without an activation.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from stream_ctr.models.dropout import Dropout
from stream_ctr.models.layers import parallel_tower, split_wide
from stream_ctr.models.layout import Parameter, Weights, xavier
from stream_ctr.models.parameters import parallel_tower_parameters


@dataclass(frozen=True, slots=True)
class XDeepFM:
    """Linear part plus CIN plus deep tower; no tower if ``hidden`` is empty."""

    fields: int
    embedding: int
    hidden: tuple[int, ...]
    maps: tuple[int, ...]
    """H_k, the feature maps of each layer of the interaction network."""
    base_logit: float = 0.0

    @property
    def row_blocks(self) -> tuple[int, ...]:
        """Widths of the parts of a row: the embedding, and the first-order weight."""
        return (self.embedding, 1)

    def parameters(self) -> list[Parameter]:
        """The dense parameters, in the order of the layout."""
        parameters = parallel_tower_parameters(self.fields * self.embedding, self.hidden, self.base_logit)
        before = self.fields
        for k, maps in enumerate(self.maps, start=1):
            pairs = self.fields * before
            parameters.append(Parameter(f"cin.{k}.weight", (maps, self.fields, before), xavier(pairs, maps)))
            parameters.append(Parameter(f"cin.{k}.bias", (maps,)))
            before = maps
        parameters.append(Parameter("cin.output", (sum(self.maps),), xavier(sum(self.maps), 1)))
        return parameters

    def forward(self, p: Weights, x_FD: Tensor, drop: Dropout | None = None) -> tuple[Tensor, list[Tensor]]:
        """Base logit z_0 and hidden-layer outputs x_i; see :meth:`~.build.Backbone.forward`."""
        x_Fd, wide = split_wide(x_FD)
        deep, outputs = parallel_tower(p, x_Fd.flatten(-2), len(self.hidden), drop)
        return wide + self._interactions(p, x_Fd) + deep, outputs

    def _interactions(self, p: Weights, x_Fd: Tensor) -> Tensor:
        """Logit [...] of the interaction network."""
        x_Hd, sums = x_Fd, []
        for k in range(1, len(self.maps) + 1):
            products = (x_Fd.unsqueeze(-2) * x_Hd.unsqueeze(-3)).flatten(-3, -2)
            x_Hd = torch.matmul(p[f"cin.{k}.weight"].flatten(1), products) + p[f"cin.{k}.bias"].unsqueeze(-1)
            sums.append(x_Hd.sum(-1))
        return torch.matmul(torch.cat(sums, -1), p["cin.output"])
