"""What ``stream-ctr bench step`` adds on a GPU: both CUDA learners, and eager torch beside them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from stream_ctr.bench.step.data import FIELDS
from stream_ctr.config.learner import LearnerConfig
from stream_ctr.config.model import ModelConfig
from stream_ctr.config.optimizer import OptimizerConfig
from stream_ctr.learners.base import Learner
from stream_ctr.learners.build import build_learner
from stream_ctr.learners.cuda.support import has_triton, why_not_fused

GPU_LEARNERS = {
    "cuda graph": LearnerConfig(kind="cuda", device="cuda"),
    "cuda fused": LearnerConfig(kind="cuda-fused", device="cuda"),
    "torch eager": LearnerConfig(kind="torch", device="cuda"),
}
"""All on the GPU: what the first two are worth is their ratio to eager torch on the same device."""


def gpu_learners(model: ModelConfig, optimizer: OptimizerConfig) -> list[tuple[str, Callable[[], Learner]]]:
    """Names and makers of the learners on a GPU; none where torch finds no GPU."""
    if not torch.cuda.is_available():
        return []
    fused = has_triton() and why_not_fused(model, optimizer) is None
    chosen = {name: config for name, config in GPU_LEARNERS.items() if fused or config.kind != "cuda-fused"}
    return [(name, partial(_make, config, model, optimizer)) for name, config in chosen.items()]


def _make(config: LearnerConfig, model: ModelConfig, optimizer: OptimizerConfig) -> Learner:
    return build_learner(model, optimizer, config, list(range(FIELDS)), FIELDS)
