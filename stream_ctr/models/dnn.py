"""Plain deep network: concatenated embeddings through a ReLU tower to one logit."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from stream_ctr.models.dropout import Dropout
from stream_ctr.models.layers import output, tower
from stream_ctr.models.layout import Parameter, Weights
from stream_ctr.models.parameters import tower_parameters


@dataclass(frozen=True, slots=True)
class DNN:
    """z_0 = v . x_H + c over the last tower layer; over the embeddings if ``hidden`` is empty."""

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
        return tower_parameters(self.fields * self.embedding, self.hidden, self.base_logit)

    def forward(self, p: Weights, x_Fd: Tensor, drop: Dropout | None = None) -> tuple[Tensor, list[Tensor]]:
        """Base logit z_0 and hidden-layer outputs x_i; see :meth:`~.build.Backbone.forward`."""
        x = x_Fd.flatten(-2)
        outputs = tower(p, x, len(self.hidden), drop)
        return output(p, outputs[-1] if outputs else x), outputs
