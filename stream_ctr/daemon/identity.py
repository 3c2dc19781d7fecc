"""The settings on which a saved state depends: a configuration must match them to resume the state."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from stream_ctr.config.experiment import Arm
from stream_ctr.config.features import FieldConfig
from stream_ctr.config.model import model_identity
from stream_ctr.config.settings import Settings
from stream_ctr.errors import StateError


def identity(settings: Settings, arm: Arm, fields: tuple[FieldConfig, ...]) -> dict[str, Any]:
    """The settings that determine the shape or the meaning of an arm's state, as plain JSON values.

    Learning rates and radii are not among them: they may change between runs.
    """
    features = asdict(settings.features)
    features["fields"] = [_field(field) for field in fields]
    features.pop("preset")
    features.pop("unknown")  # ignored features do not affect keys
    rules: dict[str, str] = {"row_rule": arm.optimizer.row_rule, "dense_rule": arm.optimizer.dense_rule}
    if arm.optimizer.first_order_rule != "rows":
        rules["first_order_rule"] = arm.optimizer.first_order_rule
    if arm.optimizer.moments != "float32":
        rules["moments"] = arm.optimizer.moments
    join = asdict(settings.join)
    # Labels depend neither on the memory budget of the joiner nor on how long it waits for late clicks.
    join.pop("memory_bytes")
    join.pop("grace_seconds")
    found: dict[str, Any] = _plain(
        {
            "arm": arm.name,
            "model": model_identity(arm.model),
            "features": features,
            "join": join,
            "order": order_identity(settings),
            "optimizer": rules,
            "learner": {"seed": arm.learner.seed},
            "topics": _topics(settings),
        }
    )
    if arm.learn_from != "all":
        found["learn_from"] = arm.learn_from
    return found


def _field(field: FieldConfig) -> dict[str, Any]:
    """A field without the default of ``keep``, so that states saved before ``keep`` existed still match."""
    found = asdict(field)
    if field.keep == "first":
        found.pop("keep")
    return found


def order_identity(settings: Settings) -> dict[str, Any]:
    """The settings of the order that determine it."""
    return {"max_ahead_seconds": settings.order.max_ahead_seconds}


def _topics(settings: Settings) -> dict[str, str]:
    if settings.join.input == "labelled":
        return {"labelled": settings.log.labelled}
    return {"impressions": settings.log.impressions, "clicks": settings.log.clicks}


def _plain(value: Any) -> Any:
    """The value with tuples as lists, as JSON returns them."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def check_identity(saved: dict[str, Any], configured: dict[str, Any], folder: Path) -> None:
    """Compare; the first difference is named with both values.

    Raises:
        StateError: they differ.
    """
    found = difference(saved, configured)
    if found:
        path, there, here = found
        raise StateError(
            f"the checkpoints in {folder} belong to another setup: {path} is {there!r} there and {here!r} in "
            "the configuration; restore the setting, or name another state folder to start anew"
        )


RETIRED: Final = frozenset({"order.max_lead_seconds"})
"""Settings in the checkpoints of version 0.1 that are no longer part of an identity."""


def difference(saved: Any, configured: Any, path: str = "") -> tuple[str, Any, Any] | None:
    """Path of the first difference between two JSON values, with both values; None if they are equal."""
    if isinstance(saved, dict) and isinstance(configured, dict):
        for key in sorted(saved.keys() | configured.keys()):
            name = f"{path}.{key}" if path else key
            found = difference(saved.get(key), configured.get(key), name)
            if found and name not in RETIRED:
                return found
        return None
    if isinstance(saved, list) and isinstance(configured, list) and len(saved) == len(configured):
        for index, (there, here) in enumerate(zip(saved, configured, strict=True)):
            found = difference(there, here, f"{path}[{index}]")
            if found:
                return found
        return None
    return None if saved == configured else (path, saved, configured)
