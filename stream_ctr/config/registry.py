"""Extensions from other packages: backbones, base rules, optimizer presets, logs, datasets, label policies.

A package adds one by an entry point in its own metadata, which every command finds once the package is
installed. A program adds one by :func:`register`, for its own process. Built-in names cannot be replaced:
each place that looks a name up asks its own table first.
"""

from __future__ import annotations

import difflib
import importlib.metadata
from collections.abc import Callable, Iterable
from typing import Any, Final, TypeVar

from stream_ctr.errors import UsageError

BACKBONES: Final = "stream_ctr.backbones"
"""Networks: ``(ModelConfig, fields) -> Backbone``, by ``model.backbone``."""
RULES: Final = "stream_ctr.rules"
"""Base rules: ``(rate, initial) -> Rule``, by ``row_rule``, ``dense_rule`` or ``first_order_rule``."""
PRESETS: Final = "stream_ctr.presets"
"""Optimizers: an ``OptimizerConfig``, by ``--optimizer``."""
LOGS: Final = "stream_ctr.logs"
"""Event logs: ``(url, create=..., security=...) -> EventLog``, by the scheme of ``log.url``."""
DATASETS: Final = "stream_ctr.datasets"
"""Datasets: a dataclass of options that is a ``Dataset``, by its name on the command line."""
LABEL_POLICIES: Final = "stream_ctr.label_policies"
"""Label policies: an object that is a ``CustomPolicy``, by ``join.policy``."""
GROUPS: Final = (BACKBONES, RULES, PRESETS, LOGS, DATASETS, LABEL_POLICIES)

_registered: dict[str, dict[str, Any]] = {group: {} for group in GROUPS}

T = TypeVar("T")


def register(group: str, name: str) -> Callable[[T], T]:
    """Decorator (or function) that adds an extension to this process.

    >>> register("stream_ctr.presets", "registry-example")("any value")
    'any value'
    >>> find("stream_ctr.presets", "registry-example")
    'any value'

    Raises:
        UsageError: the group is unknown, or the name has another value already.
    """
    if group not in _registered:
        raise UsageError(f"no extension group named {group!r}; the groups are {', '.join(GROUPS)}")

    def add(value: T) -> T:
        if _registered[group].setdefault(name, value) is not value:
            raise UsageError(f"{group}: {name!r} is registered already; choose another name")
        return value

    return add


def find(group: str, name: str) -> Any:
    """The extension of that name; None if there is none.

    Raises:
        UsageError: the entry point exists and cannot be imported.
    """
    known = _registered[group]
    if name not in known:
        entry = next(iter(importlib.metadata.entry_points(group=group, name=name)), None)
        if entry is None:
            return None
        try:
            known[name] = entry.load()
        except Exception as error:  # any error of a foreign module
            reason = " ".join(str(error).split())
            raise UsageError(
                f"{group}: {name!r} ({entry.value}) cannot be imported: {type(error).__name__}: {reason}"
            ) from error
    return known[name]


def names(group: str) -> list[str]:
    """Names of all extensions of a group, registered or installed, in alphabetical order."""
    return sorted(
        {*_registered[group], *(entry.name for entry in importlib.metadata.entry_points(group=group))}
    )


def why_unknown(group: str, built_in: Iterable[str], key: str, value: str) -> str | None:
    """Message for a value that is neither built in nor an extension; None if it is known.

    >>> why_unknown("stream_ctr.logs", ("sqlite", "kafka"), "scheme", "kafak")
    "scheme = 'kafak' is unknown; choose sqlite or kafka; did you mean 'kafka'?"
    """
    choices = list(built_in)
    if value in choices or find(group, value) is not None:
        return None
    choices += names(group)
    near = difflib.get_close_matches(value, choices, n=1, cutoff=0.6)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"{key} = {value!r} is unknown; choose {' or '.join(choices)}{hint}"
