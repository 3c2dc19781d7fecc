"""The fields that a configuration means: its own list, or a dataset's."""

from __future__ import annotations

from stream_ctr.config.features import FeaturesConfig, FieldConfig
from stream_ctr.datasets.base import PRESETS, preset_fields
from stream_ctr.errors import ConfigError


def resolve_fields(features: FeaturesConfig) -> tuple[FieldConfig, ...]:
    """Fields of the configuration, those of the preset where it names one.

    Raises:
        ConfigError: neither or both are given, or a name appears twice.
    """
    if features.fields and features.preset:
        raise ConfigError("features.preset and features.fields are both set; keep one of them")
    fields = features.fields or (preset_fields(features.preset) if features.preset else ())
    if not fields:
        raise ConfigError(
            "the configuration names no features: write a [[features.fields]] table with the name of each "
            f"feature of your impressions, or [features] preset = one of {', '.join(PRESETS)} "
            '("world" for `stream-ctr simulate`)'
        )
    names = [field.name for field in fields]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"features.fields: the name {name!r} appears twice")
    return fields
