"""Which settings the compiled learner supports."""

from __future__ import annotations

import dataclasses

from stream_ctr.config.learner import LearnerConfig
from stream_ctr.config.model import ModelConfig, canonical
from stream_ctr.config.optimizer import OptimizerConfig
from stream_ctr.errors import ModelError
from stream_ctr.learners.compiled.workspace import RULES

_RULES = tuple(RULES)
_KNOWN: dict[str, dict[str, tuple[str, ...] | None]] = {
    "model": {
        "backbone": ("dnn",),
        "scale": ("unit", "scalar"),
        "pooling": ("mean", "sum"),
        **dict.fromkeys(("embedding", "hidden", "sml", "slope", "beta", "embedding_scale", "base_rate")),
    },
    "optimizer": {
        "method": ("auto", "base", "sam", "helen", "revisit"),
        "perturb": ("both", "embedding", "dense"),
        "row_norm": ("row", "table"),
        "dense_norm": ("dense", "global"),
        "row_rule": _RULES,
        "dense_rule": _RULES,
        **dict.fromkeys(("rho", "rho_dense", "xi", "warm_up_events", "l2", "dense_idle", "moments")),
        **dict.fromkeys(("row_rate", "row_initial", "dense_rate", "dense_initial")),
        **dict.fromkeys(("revisit_after", "revisit_rows", "revisit_dense")),
    },
}
"""Settings that the kernels support, with the supported names (None: any value). All other settings must have
their default."""


def require_compiled(model: ModelConfig, optimizer: OptimizerConfig, learner: LearnerConfig) -> None:
    """Reject settings that the compiled learner does not support.

    Raises:
        ModelError: there is such a setting; the message names it and a learner that supports it.
    """
    reason = why_not_compiled(model, optimizer, learner)
    if reason is not None:
        raise ModelError(f'the compiled learner does not support {reason}; set learner.kind = "torch"')


def why_not_compiled(model: ModelConfig, optimizer: OptimizerConfig, learner: LearnerConfig) -> str | None:
    """The first setting that the compiled learner does not support; None if it supports all.

    >>> why_not_compiled(ModelConfig(), OptimizerConfig(), LearnerConfig(device="cuda"))
    "learner.device = 'cuda'"
    """
    if learner.device not in ("auto", "cpu"):
        return f"learner.device = {learner.device!r}"
    rooms: tuple[tuple[str, ModelConfig | OptimizerConfig], ...] = (
        ("model", canonical(model)),
        ("optimizer", optimizer),
    )
    for room, config in rooms:
        known = _KNOWN[room]
        for field in dataclasses.fields(config):
            value = getattr(config, field.name)
            names = known.get(field.name, (field.default,))
            if names is not None and value not in names:
                return f"{room}.{field.name} = {value!r}"
    return None
