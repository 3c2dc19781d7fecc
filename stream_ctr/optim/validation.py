"""Validation of optimizer settings, each by itself and in combination."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Final, get_args, get_type_hints

from stream_ctr.config.optimizer import RULE_NAMES, OptimizerConfig
from stream_ctr.config.registry import RULES, why_unknown
from stream_ctr.errors import ModelError

_NAMES = (
    *("method", "perturb", "row_norm", "dense_norm", "counts", "rows"),
    *("dense_idle", "moments"),
)
_NOT_NEGATIVE = (
    *("rho", "rho_dense", "eta", "l2", "row_initial", "dense_initial", "first_order_initial"),
    *("ftrl_beta", "ftrl_l1", "ftrl_l2"),
)
MOST_KEPT: Final = 1_000_000
"""Largest ``optimizer.revisit_after``: a mistyped number must not allocate all memory."""
REVISIT_RULES: Final = ("adagrad", "sgd")


def check_optimizer(config: OptimizerConfig) -> None:
    """Reject invalid settings.

    Raises:
        ModelError: a name is unknown, a number is out of range or two settings do not go together; the
            message says what is allowed.
    """
    hints = get_type_hints(OptimizerConfig)
    for name, built_in in RULE_NAMES.items():
        value = getattr(config, name)
        if value == "ftrl" and value not in built_in:
            raise ModelError(
                f"optimizer.{name} = 'ftrl': FTRL-proximal is for first-order (wide) weights alone, through "
                f"optimizer.first_order_rule; here choose {' or '.join(built_in)}"
            )
        unknown = why_unknown(RULES, built_in, f"optimizer.{name}", value)
        if unknown:
            raise ModelError(unknown)
    for name in _NAMES:
        value, allowed = getattr(config, name), get_args(hints[name])
        if value not in allowed:
            raise ModelError(f"optimizer.{name} = {value!r} is unknown; choose {' or '.join(allowed)}")
    for name in _NOT_NEGATIVE:
        value = getattr(config, name)
        if not (math.isfinite(value) and value >= 0.0):
            raise ModelError(f"optimizer.{name} must be a finite number of at least 0, got {value}")
    for name in ("row_rate", "dense_rate", "first_order_rate"):
        value = getattr(config, name)
        if not (math.isfinite(value) and value > 0.0):
            raise ModelError(f"optimizer.{name} must be a finite number above 0, got {value}")
    if not 0.0 <= config.xi <= 1.0:
        raise ModelError(
            f"optimizer.xi must be between 0 and 1, got {config.xi}; it is the lower bound of N / M (eq. 7)"
        )
    if config.method == "revisit":
        _check_revisit(config)
    if config.warm_up_events < 0:
        raise ModelError(f"optimizer.warm_up_events must be at least 0, got {config.warm_up_events}")


def for_stream(config: OptimizerConfig) -> OptimizerConfig:
    """The configuration with ``method = "auto"`` resolved for a stream: revisit if possible, else base.

    >>> for_stream(OptimizerConfig()).method, for_stream(OptimizerConfig(row_rule="adam")).method
    ('revisit', 'base')
    """
    if config.method != "auto":
        return config
    fit = config.row_rule in REVISIT_RULES and config.dense_rule in REVISIT_RULES
    able = fit and config.first_order_rule == "rows" and not config.l2 > 0.0
    return replace(config, method="revisit" if able else "base")


def for_batches(config: OptimizerConfig) -> OptimizerConfig:
    """The configuration with ``method = "auto"`` resolved for the batch protocol: base.

    There, the next epoch revisits every event anyway.
    """
    return replace(config, method="base") if config.method == "auto" else config


def check_streaming(config: OptimizerConfig) -> None:
    """Reject settings that only the batch protocol supports.

    Raises:
        ModelError: every row would have to step at each event, or the whole stream would have to be counted
            in advance.
    """
    if config.rows == "dense":
        raise ModelError(
            "optimizer.rows = 'dense' updates every row at each step and is only available in the batch "
            "protocol; for a stream set optimizer.rows = 'lazy'"
        )
    if config.counts == "fixed":
        raise ModelError(
            "optimizer.counts = 'fixed' needs the counts of the whole dataset in advance and is only "
            "available in the batch protocol; for a stream choose stream or batch"
        )


def _check_revisit(config: OptimizerConfig) -> None:
    """Reject settings that do not work with ``method = "revisit"``."""
    if not 1 <= config.revisit_after <= MOST_KEPT:
        raise ModelError(
            f"optimizer.revisit_after must be between 1 and {MOST_KEPT:,}, got {config.revisit_after}; this "
            "many events are kept in memory"
        )
    for name in ("revisit_rows", "revisit_dense"):
        value = getattr(config, name)
        if not 0.0 <= value <= 1.0:
            raise ModelError(f"optimizer.{name} must be between 0 and 1, got {value}")
    for name in ("row_rule", "dense_rule"):
        value = getattr(config, name)
        if value not in REVISIT_RULES:
            raise ModelError(
                f"optimizer.{name} = {value!r} is incompatible with method = 'revisit'; choose "
                f"{' or '.join(REVISIT_RULES)}, whose step does not depend on earlier steps"
            )
    if config.first_order_rule != "rows":
        raise ModelError(
            f"optimizer.first_order_rule = {config.first_order_rule!r} is incompatible with "
            "method = 'revisit'; choose rows"
        )
    if config.l2 > 0.0:
        raise ModelError(
            f"optimizer.l2 = {config.l2} is incompatible with method = 'revisit', which removes an event's "
            "own step from its rows; set it to 0"
        )
