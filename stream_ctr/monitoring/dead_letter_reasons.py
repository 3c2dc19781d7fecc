"""Counts of dead letters by reason, with the values in a reason masked; classes of reasons.

A reason quotes values of the record, so every record can have a different reason. For counting, numbers and
quoted texts are masked, while names of fields and keys are kept; the number of distinct reasons is bounded. A
metric label has only the class of a reason.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from stream_ctr.events.log import Entry

MOST_REASONS: Final = 50
"""Maximum number of distinct reasons; records with any other reason are counted together."""
OTHER: Final = "other reasons"
LONGEST: Final = 300
"""Maximum length of a reason in characters."""
CLASSES: Final = (
    ("UTF-8", "encoding"),
    ("Unicode", "encoding"),
    ("is null", "null"),
    ("bytes, more than", "too large"),
    ("too large", "too large"),
    ("nested", "nesting"),
    ("twice", "duplicate key"),
    ("unknown field", "unknown field"),
    ("missing required field", "missing key"),
    ("is not supported", "version"),
    ("ts_ms", "time"),
    ("is not a number", "not a number"),
    ("must be between 0 and 1, got", "probability"),
    ("propensity must be", "probability"),
    ("Expected `", "wrong type"),
    ("expected a ", "wrong type"),
    ("between 0 and 1e+12", "amount"),
    ("event_id", "event id"),
    ("JSON", "not JSON"),
    ("truncated", "not JSON"),
)
"""Classes of reasons, each by a phrase of the reason; the first match counts. A metric label must not contain
values of a record, because these are unbounded."""

_QUOTED: Final = r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\""
_VARIABLE: Final = re.compile(
    rf"(?P<name>\b(?:field|key|feature) (?:{_QUOTED})|`[^`]*`)"
    rf"|(?P<text>{_QUOTED})"
    r"|(?P<number>[-+]?\b\d(?:[\d.,_]*[\d_])?(?:[eE][-+]?\d+)?)"
)


@lru_cache(maxsize=1024)
def reason_pattern(reason: str) -> str:
    """A reason with its values masked.

    >>> reason_pattern("field 'age': expected a number, got 'x17' (str)")
    "field 'age': expected a number, got '...' (str)"
    >>> reason_pattern("ts_ms = 1764000000 looks like seconds")
    'ts_ms = N looks like seconds'
    """

    def shortened(found: re.Match[str]) -> str:
        if found["name"] is not None:
            return found["name"]
        return "'...'" if found["text"] is not None else "N"

    return _VARIABLE.sub(shortened, reason[:LONGEST])


def reason_class(reason: str) -> str:
    """The class of a reason, for a metric label.

    >>> reason_class("JSON is malformed: invalid character (byte 1)")
    'not JSON'
    """
    return next((name for phrase, name in CLASSES if phrase.lower() in reason.lower()), "other")


@dataclass(slots=True)
class ReasonCount:
    """One reason, the number of its records, and the first of them."""

    reason: str
    """The first record's reason, with its values."""
    count: int
    topic: str
    partition: int
    offset: int
    """Position of the first record."""

    @property
    def place(self) -> str:
        """Position of the first record as text."""
        return f"{self.topic}[{self.partition}] offset {self.offset}"


class ReasonCounts:
    """Counts dead letters by reason.

    >>> counts = ReasonCounts()
    >>> for offset in range(3):
    ...     counts.add(Entry("clicks", 0, offset, 0, None, b"{"), f"v = {offset} is not a version")
    >>> [(item.count, item.reason, item.place) for item in counts.most()]
    [(3, 'v = 0 is not a version', 'clicks[0] offset 0')]
    """

    def __init__(self) -> None:
        self._found: dict[str, ReasonCount] = {}

    def add(self, entry: Entry, reason: str) -> None:
        """Count one dead letter."""
        pattern = reason_pattern(reason)
        known = self._found.get(pattern)
        if known is None and len(self._found) >= MOST_REASONS:
            pattern, reason = OTHER, OTHER
            known = self._found.get(pattern)
        if known is not None:
            known.count += 1
            return
        place = entry.topic, entry.partition, entry.offset
        self._found[pattern] = ReasonCount(reason[:LONGEST], 1, *place)

    def most(self, limit: int | None = None) -> list[ReasonCount]:
        """The reasons, most frequent first; ties in order of appearance."""
        return sorted(self._found.values(), key=lambda item: -item.count)[:limit]
