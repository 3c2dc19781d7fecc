"""Impressions and clicks as JSON, one record each.

Every record carries ``v``. Readers accept the current version and the one before it.
"""

from __future__ import annotations

from typing import Any, Final, Generic, TypeVar

import msgspec

RECORD_VERSION = 1
MAX_EVENT_ID_BYTES: Final = 256
"""Longest event id in UTF-8 bytes, for writers and readers alike: ids are held for the whole deduplication
horizon, so their size is bounded."""
MAX_WORTH: Final = 1e12
"""Largest bid and largest value of a click; the smallest is 0. Sums of such amounts stay finite and keep
their cents in a double."""

FeatureValue = str | int | float | bool | list[Any] | None
"""A feature as it is logged: a missing value is ``None``, an empty text or an absent name."""


Features = TypeVar("Features")


class ImpressionRecord(
    msgspec.Struct, Generic[Features], forbid_unknown_fields=True, omit_defaults=True, kw_only=True
):
    """The keys of an impression, generic in the type of its features.

    ``p`` holds the probability that each arm gave; ``arm`` is the arm whose answer was shown.
    ``propensity`` is the probability with which that arm was drawn, if it was drawn for this event alone.
    ``truth`` is the ground-truth click probability of a simulator; no learner ever reads it.
    """

    v: int
    event_id: str
    ts_ms: int
    features: Features
    user: str = ""
    bid: float = 0.0
    p: dict[str, float] = {}
    truth: float | None = None
    experiment: str = ""
    salt: str = ""
    bucket: int | None = None
    assigned_arm: str = ""
    arm: str = ""
    reason: str = ""
    model_version: str = ""
    propensity: float | None = None


class Impression(
    ImpressionRecord[dict[str, Any]], forbid_unknown_fields=True, omit_defaults=True, kw_only=True
):
    """One item shown to one user, with the features known when it was shown.

    A feature in the schema is a :data:`FeatureValue`; any other feature may be any JSON value.
    """


class ScannedImpression(
    ImpressionRecord[msgspec.Raw], forbid_unknown_fields=True, omit_defaults=True, kw_only=True, gc=False
):
    """An :class:`Impression` whose features a compiled scan has already encoded as keys."""

    @property
    def ignored(self) -> tuple[str, ...]:
        """Names of the features without a field."""
        return ()


class LabelledImpression(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """One impression with its final label, as written by the joining process or a stream engine.

    ``ts_ms`` is when the label became known, in event time; it does not decrease within a partition.
    ``source`` is topic, partition and offset of the impression. ``sequence`` numbers the records of a
    partition of the labelled topic from 0; it is -1 if the writer does not number them.
    """

    v: int
    ts_ms: int
    label: int
    impression: Impression
    source: tuple[str, int, int] | None = None
    sequence: int = -1


class Click(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """One click on one impression; ``value`` is its worth, 1 by default."""

    v: int
    event_id: str
    ts_ms: int
    value: float = 1.0
