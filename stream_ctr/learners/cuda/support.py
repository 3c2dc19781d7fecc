"""Where the CUDA graph learner can run."""

from __future__ import annotations

from dataclasses import replace

import torch

from stream_ctr.config.learner import LearnerConfig
from stream_ctr.config.model import ModelConfig
from stream_ctr.config.optimizer import OptimizerConfig
from stream_ctr.learners.compiled.support import why_not_compiled


def why_not_cuda(optimizer: OptimizerConfig, learner: LearnerConfig) -> str | None:
    """What keeps the CUDA graph learner from learning this here; None where it can. It takes every model.

    >>> why_not_cuda(OptimizerConfig(), LearnerConfig(device="cpu"))
    "needs a GPU, and learner.device = 'cpu'"
    >>> why_not_cuda(OptimizerConfig(method="revisit"), LearnerConfig())
    "does not know optimizer.method = 'revisit', which auto stands for"
    """
    if optimizer.method == "revisit":
        return "does not know optimizer.method = 'revisit', which auto stands for"
    if optimizer.moments != "float32":
        return f"does not know optimizer.moments = {optimizer.moments!r}"
    if learner.device == "cpu":
        return "needs a GPU, and learner.device = 'cpu'"
    return None if torch.cuda.is_available() else "needs a GPU, and torch finds none here"


def instead_of_cuda(model: ModelConfig, optimizer: OptimizerConfig, learner: LearnerConfig) -> str:
    """What to set to learn this all the same: the fastest learner that runs without a GPU, or one pass.

    >>> instead_of_cuda(ModelConfig(), OptimizerConfig(), LearnerConfig(device="cuda"))
    'learner.kind = "compiled" and learner.device = "cpu"'
    """
    on_cpu = replace(learner, device="cpu")
    kind = "torch" if why_not_compiled(model, optimizer, on_cpu) else "compiled"
    device = "" if learner.device in ("auto", "cpu") else ' and learner.device = "cpu"'
    one_pass = 'optimizer.method = "base", or ' if optimizer.method == "revisit" else ""
    return f'{one_pass}learner.kind = "{kind}"{device}'
