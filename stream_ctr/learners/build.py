"""Builds the configured learner.

torch takes seconds to import and uses hundreds of megabytes, so only learners that need it import it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, get_args, get_type_hints

from stream_ctr.config.label_policy import LabelLoss, refuse_labels
from stream_ctr.config.learner import LearnerConfig
from stream_ctr.config.model import ModelConfig
from stream_ctr.config.optimizer import OptimizerConfig
from stream_ctr.errors import ModelError
from stream_ctr.learners.base import Learner
from stream_ctr.learners.compiled.learner import CompiledLearner
from stream_ctr.learners.compiled.support import why_not_compiled
from stream_ctr.learners.cuda.support import require_triton
from stream_ctr.models.validation import check_model
from stream_ctr.optim.validation import check_optimizer, check_streaming, for_batches, for_stream

if TYPE_CHECKING:
    from stream_ctr.learners.torch.learner import TorchLearner


def build_learner(
    model: ModelConfig,
    optimizer: OptimizerConfig,
    learner: LearnerConfig,
    slot_field: Sequence[int],
    fields: int,
    labels: LabelLoss | None = None,
) -> Learner:
    """The configured learner over ``fields`` fields; ``slot_field`` is the field of each slot of an event.

    ``labels`` is the loss of the label policy; by default, labels are learned as they arrive.

    >>> learner = build_learner(ModelConfig(), OptimizerConfig(), LearnerConfig(device="cpu"), [0, 1], 2)
    >>> learner.state().arrays["rows.weight"].shape
    (2, 16)

    Raises:
        ModelError: a name is unknown, a number is out of range, settings are incompatible or only for the
            batch protocol, or this machine lacks the device.
    """
    _check(learner)
    if learner.kind == "river":
        if labels is not None:
            refuse_labels(labels, learner.river)
        return _river_arm(learner)
    optimizer = check_settings(model, optimizer, learner, fields)
    custom = labels.policy if labels is not None and labels.custom is not None else ""
    if custom and learner.kind in ("compiled", "cuda-fused"):
        raise ModelError(
            f"learner.kind = {learner.kind!r} supports built-in label policies only, not "
            f'join.policy = {custom!r}; set learner.kind = "torch"'
        )
    if learner.kind == "compiled" or (
        learner.kind == "auto" and not custom and why_not_compiled(model, optimizer, learner) is None
    ):
        return CompiledLearner(model, optimizer, learner, slot_field, fields, labels=labels)
    return _torch_family(optimizer, learner)(model, optimizer, learner, slot_field, fields, labels=labels)


def build_batch_learner(
    model: ModelConfig,
    optimizer: OptimizerConfig,
    learner: LearnerConfig,
    slot_field: Sequence[int],
    fields: int,
) -> TorchLearner:
    """The learner of the batch protocol: one update per batch, with all optimizer settings.

    Raises:
        ModelError: as :func:`build_learner`, or ``learner.kind`` learns event by event only.
    """
    _check(learner)
    if learner.kind in ("compiled", "cuda", "cuda-fused", "river"):
        raise ModelError(
            f"learner.kind = {learner.kind!r} learns event by event; for batches choose torch or auto"
        )
    from stream_ctr.learners.torch.learner import TorchLearner

    return TorchLearner(model, for_batches(optimizer), learner, slot_field, fields)


def check_settings(
    model: ModelConfig, optimizer: OptimizerConfig, learner: LearnerConfig, fields: int
) -> OptimizerConfig:
    """Check the settings of a network that learns a stream; returns the optimizer with ``auto`` resolved.

    Raises:
        ModelError: as :func:`build_learner`, except for errors that depend on the machine or on one
            implementation.
    """
    _check(learner)
    optimizer = for_stream(optimizer)
    check_streaming(optimizer)
    if model.dropout != 0.0:
        raise ModelError(
            f"model.dropout = {model.dropout:g} is only available in the batch protocol; for a stream set "
            "model.dropout = 0"
        )
    check_optimizer(optimizer)
    check_model(model, fields)
    return optimizer


def _check(learner: LearnerConfig) -> None:
    kinds = get_args(get_type_hints(LearnerConfig)["kind"])
    if learner.kind not in kinds:
        raise ModelError(f"learner.kind = {learner.kind!r} is unknown; choose {' or '.join(kinds)}")
    if learner.threads < 1:
        raise ModelError(f"learner.threads must be at least 1, got {learner.threads}")
    if learner.rebuild and learner.kind != "river":
        raise ModelError("learner.rebuild = true is only for learner.kind = 'river'; remove it")
    if not 0 <= learner.seed < 2**63:
        raise ModelError(f"learner.seed must be between 0 and 2^63 - 1, got {learner.seed}")


def _torch_family(optimizer: OptimizerConfig, learner: LearnerConfig) -> type[TorchLearner]:
    """The torch-based learner class for ``learner.kind`` and ``learner.device``."""
    if learner.kind == "cuda-fused":
        require_triton()
        from stream_ctr.learners.cuda.fused.learner import FusedLearner  # importing Triton takes a second

        return FusedLearner
    from stream_ctr.learners.cuda.learner import CudaGraphLearner
    from stream_ctr.learners.cuda.support import why_not_cuda
    from stream_ctr.learners.torch.learner import TorchLearner

    asked = learner.kind == "auto" and learner.device.startswith("cuda")
    if learner.kind == "cuda" or (asked and why_not_cuda(optimizer, learner) is None):
        return CudaGraphLearner
    return TorchLearner


def _river_arm(learner: LearnerConfig) -> Learner:
    """The configured river model, if its state can be saved or the log is learned again at every start."""
    from stream_ctr.learners.river.learner import SAVED  # importing river takes a second
    from stream_ctr.learners.river.registry import river_learner

    arm = river_learner(learner.river, learner.seed)
    if arm.saved and learner.rebuild:
        raise ModelError(
            f"learner.rebuild = true is only for classifiers whose state cannot be saved; the state of "
            f"{learner.river} can be saved: remove it"
        )
    if not arm.saved and not learner.rebuild:
        raise ModelError(
            f"the state of learner.river = {learner.river!r} cannot be saved, so it cannot serve as an arm; "
            f"choose {SAVED}, or only compare it: with evaluate --against {learner.river}, or as an arm that "
            "learns the log again at every start (learner.rebuild = true)"
        )
    return arm
