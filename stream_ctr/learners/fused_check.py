"""What the fused step can learn, and where."""

from __future__ import annotations

import importlib.util
from dataclasses import replace

from stream_ctr.learners.base import LearnerConfig
from stream_ctr.learners.compiled_check import why_not_compiled
from stream_ctr.models.config import ModelConfig
from stream_ctr.optim.config import OptimizerConfig

WIDEST_ROW = 4096
"""Numbers of an embedding row: one program holds whole rows."""


def why_not_fused(model: ModelConfig, optimizer: OptimizerConfig) -> str | None:
    """The setting that keeps the fused step from learning this; None where it can.

    >>> why_not_fused(ModelConfig(), OptimizerConfig(method="helen")) is None
    True
    >>> why_not_fused(ModelConfig(backbone="dcn"), OptimizerConfig(method="helen"))
    "model.backbone = 'dcn'"
    """
    if importlib.util.find_spec("triton") is None:
        return "Triton, which is not installed here"
    if optimizer.method in ("auto", "revisit"):
        return f"optimizer.method = {optimizer.method!r}"
    if optimizer.moments != "float32":
        return f"optimizer.moments = {optimizer.moments!r}"
    if model.embedding > WIDEST_ROW:
        return f"model.embedding = {model.embedding}"
    return why_not_compiled(model, optimizer, replace(LearnerConfig(), device="cpu"))
