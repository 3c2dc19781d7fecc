"""Selects the forward pass of a model: compiled if available, else torch."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from stream_ctr.config.features import FieldConfig
from stream_ctr.config.model import ModelConfig, canonical
from stream_ctr.predictors.compiled_forward import DenseForward
from stream_ctr.predictors.river_forward import RiverForward, RiverModel
from stream_ctr.state.state import Arrays


class Forward(Protocol):
    """Logits of rows, from the arrays of one snapshot."""

    def logits(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """z float32 [B] of rows int64 [B, S], ABSENT for an empty slot."""
        ...

    def probabilities(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Click probabilities float32 [B] of rows int64 [B, S]."""
        ...

    def prepare(self) -> None:
        """Prepare this process to answer requests with it."""
        ...


def is_compiled(model: ModelConfig) -> bool:
    """Whether the compiled forward pass supports this network; other networks need torch.

    >>> is_compiled(ModelConfig()), is_compiled(ModelConfig(backbone="deepfm"))
    (True, False)
    """
    model = canonical(model)
    return model.backbone == "dnn" and model.skip == "meta_tanh" and model.scale != "low_rank"


def build_forward(
    model: ModelConfig | RiverModel, fields: tuple[FieldConfig, ...], dense: Arrays, rows: NDArray[Any]
) -> Forward:
    """The forward pass of a snapshot's model. torch is imported only if the model needs it.

    Raises:
        StateError: arrays are missing or do not have the shapes of the model.
    """
    if isinstance(model, RiverModel):
        return RiverForward(model, dense, rows)
    if is_compiled(model):
        return DenseForward(model, fields, dense, rows)
    from stream_ctr.predictors.torch_forward import TorchForward

    return TorchForward(model, fields, dense, rows)
