"""The deep tower that every backbone has: ReLU layers, and an output to one logit."""

from __future__ import annotations

import torch
from torch import Tensor

from stream_ctr.models.dropout import Dropout
from stream_ctr.models.layout import Weights


def affine(weight_OI: Tensor, bias_O: Tensor, x: Tensor) -> Tensor:
    """weight x + bias of a batch [B, I] -> [B, O], or of one event [I] -> [O].

    One event goes through matrix-vector products, whose backward pass is shorter than that of a batch of 1.
    """
    if x.dim() == 1:
        return torch.addmv(bias_O, weight_OI, x)
    return torch.nn.functional.linear(x, weight_OI, bias_O)


def tower(
    p: Weights, x: Tensor, layers: int, drop: Dropout | None = None, prefix: str = "tower"
) -> list[Tensor]:
    """Outputs x_i = relu(A_i x_(i-1) + b_i) of the hidden layers, first to last: each [B, h_i] or [h_i].

    With ``drop`` each x_i is what is left of it, for the next layer and for whoever else reads it.
    """
    outputs = []
    for i in range(1, layers + 1):
        x = torch.relu(affine(p[f"{prefix}.{i}.weight"], p[f"{prefix}.{i}.bias"], x))
        if drop is not None:
            x = drop(x)
        outputs.append(x)
    return outputs


def output(p: Weights, x: Tensor) -> Tensor:
    """v . x + c: [B, I] -> [B], or [I] -> [1]."""
    return torch.matmul(x, p["output.weight"]) + p["output.bias"]


def beside(p: Weights, x: Tensor, layers: int, drop: Dropout | None) -> tuple[Tensor, list[Tensor]]:
    """Logit and hidden outputs of a tower that stands beside another part; c alone without hidden layers."""
    outputs = tower(p, x, layers, drop)
    return (output(p, outputs[-1]) if outputs else p["output.bias"]), outputs
