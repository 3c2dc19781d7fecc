"""Every backbone with its options, small, and random float64 weights and inputs for them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

import pytest
import torch
from torch import Tensor

from stream_ctr.config.model import BACKBONE_NAMES, ModelConfig
from stream_ctr.models.build import Network
from stream_ctr.models.layout import Weights

FIELDS: Final = 4
BACKBONES: Final = BACKBONE_NAMES
SMALL: Final = ModelConfig(
    embedding=3,
    hidden=(5, 4),
    sml=False,
    cross_layers=2,
    cross_rank=2,
    cin=(3, 2),
    attention_layers=2,
    attention_width=4,
    bottom=(6, 5),
)
"""Narrow everywhere; without skip logits."""


def small(**settings: Any) -> ModelConfig:
    """SMALL with other settings."""
    return replace(SMALL, **settings)


VARIANTS: Final = [
    *(pytest.param(small(backbone=name), id=name) for name in BACKBONES),
    *(pytest.param(small(backbone=name, hidden=()), id=f"{name}-no-tower") for name in BACKBONES),
    pytest.param(small(backbone="dcnv2", cross_experts=3), id="dcnv2-experts"),
    pytest.param(small(backbone="dlrm", bottom_fields=2), id="dlrm-bottom"),
    pytest.param(small(backbone="dlrm", bottom_fields=3, bottom=()), id="dlrm-short-bottom"),
    pytest.param(small(backbone="autoint", attention_scale=True, attention_heads=4), id="autoint-scaled"),
    pytest.param(small(backbone="autoint", embedding=4), id="autoint-identity-residual"),
]


def weights(network: Network, seed: int, deviation: float = 0.5) -> Weights:
    """Float64 leaves with every parameter away from zero."""
    generator = torch.Generator().manual_seed(seed)
    flat = torch.randn(network.layout.size, generator=generator, dtype=torch.float64) * deviation
    return network.layout.leaves(flat)


def inputs(seed: int, *shape: int) -> Tensor:
    """Normal numbers."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
