"""Wide&Deep (Cheng et al. 2016): a linear model over all values in parallel with a deep tower.

    z_0 = sum_j w_j + v . x_H + c

w_j is the first-order weight of the value of field j. The crossed features of the paper's wide part are
ordinary fields here.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from stream_ctr.models.dropout import Dropout
from stream_ctr.models.layers import parallel_tower, split_wide
from stream_ctr.models.layout import Parameter, Weights
from stream_ctr.models.parameters import parallel_tower_parameters


@dataclass(frozen=True, slots=True)
class WideDeep:
    """Linear model plus deep tower; logistic regression if ``hidden`` is empty."""

    fields: int
    embedding: int
    hidden: tuple[int, ...]
    base_logit: float = 0.0

    @property
    def row_blocks(self) -> tuple[int, ...]:
        """Widths of the parts of a row: the embedding, and the first-order weight."""
        return (self.embedding, 1)

    def parameters(self) -> list[Parameter]:
        """The dense parameters, in the order of the layout."""
        return parallel_tower_parameters(self.fields * self.embedding, self.hidden, self.base_logit)

    def forward(self, p: Weights, x_FD: Tensor, drop: Dropout | None = None) -> tuple[Tensor, list[Tensor]]:
        """Base logit z_0 and hidden-layer outputs x_i; see :meth:`~.build.Backbone.forward`."""
        x_Fd, wide = split_wide(x_FD)
        deep, outputs = parallel_tower(p, x_Fd.flatten(-2), len(self.hidden), drop)
        return wide + deep, outputs
