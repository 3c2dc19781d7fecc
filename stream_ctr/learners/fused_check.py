"""What the fused step can learn, and where."""

from __future__ import annotations

import importlib.util
from dataclasses import replace

from stream_ctr.config.learner import LearnerConfig
from stream_ctr.config.model import ModelConfig
from stream_ctr.config.optimizer import OptimizerConfig
from stream_ctr.errors import ModelError
from stream_ctr.learners.compiled.support import why_not_compiled

WIDEST_ROW = 4096
"""Numbers of an embedding row: one program holds whole rows."""


def has_triton() -> bool:
    """Whether Triton is installed, which torch brings along where it is built for GPUs on Linux."""
    return importlib.util.find_spec("triton") is not None


def require_triton() -> None:
    """Refuse a machine on which there is none.

    Raises:
        ModelError: Triton is not installed.
    """
    if not has_triton():
        raise ModelError(
            "learner.kind = 'cuda-fused' needs Triton, which comes with torch for GPUs on Linux and is not "
            'installed here; set learner.kind = "cuda", or "compiled" without a GPU'
        )


def why_not_fused(model: ModelConfig, optimizer: OptimizerConfig) -> str | None:
    """The setting that keeps the fused step from learning this; None where it can.

    >>> why_not_fused(ModelConfig(), OptimizerConfig(method="helen")) is None
    True
    >>> why_not_fused(ModelConfig(backbone="dcn"), OptimizerConfig(method="helen"))
    "model.backbone = 'dcn'"
    """
    if optimizer.method in ("auto", "revisit"):
        return f"optimizer.method = {optimizer.method!r}"
    if optimizer.moments != "float32":
        return f"optimizer.moments = {optimizer.moments!r}"
    if model.embedding > WIDEST_ROW:
        return f"model.embedding = {model.embedding}"
    return why_not_compiled(model, optimizer, replace(LearnerConfig(), device="cpu"))
