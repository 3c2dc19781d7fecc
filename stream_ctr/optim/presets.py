"""Named optimizer settings, for ``--optimizer``."""

from __future__ import annotations

import difflib
from dataclasses import replace
from typing import Final

from stream_ctr.config.optimizer import BaseRule, OptimizerConfig
from stream_ctr.config.registry import PRESETS as ADDED
from stream_ctr.config.registry import find, names
from stream_ctr.errors import ModelError


def _one_rule(rule: BaseRule, row_rate: float, dense_rate: float) -> OptimizerConfig:
    return OptimizerConfig(
        method="base", row_rule=rule, row_rate=row_rate, dense_rule=rule, dense_rate=dense_rate
    )


_HELEN = OptimizerConfig(method="helen", perturb="both", rho=0.001, rho_dense=0.001, xi=0.0)

PRESETS: Final[dict[str, OptimizerConfig]] = {
    "default": OptimizerConfig(),
    "base": OptimizerConfig(method="base"),
    "sam": OptimizerConfig(method="sam", rho=0.001),
    "asam": OptimizerConfig(method="asam", rho=0.01, eta=0.01),
    "sam-dense": replace(_HELEN, perturb="dense"),
    "helen": _HELEN,
    "helen-m": replace(_HELEN, perturb="embedding", xi=0.5),
    "helen-b": replace(_HELEN, perturb="embedding"),
    "revisit": OptimizerConfig(method="revisit"),
    "sgd": OptimizerConfig(method="base", row_rule="sgd", row_rate=0.05, dense_rule="sgd", dense_rate=0.01),
    "adagrad": OptimizerConfig(
        method="base",
        row_rule="adagrad",
        row_rate=0.025,
        row_initial=1e-3,
        dense_rule="adagrad",
        dense_rate=0.003,
        dense_initial=1e-4,
    ),
    "rmsprop": _one_rule("rmsprop", 1e-3, 3e-5),
    "adam": _one_rule("adam", 1e-3, 3e-5),
    "nadam": _one_rule("nadam", 1e-3, 3e-5),
    "radam": _one_rule("radam", 1e-3, 3e-5),
}
"""default: learns best at batch size 1 on real data. helen: as published, perturbs embeddings and dense
weights. helen-m: perturbs embeddings only; helen-b: the same without a lower bound on the frequency ratio.
sam: one radius for all parameters; asam: the same, scaled by each weight; sam-dense: dense weights only.
revisit: learns each event a second time later, without the update that it had caused. All of these use the
base rules of the default; base is one pass with them. The others are one pass with a single rule for all
parameters, at learning rates for batch size 1."""


def preset(name: str) -> OptimizerConfig:
    """The optimizer settings called ``name``.

    >>> preset("helen").perturb
    'both'

    Raises:
        ModelError: the name is unknown; the message suggests the nearest one.
    """
    if name in PRESETS:
        return PRESETS[name]
    added: OptimizerConfig | None = find(ADDED, name)
    if added is not None:
        return added
    choices = [*PRESETS, *names(ADDED)]
    near = difflib.get_close_matches(name, choices, n=1, cutoff=0.5)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    raise ModelError(f"unknown optimizer preset {name!r}{hint}; choose one of {', '.join(choices)}")
