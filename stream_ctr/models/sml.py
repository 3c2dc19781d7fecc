"""Skip Meta Logit: every hidden layer adds a logit, scaled by a function of the layer's output.

Deng et al., "Enhance the Network Smoothness with Skip Meta Logit for CTR Prediction":

    z = z_0 + sum_{i=1..H} F_i(x_i)
    F_i(x) = sum_k W_ik * tanh( s_i(x)_k * x_k )             (eq. 5, 10)
    s_i(x) = leaky_relu( w_i stop_gradient(x) + beta_i )     (eq. 16)

The forms of the paper's ablation (Table 2) replace tanh by another function, and s_i(x) by a learned constant
or by 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import torch
from torch import Tensor
from torch.nn import functional

from stream_ctr.config.model import ModelConfig, SkipForm
from stream_ctr.models.layers import affine
from stream_ctr.models.layout import Parameter, Weights
from stream_ctr.models.parameters import skip_parameters

FUNCTIONS: Final[dict[str, Callable[[Tensor], Tensor]]] = {
    "vanilla": lambda x: x,
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "learned_scale": torch.tanh,
}
"""The function of each form; ``meta_NAME`` uses that of NAME."""


@dataclass(frozen=True, slots=True)
class SkipMetaLogit:
    """The skip logits of hidden layers of widths ``hidden``."""

    hidden: tuple[int, ...]
    scale: Literal["unit", "scalar", "low_rank"]
    slope: float
    beta: float
    form: SkipForm = "meta_tanh"
    rank: int = 8
    """Rank of w_i; used if ``scale`` is "low_rank"."""

    @classmethod
    def of(cls, config: ModelConfig) -> SkipMetaLogit:
        """The skip logits of a model configuration."""
        return cls(config.hidden, config.scale, config.slope, config.beta, config.skip, config.scale_rank)

    def parameters(self) -> list[Parameter]:
        """w_i, beta_i and W_i of each layer; see :func:`~.parameters.skip_parameters`."""
        return skip_parameters(self.hidden, self.form, self.scale, self.rank, self.beta)

    @property
    def _meta(self) -> bool:
        return self.form.startswith("meta_")

    def skip_logit(self, p: Weights, i: int, x: Tensor) -> Tensor:
        """F_i(x) of layer i, counted from 1: [B, h] -> [B], or [h] -> a scalar."""
        function = FUNCTIONS[self.form.removeprefix("meta_")]
        if self._meta:
            x = self._scale(p, i, x.detach()) * x
        elif self.form == "learned_scale":
            x = p[f"sml.{i}.beta"] * x
        return torch.matmul(function(x), p[f"sml.{i}.weight"])

    def _scale(self, p: Weights, i: int, x: Tensor) -> Tensor:
        """s_i(x) of eq. 16, [B, h] or [B, 1]; x is detached, so no gradient flows through it."""
        beta = p[f"sml.{i}.beta"]
        if self.scale == "low_rank":
            inner = affine(p[f"sml.{i}.up"], beta, torch.matmul(x, p[f"sml.{i}.down"].T))
        else:
            inner = affine(p[f"sml.{i}.scale"], beta, x)
        return functional.leaky_relu(inner, self.slope)

    def add(self, p: Weights, z_0: Tensor, outputs: Sequence[Tensor]) -> Tensor:
        """z: the base logit plus the skip logits of all hidden layers."""
        z = z_0
        for i, x in enumerate(outputs, start=1):
            z = z + self.skip_logit(p, i, x)
        return z
