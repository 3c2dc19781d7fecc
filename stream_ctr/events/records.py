"""What happened: impressions and clicks as JSON, one record each.

Every record carries ``v``. Readers take the current version and the one before it.
"""

from __future__ import annotations

from typing import Any, Final, Generic, TypeVar

import msgspec

RECORD_VERSION = 1
MAX_EVENT_ID_BYTES: Final = 256
"""Longest event id in UTF-8 bytes, for everything that makes or reads one: ids are held for the whole
de-duplication horizon, so their size is bounded."""
MAX_WORTH: Final = 1e12
"""Largest bid and largest value of a click; the smallest is 0. Sums of such amounts stay finite and keep
their cents in a double."""

FeatureValue = str | int | float | bool | list[Any] | None
"""A feature as it is logged: a missing value is ``None``, an empty text or an absent name."""


Features = TypeVar("Features")


class ImpressionRecord(
    msgspec.Struct, Generic[Features], forbid_unknown_fields=True, omit_defaults=True, kw_only=True
):
    """The keys of an impression, whatever its features are decoded to.

    ``p`` holds the probability that each arm gave; ``arm`` is the arm whose answer was shown.
    ``propensity`` is the probability with which that arm was drawn, where it was drawn for this event alone.
    ``truth`` is the true click probability, where a simulator knows it; no learner ever reads it.
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
    """One thing shown to one user, with what was known when it was shown.

    A feature that the schema names is a :data:`FeatureValue`; another one may be any JSON.
    """


class ScannedImpression(
    ImpressionRecord[msgspec.Raw], forbid_unknown_fields=True, omit_defaults=True, kw_only=True, gc=False
):
    """An :class:`Impression` whose features a compiled scan has turned into keys already."""

    @property
    def ignored(self) -> tuple[str, ...]:
        """Names of the features that no field has."""
        return ()


class LabelledImpression(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """One impression with its final label, as the joining process (or a stream engine) writes it.

    ``ts_ms`` is when the label became known, in event time; it does not descend within a partition.
    ``source`` is topic, partition and offset of the impression. ``sequence`` counts the records of a
    partition of the labelled topic from 0; -1 where a writer does not number them.
    """

    v: int
    ts_ms: int
    label: int
    impression: Impression
    source: tuple[str, int, int] | None = None
    sequence: int = -1


class Click(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """One click on one impression; ``value`` is what it was worth, 1 unless told."""

    v: int
    event_id: str
    ts_ms: int
    value: float = 1.0
