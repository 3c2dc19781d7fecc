"""The loss surface: a network in float64 that is differentiable to any order in its embeddings.

The module also computes log loss and AUC on held-out events.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stream_ctr.config.model import ModelConfig
from stream_ctr.models.build import Network, build_network
from stream_ctr.models.layers import pool
from stream_ctr.models.layout import Weights
from stream_ctr.models.sml import FUNCTIONS, SkipMetaLogit
from stream_ctr.offline.scores import Scores, score
from stream_ctr.state.state import State

CHUNK = 1024
"""Events per pass, which bounds memory."""


class WholeSkip(SkipMetaLogit):
    """Skip logits without the stop-gradient of eq. 16.

    The stop-gradient is a training rule that omits part of the gradient, although the loss depends on s(x)
    through x. With it, the second derivatives would not belong to any function. Values are the same.
    """

    def skip_logit(self, p: Weights, i: int, x: Tensor) -> Tensor:
        """See :meth:`SkipMetaLogit.skip_logit`."""
        if not self._meta:
            return super().skip_logit(p, i, x)
        function = FUNCTIONS[self.form.removeprefix("meta_")]
        return torch.matmul(function(self._scale(p, i, x) * x), p[f"sml.{i}.weight"])


class Surface:
    """A network with fixed weights, as a smooth function of its pooled embeddings [B, F, D]."""

    def __init__(self, model: ModelConfig, slot_field: NDArray[np.int64], fields: int, state: State) -> None:
        """``state``: of any learner of this model, with ``rows.weight`` [V, D] and ``dense.weight`` [P]."""
        network = build_network(model, fields)
        self.network = Network(network.backbone, WholeSkip.of(model) if model.sml else None)
        self.fields = fields
        self.slot_field = slot_field
        self.embedding = network.row_blocks[0]
        self.mean_pooling = model.pooling == "mean"
        self._model = model
        self.dense = self.network.layout.views(torch.from_numpy(state.arrays["dense.weight"]).double())
        self.rows = torch.from_numpy(state.arrays["rows.weight"]).double()

    def pooled(self, rows: NDArray[np.int64]) -> Tensor:
        """Pooled rows [B, F, D] of the rows [B, S] of B events."""
        index = torch.from_numpy(rows)
        present = index >= 0
        segment = (torch.arange(len(rows)).unsqueeze(1) * self.fields + torch.from_numpy(self.slot_field))[
            present
        ]
        x = pool(self.rows[index[present]], segment, len(rows) * self.fields, self._model.pooling)
        return x.view(len(rows), self.fields, -1)

    def logit(self, x: Tensor) -> Tensor:
        """Logits z [B]."""
        return self.network.logit(self.dense, x)

    @torch.no_grad()
    def logits(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Logits z [B] of events with rows [B, S], in chunks."""
        parts = [
            self.logit(self.pooled(rows[start : start + CHUNK])).numpy()
            for start in range(0, len(rows), CHUNK)
        ]
        return np.concatenate([np.zeros(0), *parts])

    @torch.no_grad()
    def hidden(self, rows: NDArray[np.int64]) -> list[NDArray[np.float64]]:
        """Outputs x_i [B, h_i] of the tower's hidden layers, first to last."""
        parts = [
            self.network.backbone.forward(self.dense, self.pooled(rows[start : start + CHUNK]))[1]
            for start in range(0, len(rows), CHUNK)
        ]
        return [torch.cat(layer).numpy() for layer in zip(*parts, strict=True)]


def log_loss(z: Tensor, label: Tensor) -> Tensor:
    """Log loss [B] in nats of logits [B]: ln(1 + e^z) - label z."""
    return torch.nn.functional.softplus(z) - label * z


def quality(logit: NDArray[np.float64], label: NDArray[np.float64]) -> Scores:
    """Scores of logits [n] on labels [n] of 0 and 1.

    >>> quality(np.array([2.0, -2.0]), np.array([1.0, 0.0])).auc
    1.0
    """
    p = 0.5 * (1.0 + np.tanh(0.5 * logit))  # the sigmoid, which cannot overflow
    return score(p.astype(np.float32), label.astype(np.uint8))
