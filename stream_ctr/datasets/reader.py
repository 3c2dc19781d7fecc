"""Base class of file readers: the options for bad rows, and the report of a read."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from os import PathLike
from typing import Any, cast

from stream_ctr.datasets.base import Example
from stream_ctr.datasets.read_report import OnBadRow, ReadReport


@dataclass(frozen=True, kw_only=True)
class FileReader(ABC):
    """A dataset that is read from files, row by row."""

    on_bad_row: str = ""
    """stop (the default): a row that does not match the format ends the run. skip: it is counted."""
    max_bad_share: float | None = None
    """With skip: share of bad rows, after 1,000 rows of a file, above which the run ends (default 0.01)."""
    report: ReadReport = field(init=False, repr=False, compare=False)
    """Bad rows and notes of the latest read."""

    def __post_init__(self) -> None:
        """Check the options."""
        self._report_as("stop", 0.01)

    def _report_as(self, on_bad_row: OnBadRow, max_bad_share: float) -> None:
        """Create the report; the arguments are the defaults of the two options."""
        report = ReadReport(
            cast("OnBadRow", self.on_bad_row or on_bad_row),
            max_bad_share if self.max_bad_share is None else self.max_bad_share,
        )
        object.__setattr__(self, "report", report)

    @property
    @abstractmethod
    def about(self) -> str:
        """Caveats that always apply to the data: synthesised times, order, missing tables."""

    @property
    def note(self) -> str:
        """Caveats that a report must state, including the bad rows of the latest read."""
        return f"{self.about} {self.report.summary()}".rstrip()

    def read(self, path: str | PathLike[str], limit: int | None = None) -> Iterator[Example]:
        """The first ``limit`` examples in file order, or all of them.

        Raises:
            DataError: see :meth:`stream_ctr.datasets.base.Dataset.read`.
        """
        self.report.clear()
        return islice(self._examples(path), limit)

    @abstractmethod
    def _examples(self, path: str | PathLike[str]) -> Iterator[Example]:
        """All examples in file order."""


def read_report(dataset: Any) -> ReadReport:
    """The report of a dataset; an empty report if it is not a file reader."""
    return dataset.report if isinstance(dataset, FileReader) else ReadReport()
