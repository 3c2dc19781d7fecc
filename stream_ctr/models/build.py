"""Builds the configured network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from stream_ctr.config.model import ModelConfig
from stream_ctr.config.registry import BACKBONES, find
from stream_ctr.models.autoint import AutoInt
from stream_ctr.models.dcn import DCN
from stream_ctr.models.dcnv2 import DCNV2
from stream_ctr.models.deepfm import DeepFM
from stream_ctr.models.dlrm import DLRM
from stream_ctr.models.dnn import DNN
from stream_ctr.models.dropout import Dropout
from stream_ctr.models.initial_weights import row_values
from stream_ctr.models.ipnn import IPNN
from stream_ctr.models.layout import Layout, Parameter, Weights
from stream_ctr.models.parameters import base_logit
from stream_ctr.models.sml import SkipMetaLogit
from stream_ctr.models.validation import check_model
from stream_ctr.models.wide_deep import WideDeep
from stream_ctr.models.xdeepfm import XDeepFM


class Backbone(Protocol):
    """A network up to its base logit, as pure functions of parameters and inputs."""

    @property
    def row_blocks(self) -> tuple[int, ...]:
        """Widths of the parts of an embedding row; each part has its own gradient norm (Helen eq. 8).

        The first part is the embedding. Later parts are first-order weights.
        """
        ...

    def parameters(self) -> list[Parameter]:
        """The dense parameters, in the order of the layout. The logit depends on every one of them."""
        ...

    def forward(self, p: Weights, x: Tensor, drop: Dropout | None = None) -> tuple[Tensor, list[Tensor]]:
        """Base logit z_0 [B] and tower outputs [B, h_i] of each hidden layer, from pooled rows x [B, F, D].

        One event x [F, D] gives z_0 [1] and outputs [h_i]. ``drop`` applies dropout.
        """
        ...


class Network:
    """A backbone with or without Skip Meta Logit: from pooled rows to logits."""

    def __init__(self, backbone: Backbone, sml: SkipMetaLogit | None, dropout: float = 0.0) -> None:
        self.backbone = backbone
        self.sml = sml
        parameters = backbone.parameters() + (sml.parameters() if sml is not None else [])
        self.layout = Layout(parameters)
        self.row_blocks = backbone.row_blocks
        self.row_width = sum(backbone.row_blocks)
        self._dropout = dropout

    def logit(self, p: Weights, x: Tensor, drop: Dropout | None = None) -> Tensor:
        """z [B] of pooled rows x [B, F, D], or z [1] of one event [F, D].

        Without ``drop`` no unit is dropped, whatever ``model.dropout`` is; predictions use this. To train
        with dropout, pass the result of :meth:`dropout`. A second pass of the same step needs a new one.
        """
        z_0, outputs = self.backbone.forward(p, x, drop)
        return z_0 if self.sml is None else self.sml.add(p, z_0, outputs)

    def dropout(self, seed: int, step: int) -> Dropout | None:
        """The ``drop`` argument of :meth:`logit` in step ``step``; None if ``model.dropout`` is 0."""
        return Dropout(self._dropout, seed, step) if self._dropout > 0.0 else None

    def initial_rows(
        self, seed: int, field: NDArray[np.int32], key: NDArray[np.uint64], scale: float
    ) -> NDArray[np.float32]:
        """Initial values float32 [K, row_width] of new rows with keys [K] in fields [K].

        Embeddings are normally distributed with standard deviation ``scale``; first-order weights are 0.
        """
        values = row_values(seed, field, key, self.row_width, scale)
        values[:, self.row_blocks[0] :] = 0.0
        return values


def build_network(config: ModelConfig, fields: int) -> Network:
    """The configured network over ``fields`` fields.

    >>> network = build_network(ModelConfig(backbone="deepfm", embedding=4, hidden=(8,), sml=False), 3)
    >>> network.row_blocks, network.layout.size
    ((4, 1), 113)

    Raises:
        ModelError: a setting is unknown, out of range or incompatible with another one.
    """
    check_model(config, fields)
    sml = SkipMetaLogit.of(config) if config.sml else None
    return Network(_backbone(config, fields), sml, config.dropout)


def _backbone(c: ModelConfig, fields: int) -> Backbone:
    begin = base_logit(c)
    sizes = (fields, c.embedding, c.hidden)
    match c.backbone:
        case "dnn":
            return DNN(*sizes, begin)
        case "wide_deep":
            return WideDeep(*sizes, begin)
        case "ipnn":
            return IPNN(*sizes, begin)
        case "deepfm":
            return DeepFM(*sizes, begin)
        case "dcn":
            return DCN(*sizes, c.cross_layers, begin)
        case "dcnv2":
            return DCNV2(*sizes, c.cross_layers, c.cross_experts, c.cross_rank, begin)
        case "dlrm":
            return DLRM(*sizes, c.bottom_fields, c.bottom, begin)
        case "xdeepfm":
            return XDeepFM(*sizes, c.cin, begin)
        case "autoint":
            heads, width = c.attention_heads, c.attention_width
            return AutoInt(*sizes, c.attention_layers, heads, width, c.attention_scale, begin)
        case _:  # checked: another package adds it
            added: Callable[[ModelConfig, int], Backbone] = find(BACKBONES, c.backbone)
            return added(c, fields)
