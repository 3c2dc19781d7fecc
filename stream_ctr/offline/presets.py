"""Named optimizers of the papers' batch training; all rows and weights use one rule at a rate of 1e-3."""

from __future__ import annotations

import difflib
import typing
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any, Final

from stream_ctr.config.optimizer import BaseRule, OptimizerConfig
from stream_ctr.errors import UsageError
from stream_ctr.optim.validation import check_optimizer

RATE: Final = 1e-3
"""Learning rate of both papers and of BARS."""


def _rule(name: BaseRule) -> OptimizerConfig:
    return OptimizerConfig(
        method="base",
        counts="fixed",
        row_rule=name,
        row_rate=RATE,
        row_initial=0.0,
        dense_rule=name,
        dense_rate=RATE,
        dense_initial=0.0,
    )


_ADAM: Final = _rule("adam")
_HELEN: Final = replace(_ADAM, method="helen", perturb="both", rho=0.05, rho_dense=0.05, xi=0.5)

BATCH_PRESETS: Final[dict[str, OptimizerConfig]] = {
    "adam": _ADAM,
    "nadam": _rule("nadam"),
    "radam": _rule("radam"),
    "sam": replace(_ADAM, method="sam", rho=0.05),
    "asam": replace(_ADAM, method="asam", rho=0.5),
    "helen": _HELEN,
    "helen-m": replace(_HELEN, perturb="embedding"),
    "helen-b": replace(_HELEN, perturb="embedding", xi=0.0),
    "sgd": _rule("sgd"),
    "adagrad": _rule("adagrad"),
    "rmsprop": _rule("rmsprop"),
}
"""The perturbing methods use Adam as their base. Radii and bounds are from the papers' search spaces and need
tuning: rho in {.05, .01, .005, .001}, xi in {0, .5}; 0.5 is the low end of ASAM's own working range."""


def batch_preset(name: str) -> OptimizerConfig:
    """The optimizer of that name in the batch protocol.

    >>> batch_preset("helen").row_rule
    'adam'

    Raises:
        UsageError: the name is unknown; the message suggests the nearest one.
    """
    if name in BATCH_PRESETS:
        return BATCH_PRESETS[name]
    near = difflib.get_close_matches(name, BATCH_PRESETS, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? Otherwise " if near else ""
    raise UsageError(
        f"no optimizer named {name!r} in the batch protocol; {hint}choose one of {', '.join(BATCH_PRESETS)}"
    )


def with_settings(optimizer: OptimizerConfig, texts: Mapping[str, str]) -> OptimizerConfig:
    """The optimizer with the settings of ``--set KEY=VALUE`` replaced.

    >>> with_settings(batch_preset("sam"), {"rho": "0.01"}).rho
    0.01

    Raises:
        UsageError: the setting is unknown, or its value is not a number.
        ModelError: the value is outside its range.
    """
    types = typing.get_type_hints(OptimizerConfig)
    known = [item.name for item in fields(OptimizerConfig)]
    values: dict[str, Any] = {}
    for key, text in texts.items():
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
            hint = f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(known)}"
            raise UsageError(f"--set {key}={text}: unknown optimizer setting {key!r}{hint}")
        kind = types[key] if types[key] in (int, float) else str
        try:
            values[key] = kind(text)
        except ValueError:
            raise UsageError(f"--set {key}={text}: {text!r} is not a number") from None
    changed = replace(optimizer, **values)
    check_optimizer(changed)
    return changed
