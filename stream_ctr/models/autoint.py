"""AutoInt+ (Song et al. 2019): self-attention among the fields, in parallel with a deep tower.

    head k of a layer:  a_ij = softmax over j of (Q_k e_i) . (K_k e_j),  o_ik = sum_j a_ij V_k e_j  (eq. 5, 6)
    layer:              e_i <- relu([o_i1, ..., o_iK] + R e_i)                                      (eq. 7, 8)
    z_0 = u . [e_1, ..., e_F] + v . x_H + c                                                         (eq. 9)

R is the identity in a layer whose input is as wide as its output.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from stream_ctr.models.dropout import Dropout
from stream_ctr.models.layers import parallel_tower
from stream_ctr.models.layout import Parameter, Weights, xavier
from stream_ctr.models.parameters import parallel_tower_parameters


@dataclass(frozen=True, slots=True)
class AutoInt:
    """Attention with residual connections, plus a deep tower; AutoInt if ``hidden`` is empty."""

    fields: int
    embedding: int
    hidden: tuple[int, ...]
    layers: int
    heads: int
    width: int
    """Numbers per field in the output of a layer, over all heads."""
    scaled: bool
    """Divide the products by the square root of a head's width."""
    base_logit: float = 0.0

    @property
    def row_blocks(self) -> tuple[int, ...]:
        """Widths of the parts of a row: the embedding alone."""
        return (self.embedding,)

    def parameters(self) -> list[Parameter]:
        """The dense parameters, in the order of the layout."""
        parameters = parallel_tower_parameters(self.fields * self.embedding, self.hidden, self.base_logit)
        inputs = self.embedding
        for i in range(1, self.layers + 1):
            names = ["query", "key", "value"] + (["residual"] if inputs != self.width else [])
            deviation = xavier(inputs, self.width)
            parameters += [
                Parameter(f"attention.{i}.{name}", (self.width, inputs), deviation) for name in names
            ]
            inputs = self.width
        outputs = self.fields * self.width
        parameters.append(Parameter("attention.output", (outputs,), xavier(outputs, 1)))
        return parameters

    def forward(self, p: Weights, x_Fd: Tensor, drop: Dropout | None = None) -> tuple[Tensor, list[Tensor]]:
        """Base logit z_0 and hidden-layer outputs x_i; see :meth:`~.build.Backbone.forward`."""
        x = x_Fd
        for i in range(1, self.layers + 1):
            x = self._attend(p, f"attention.{i}", x, drop)
        attended = torch.matmul(x.flatten(-2), p["attention.output"])
        deep, outputs = parallel_tower(p, x_Fd.flatten(-2), len(self.hidden), drop)
        return attended + deep, outputs

    def _attend(self, p: Weights, layer: str, x: Tensor, drop: Dropout | None) -> Tensor:
        """One layer: [..., F, I] -> [..., F, width]."""
        query, key, value = (
            self._by_head(torch.matmul(x, p[f"{layer}.{name}"].T)) for name in ("query", "key", "value")
        )
        scores = torch.matmul(query, key.transpose(-1, -2))
        if self.scaled:
            scores = scores / math.sqrt(self.width // self.heads)
        attention = scores.softmax(-1)
        if drop is not None:
            attention = drop(attention)
        together = torch.matmul(attention, value).transpose(-2, -3).flatten(-2)
        residual = p.get(f"{layer}.residual")
        return torch.relu(together + (x if residual is None else torch.matmul(x, residual.T)))

    def _by_head(self, x: Tensor) -> Tensor:
        """[..., F, width] -> [..., heads, F, width / heads]."""
        return x.view(*x.shape[:-1], self.heads, self.width // self.heads).transpose(-2, -3)
