"""The field schema: which features there are, and what each becomes."""

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
    """Name of the feature in the impression's features."""
    kind: FieldKind = "categorical"
    """categorical: the value's text. multi: a list of values, each as its text. integer: floor(ln(v)^2) for
    v > 2, else v. float: the quantile bucket that holds it."""
    max_values: int = 8
    """multi: slots of the field. Of a longer list some values are cut, and counted."""
    buckets: int = 64
    """float without boundaries: number of quantile buckets, learned from the stream."""
    boundaries: tuple[float, ...] = ()
    """float: ascending bucket boundaries, for quantiles known beforehand."""
    keep: Literal["first", "last"] = "first"
    """multi: which values of a list with more than ``max_values`` different ones are kept."""


@dataclass(frozen=True, slots=True)
class FeaturesConfig:
    """Fields, and how their values become embedding rows."""

    preset: str = ""
    """Name of a dataset whose fields to use (criteo, avazu, taobao, open-bandit, world)."""
    fields: tuple[FieldConfig, ...] = ()
    """The fields, in the order of the model's inputs; instead of a preset."""
    counts: Literal["running", "decayed"] = "running"
    """Feature counts behind the radii of eq. 7: over the whole stream, or halved every half-life."""
    half_life_seconds: Annotated[float, Ge(1e-9)] = 7 * 86400.0
    """decayed: event time in which a count loses half of its weight."""
    unknown: UnknownFeatures = "ignore"
    """Features that no field names. ignore: they are counted, and each name is logged once. refuse: the
    record is a dead letter, and the server answers 400."""
    minimum_count: Annotated[int, Ge(1)] = 1
    """Sightings before a value gets an embedding row of its own; until then its field's default row."""


def slot_fields(fields: tuple[FieldConfig, ...]) -> list[int]:
    """Index of the field of each slot: one slot a field, ``max_values`` for a multi-valued one.

    >>> slot_fields((FieldConfig("a"), FieldConfig("b", "multi", max_values=2)))
    [0, 1, 1]
    """
    return [
        index
        for index, item in enumerate(fields)
        for _ in range(item.max_values if item.kind == "multi" else 1)
    ]
