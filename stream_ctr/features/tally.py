"""What an encoder leaves out of the events: features that no field names, and values that find no slot."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from stream_ctr.errors import StateError
from stream_ctr.state import Json

MOST_NAMES: Final = 32
"""Unknown features that are counted by name. The sender chooses the names, so their number is bounded."""
OTHERS: Final = "(others)"
"""Counts the unknown features beyond these."""
LONGEST_NAME: Final = 60
"""Characters that are kept of a name."""


class Tally:
    """Counts of what was left out.

    >>> tally = Tally()
    >>> tally.ignore(["device", "os"])
    >>> tally.ignored
    {'device': 1, 'os': 1}
    """

    def __init__(self) -> None:
        self.truncated = 0
        """Values of multi-valued fields that found no slot."""
        self.ignored: dict[str, int] = {}
        """Features that no field names, by name."""

    @property
    def ignored_total(self) -> int:
        """Features that no field names."""
        return sum(self.ignored.values())

    def ignore(self, names: Collection[str]) -> None:
        """Count the unknown features of one event."""
        ignored = self.ignored
        for name in sorted(names) if len(names) > 1 else names:
            short = name[:LONGEST_NAME]
            if short not in ignored and len(ignored) >= MOST_NAMES:
                short = OTHERS
            ignored[short] = ignored.get(short, 0) + 1

    def values(self) -> dict[str, Json]:
        """The counts, to be saved."""
        return {"truncated": self.truncated, "ignored": dict(self.ignored)}

    @classmethod
    def of(cls, values: dict[str, Json]) -> Tally:
        """The counts that :meth:`values` gave. States of earlier releases have no names.

        Raises:
            StateError: they are damaged.
        """
        truncated, ignored = values.get("truncated"), values.get("ignored", {})
        if not isinstance(truncated, int) or truncated < 0:
            raise StateError(f"saved count of truncated values is {truncated!r}: the file is damaged")
        if not isinstance(ignored, dict) or len(ignored) > MOST_NAMES + 1:
            raise StateError("saved counts of unknown features are not a table: the file is damaged")
        found = cls()
        found.truncated = truncated
        for name, count in ignored.items():
            if not isinstance(count, int) or count < 0:
                raise StateError(f"saved count of the unknown feature {name!r} is damaged")
            found.ignored[name] = count
        return found
