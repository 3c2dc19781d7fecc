"""The report of a reader: skipped rows, notes, and the limit on bad rows that ends the run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final, Literal, get_args

from stream_ctr.errors import DataError, RowError, UsageError

OnBadRow = Literal["stop", "skip"]
CHECKED_ROWS: Final = 1000
"""Number of rows of a file before the share of bad rows is checked; a share of fewer rows means little."""
_MAX_REASONS: Final = 50
_OTHER: Final = "other reasons"


@dataclass
class BadReason:
    """Bad rows with the same reason."""

    rows: int
    example: str
    """The first of these rows: file, line, column and value."""


@dataclass
class ReadReport:
    """Counts the bad rows of one read.

    >>> report = ReadReport("skip")
    >>> report.skip(RowError("a.csv", 7, ", column x: 'y' is not 0 or 1", "column x is not 0 or 1"), 5)
    >>> report.skipped, list(report.reasons)
    (1, ['column x is not 0 or 1'])
    """

    on_bad_row: OnBadRow = "stop"
    max_bad_share: float = 0.01
    skipped: int = field(default=0, init=False, repr=False)
    reasons: dict[str, BadReason] = field(default_factory=dict, init=False, repr=False)
    notes: dict[str, str] = field(default_factory=dict, init=False, repr=False)
    """Oddities of the files that may be mistakes, by subject."""
    _by_file: dict[str, int] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        """Check the options."""
        if self.on_bad_row not in get_args(OnBadRow):
            raise UsageError(f"on_bad_row must be 'stop' or 'skip', got {self.on_bad_row!r}")
        if not 0 < self.max_bad_share <= 1:
            raise UsageError(
                f"max_bad_share must be above 0 and at most 1 (0.01 is 1 %), got {self.max_bad_share:g}"
            )

    def clear(self) -> None:
        """Start a new read."""
        self.skipped = 0
        self.reasons.clear()
        self.notes.clear()
        self._by_file.clear()

    def skip(self, error: RowError, number: int) -> None:
        """Count a bad row; ``number`` (from 0) is its row number in its file.

        Raises:
            RowError: ``error``, unless bad rows are skipped.
            DataError: after 1,000 rows, the share of bad rows in the file is above ``max_bad_share``.
        """
        if self.on_bad_row == "stop":
            raise error
        self.skipped += 1
        reason = error.reason
        if reason not in self.reasons and len(self.reasons) >= _MAX_REASONS:
            reason = _OTHER
        self.reasons.setdefault(reason, BadReason(0, error.fault)).rows += 1
        bad = self._by_file[error.path] = self._by_file.get(error.path, 0) + 1
        rows = number + 1
        if rows >= CHECKED_ROWS and bad > self.max_bad_share * rows:
            raise self._too_many(error.path, f"{bad:,} of the first {rows:,} rows")

    def end_without_rows(self, path: str) -> None:
        """Check a file that yielded no row.

        Raises:
            DataError: the file has rows, and all of them are bad.
        """
        if bad := self._by_file.get(path, 0):
            raise self._too_many(path, f"all {bad:,} rows")

    def _too_many(self, path: str, which: str) -> DataError:
        reason, found = max(self.reasons.items(), key=lambda item: item[1].rows)
        return DataError(
            f"{path}: {which} are bad, above max_bad_share = {self.max_bad_share:g}; most often: {reason} "
            f"({found.example}); correct the file or the options of its reader, or raise max_bad_share"
        )

    def as_dict(self) -> dict[str, Any]:
        """The report, for ``--json``."""
        reasons = sorted(self.reasons.items(), key=lambda item: -item[1].rows)
        return {
            "skipped": self.skipped,
            "reasons": [
                {"reason": reason, "rows": found.rows, "example": found.example} for reason, found in reasons
            ],
            "notes": list(self.notes.values()),
        }

    def summary(self) -> str:
        """The report as text; empty if there are neither bad rows nor notes."""
        parts = list(self.notes.values())
        if self.skipped:
            reasons = "; ".join(
                f"{found['rows']:,} x {found['reason']} (first: {found['example']})"
                for found in self.as_dict()["reasons"]
            )
            parts.insert(
                0, f"{self.skipped:,} bad {'row' if self.skipped == 1 else 'rows'} skipped: {reasons}"
            )
        return "".join(f"{part}. " for part in parts).rstrip()
