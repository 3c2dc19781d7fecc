"""Counts of the features without a field and of the list values without a slot, which an encoder leaves
out."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, Final

from stream_ctr.config.features import UnknownFeatures
from stream_ctr.errors import StateError
from stream_ctr.state.state import Json

MOST_NAMES: Final = 32
"""Unknown features counted by name. The sender chooses the names, so their number is bounded."""
OTHERS: Final = "(others)"
"""Name under which further unknown features are counted."""
LONGEST_NAME: Final = 60
"""Length in characters to which names are truncated."""


class Tally:
    """Counts ignored features and truncated values.

    >>> tally = Tally()
    >>> tally.ignore(["device", "os"])
    >>> tally.ignored
    {'device': 1, 'os': 1}
    """

    def __init__(
        self, unknown: UnknownFeatures = "ignore", notify: Callable[[str], None] = lambda name: None
    ) -> None:
        """``unknown`` decides whether features without a field are rejected or ignored; ``notify`` is called
        with each name that is counted for the first time."""
        self.refuses = unknown == "refuse"
        self._notify = notify
        self.truncated = 0
        """Number of values of multi-valued fields without a slot."""
        self.ignored: dict[str, int] = {}
        """Number of features without a field, by name."""

    @property
    def ignored_total(self) -> int:
        """Number of features without a field."""
        return sum(self.ignored.values())

    def ignore(self, names: Collection[str]) -> None:
        """Count the unknown features of one event."""
        ignored = self.ignored
        for name in sorted(names) if len(names) > 1 else names:
            short = name[:LONGEST_NAME]
            if short not in ignored and len(ignored) >= MOST_NAMES:
                short = OTHERS
            if short not in ignored:
                ignored[short] = 0
                self._notify(short)
            ignored[short] += 1

    def as_dict(self) -> dict[str, Any]:
        """The counts, for ``--json``."""
        return {"features_ignored": dict(self.ignored), "values_truncated": self.truncated}

    def lines(self, events: int) -> list[str]:
        """Report lines about what was left out of ``events`` events; empty if nothing was."""
        found = []
        if self.ignored:
            names = ", ".join(f"{name} ({count:,})" for name, count in self.ignored.items())
            found.append(f"features ignored, because no field has their name: {names}")
        if self.truncated:
            found.append(
                f"values truncated from lists longer than max_values: {self.truncated:,}, "
                f"{self.truncated / max(1, events):,.1f} per event"
            )
        return found

    def values(self) -> dict[str, Json]:
        """The counts, for a saved state."""
        return {"truncated": self.truncated, "ignored": dict(self.ignored)}

    def load(self, values: Mapping[str, Json]) -> None:
        """Restore the counts that :meth:`values` returned. States of earlier releases have no names.

        Raises:
            StateError: the counts are damaged.
        """
        truncated, ignored = values.get("truncated"), values.get("ignored", {})
        if not isinstance(truncated, int) or truncated < 0:
            raise StateError(f"saved count of truncated values is {truncated!r}: the file is damaged")
        if not isinstance(ignored, dict) or len(ignored) > MOST_NAMES + 1:
            raise StateError("saved counts of unknown features are not a table: the file is damaged")
        counts: dict[str, int] = {}
        for name, count in ignored.items():
            if not isinstance(count, int) or count < 0:
                raise StateError(f"saved count of the unknown feature {name!r} is damaged")
            counts[name] = count
        self.truncated, self.ignored = truncated, counts
