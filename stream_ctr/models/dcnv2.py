"""DCN-V2, parallel (Wang et al. 2021): cross layers of full rank, or with a mixture of low-rank experts.

full rank:  x_(l+1) = x_0 * (W_l x_l + b_l) + x_l                                            (eq. 1)
mixture:    x_(l+1) = sum_k G_k(x_l) x_0 * (U_lk tanh(C_lk tanh(V_lk^T x_l)) + b_l) + x_l    (eq. 3, 4)
            G(x) = softmax over the experts k of g_k . x, the same for all layers
z_0 = v . [x_L, tower(x_0)] + c
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from stream_ctr.models.dropout import Dropout
from stream_ctr.models.layers import affine, output, tower
from stream_ctr.models.layout import Parameter, Weights, xavier
from stream_ctr.models.parameters import hidden_parameters, output_parameters


@dataclass(frozen=True, slots=True)
class DCNV2:
    """Cross layers in parallel with a deep tower; the cross network alone if ``hidden`` is empty."""

    fields: int
    embedding: int
    hidden: tuple[int, ...]
    layers: int
    experts: int
    """Experts per cross layer; 0 selects full-rank layers."""
    rank: int
    base_logit: float = 0.0

    @property
    def row_blocks(self) -> tuple[int, ...]:
        """Widths of the parts of a row: the embedding alone."""
        return (self.embedding,)

    def parameters(self) -> list[Parameter]:
        """The dense parameters, in the order of the layout."""
        width = self.fields * self.embedding
        last = self.hidden[-1] if self.hidden else 0
        return [
            *hidden_parameters(width, self.hidden),
            *(self._mixture(width) if self.experts else self._full(width)),
            *output_parameters(width + last, self.base_logit),
        ]

    def _full(self, width: int) -> list[Parameter]:
        parameters = []
        for i in range(1, self.layers + 1):
            parameters.append(Parameter(f"cross.{i}.weight", (width, width), xavier(width, width)))
            parameters.append(Parameter(f"cross.{i}.bias", (width,)))
        return parameters

    def _mixture(self, width: int) -> list[Parameter]:
        experts, rank = self.experts, self.rank
        parameters = [Parameter("cross.gate", (experts, width), xavier(width, experts))]
        for i in range(1, self.layers + 1):
            parameters += [
                Parameter(f"cross.{i}.down", (experts, rank, width), xavier(width, rank)),
                Parameter(f"cross.{i}.core", (experts, rank, rank), xavier(rank, rank)),
                Parameter(f"cross.{i}.up", (experts, width, rank), xavier(rank, width)),
                Parameter(f"cross.{i}.bias", (width,)),
            ]
        return parameters

    def forward(self, p: Weights, x_Fd: Tensor, drop: Dropout | None = None) -> tuple[Tensor, list[Tensor]]:
        """Base logit z_0 and hidden-layer outputs x_i; see :meth:`~.build.Backbone.forward`."""
        x_0 = x_Fd.flatten(-2)
        x = x_0
        for i in range(1, self.layers + 1):
            x = x_0 * (self._experts(p, i, x) if self.experts else self._matrix(p, i, x)) + x
        outputs = tower(p, x_0, len(self.hidden), drop)
        return output(p, torch.cat([x, *outputs[-1:]], -1)), outputs

    def _matrix(self, p: Weights, i: int, x: Tensor) -> Tensor:
        return affine(p[f"cross.{i}.weight"], p[f"cross.{i}.bias"], x)

    def _experts(self, p: Weights, i: int, x: Tensor) -> Tensor:
        """Sum [..., X] over the experts; G sums to 1, so b_l is added once."""
        gate_K = torch.matmul(x, p["cross.gate"].T).softmax(-1)
        inner_Kr = torch.tanh(torch.einsum("krx,...x->...kr", p[f"cross.{i}.down"], x))
        inner_Kr = torch.tanh(torch.einsum("kqr,...kr->...kq", p[f"cross.{i}.core"], inner_Kr))
        gated_Kr = inner_Kr * gate_K.unsqueeze(-1)
        return torch.einsum("kxr,...kr->...x", p[f"cross.{i}.up"], gated_Kr) + p[f"cross.{i}.bias"]
