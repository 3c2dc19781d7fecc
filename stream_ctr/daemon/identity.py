"""The settings on which a saved state depends: a configuration must match them to resume the state."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from stream_ctr.config.experiment import Arm
from stream_ctr.config.features import FieldConfig
from stream_ctr.config.model import model_identity
from stream_ctr.config.settings import Settings
from stream_ctr.errors import StateError

RETIRED: Final = frozenset({"order.max_lead_seconds"})
"""Settings in the checkpoints of version 0.1 that are no longer part of an identity."""
FIELDS: Final = "features.fields"
OMITTED: Final = {"learn_from": "all", "optimizer.first_order_rule": "rows", "optimizer.moments": "float32"}
"""Settings that an identity contains only if they differ from these values."""
SECTIONS: Final = {"topics": "log", "watch": "join"}
"""Names of sections in an identity that differ from those in the configuration."""
LABELLED_ID: Final = "labelled_topic_id"
SHOWN: Final = 10
"""Maximum number of fields or settings of one kind in a message."""


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
    """Check that a configuration matches the identity of the state in ``folder``.

    Raises:
        StateError: they differ; the message names the settings, with both values, and the fields.
    """
    changes = dict(_changes(saved, configured))
    topic_ids = changes.pop(LABELLED_ID, None)
    if changes:
        fault, settings = _described(changes)
        raise StateError(f"{folder} {fault}. Restore {settings}, or set train.state to a new folder")
    if topic_ids is not None:
        raise StateError(
            f"topic {configured['topics']['labelled']!r} was deleted and created again since {folder} was "
            f"written (id {topic_ids[0]}, now {topic_ids[1]}): labelled records were lost. Set log.labelled "
            "to a new topic and train.state to a new folder"
        )


def describe_differences(saved: dict[str, Any], configured: dict[str, Any]) -> tuple[str, str] | None:
    """How a state differs from a configuration, as the end of a sentence, and the settings that differ; None
    if they agree.

    >>> describe_differences({"join": {"policy": "wait"}}, {"join": {"policy": "fast"}})
    ('was created with join.policy = "wait" (now "fast")', 'join.policy')
    """
    changes = dict(_changes(saved, configured))
    return _described(changes) if changes else None


def _described(changes: dict[str, tuple[Any, Any]]) -> tuple[str, str]:
    names, faults = list(changes), []
    values = [
        f"{key} = {_shown(there)} (now {_shown(here)})"
        for key, (there, here) in changes.items()
        if key != FIELDS
    ]
    if FIELDS in changes:
        faults.append(f"was trained with different fields ({_field_changes(*changes[FIELDS])})")
    if values:
        faults.append(f"was created with {_shortened(values)}")
    return " and ".join(faults), _shortened(names)


def _changes(saved: Any, configured: Any, path: str = "") -> Iterator[tuple[str, tuple[Any, Any]]]:
    """Settings of two identities that differ, by the name in the configuration, with both values."""
    if isinstance(saved, dict) or isinstance(configured, dict):
        there, here = saved or {}, configured or {}
        for key in sorted(there.keys() | here.keys()):
            name = f"{path}.{key}" if path else SECTIONS.get(key, key)
            default = OMITTED.get(name)
            yield from _changes(there.get(key, default), here.get(key, default), name)
    elif saved != configured and path not in RETIRED:
        yield path, (saved, configured)


def _field_changes(saved: list[dict[str, Any]] | None, configured: list[dict[str, Any]] | None) -> str:
    """The names of the fields that differ.

    >>> _field_changes([{"name": "ad"}, {"name": "age", "hash": 1}], [{"name": "age", "hash": 2}])
    'removed: ad; changed: age'
    """
    there, here = ({field["name"]: field for field in fields} for fields in (saved or [], configured or []))
    kinds = {
        "removed": [name for name in there if name not in here],
        "added": [name for name in here if name not in there],
        "changed": [name for name in there if name in here and there[name] != here[name]],
    }
    if not any(kinds.values()):
        return f"another order: {_shortened(list(there))}; now {_shortened(list(here))}"
    return "; ".join(f"{kind}: {_shortened(names)}" for kind, names in kinds.items() if names)


def _shortened(items: list[str]) -> str:
    more = len(items) - SHOWN
    return ", ".join(items[:SHOWN]) + (f" and {more} more" if more > 0 else "")


def _shown(value: Any) -> str:
    """A value as in the configuration file."""
    return "not set" if value is None else json.dumps(value)


def difference(saved: Any, configured: Any, path: str = "") -> tuple[str, Any, Any] | None:
    """Path of the first difference between two JSON values, with both values; None if they are equal."""
    if isinstance(saved, dict) and isinstance(configured, dict):
        for key in sorted(saved.keys() | configured.keys()):
            found = difference(saved.get(key), configured.get(key), f"{path}.{key}" if path else key)
            if found:
                return found
        return None
    if isinstance(saved, list) and isinstance(configured, list) and len(saved) == len(configured):
        for index, (there, here) in enumerate(zip(saved, configured, strict=True)):
            found = difference(there, here, f"{path}[{index}]")
            if found:
                return found
        return None
    return None if saved == configured else (path, saved, configured)
