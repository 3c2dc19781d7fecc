"""Which settings and machines the CUDA graph learner and the fused step support.

The fused step supports fewer settings than the graph learner.
"""

from __future__ import annotations

import importlib.util
from dataclasses import replace

from stream_ctr.config.learner import LearnerConfig
from stream_ctr.config.model import ModelConfig
from stream_ctr.config.optimizer import OptimizerConfig
from stream_ctr.errors import ModelError
from stream_ctr.learners.compiled.support import why_not_compiled

WIDEST_ROW = 4096
"""Maximum width of an embedding row: one program holds whole rows."""


def why_not_cuda(optimizer: OptimizerConfig, learner: LearnerConfig) -> str | None:
    """Why the CUDA graph learner cannot run with these settings here; None if it can. It supports any model.

    >>> why_not_cuda(OptimizerConfig(), LearnerConfig(device="cpu"))
    "needs a GPU, and learner.device = 'cpu'"
    >>> why_not_cuda(OptimizerConfig(method="revisit"), LearnerConfig())
    "does not support optimizer.method = 'revisit', which auto selects"
    """
    import torch

    if optimizer.method == "revisit":
        return "does not support optimizer.method = 'revisit', which auto selects"
    if optimizer.moments != "float32":
        return f"does not support optimizer.moments = {optimizer.moments!r}"
    if learner.device == "cpu":
        return "needs a GPU, and learner.device = 'cpu'"
    return None if torch.cuda.is_available() else "needs a GPU, and torch finds none here"


def instead_of_cuda(model: ModelConfig, optimizer: OptimizerConfig, learner: LearnerConfig) -> str:
    """Settings to suggest instead: the fastest learner that runs without a GPU, or one pass.

    >>> instead_of_cuda(ModelConfig(), OptimizerConfig(), LearnerConfig(device="cuda"))
    'learner.kind = "compiled" and learner.device = "cpu"'
    """
    on_cpu = replace(learner, device="cpu")
    kind = "torch" if why_not_compiled(model, optimizer, on_cpu) else "compiled"
    device = "" if learner.device in ("auto", "cpu") else ' and learner.device = "cpu"'
    one_pass = 'optimizer.method = "base", or ' if optimizer.method == "revisit" else ""
    return f'{one_pass}learner.kind = "{kind}"{device}'


def has_triton() -> bool:
    """Whether Triton is installed; it comes with torch builds for GPUs on Linux."""
    return importlib.util.find_spec("triton") is not None


def require_triton() -> None:
    """Check that Triton is installed.

    Raises:
        ModelError: Triton is not installed.
    """
    if not has_triton():
        raise ModelError(
            "learner.kind = 'cuda-fused' needs Triton, which comes with torch builds for GPUs on Linux, and "
            'is not installed; set learner.kind = "cuda", or "compiled" without a GPU'
        )


def why_not_fused(model: ModelConfig, optimizer: OptimizerConfig) -> str | None:
    """The first setting that the fused step does not support; None if it supports all.

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
