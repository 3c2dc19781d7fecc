"""Fields of the simulated world with known ground truth; the world itself is in the simulators."""

from __future__ import annotations

from stream_ctr.config.features import FieldConfig

WORLD_FIELDS = (
    FieldConfig("user"),
    FieldConfig("segment"),
    FieldConfig("interests", "multi", max_values=4),
    FieldConfig("ad"),
    FieldConfig("campaign"),
    FieldConfig("advertiser"),
    FieldConfig("category"),
    FieldConfig("site"),
    FieldConfig("device"),
    FieldConfig("hour"),
    FieldConfig("price", "float", buckets=32),
    FieldConfig("visits", "integer"),
)
