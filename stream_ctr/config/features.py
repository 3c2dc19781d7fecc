"""The table [features]: the field schema, and how values become embedding rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge

FieldKind = Literal["categorical", "multi", "integer", "float"]
UnknownFeatures = Literal["ignore", "refuse"]


@dataclass(frozen=True, slots=True)
class FieldConfig:
    """One field of the schema."""

    name: str
    """Name of the feature in an impression's ``features``."""
    kind: FieldKind = "categorical"
    """How a value becomes a key. categorical: its text. multi: a list of values, each its text. integer:
    floor(ln(v)^2) for v > 2, else v. float: its quantile bucket."""
    max_values: int = 8
    """multi: slots of the field. A longer list is cut, and the cut values are counted."""
    buckets: int = 64
    """float without boundaries: number of quantile buckets, learned from the stream."""
    boundaries: tuple[float, ...] = ()
    """float: ascending bucket boundaries, instead of learned quantiles."""
    keep: Literal["first", "last"] = "first"
    """multi: which values are kept of a list with more than ``max_values`` distinct ones."""


@dataclass(frozen=True, slots=True)
class FeaturesConfig:
    """The fields, and how their values become embedding rows."""

    preset: str = ""
    """Dataset whose fields to use: criteo, avazu, taobao, open-bandit or world."""
    fields: tuple[FieldConfig, ...] = ()
    """The fields in the order of the model's inputs, instead of a preset."""
    counts: Literal["running", "decayed"] = "running"
    """Feature counts behind the radii of Helen's eq. 7: over the whole stream, or with exponential decay."""
    half_life_seconds: Annotated[float, Ge(1e-9)] = 7 * 86400.0
    """decayed: event time in which a count loses half of its weight."""
    unknown: UnknownFeatures = "ignore"
    """Features without a field. ignore: they are counted, and each name is logged once. refuse: the record
    becomes a dead letter, and the server answers 400."""
    minimum_count: Annotated[int, Ge(1)] = 1
    """Occurrences before a value gets its own embedding row; until then it uses its field's default row."""


def slot_fields(fields: tuple[FieldConfig, ...]) -> list[int]:
    """Field index of each slot: one slot for a field, ``max_values`` slots for a multi-valued one.

    >>> slot_fields((FieldConfig("a"), FieldConfig("b", "multi", max_values=2)))
    [0, 1, 1]
    """
    return [
        index
        for index, item in enumerate(fields)
        for _ in range(item.max_values if item.kind == "multi" else 1)
    ]
