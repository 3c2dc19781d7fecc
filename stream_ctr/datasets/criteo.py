"""Criteo Display Advertising Challenge (2014): ``train.txt`` or a sample of it.

Tab-separated without header: label, I1 to I13 (integers), C1 to C26 (8 hexadecimal digits); an empty
cell is a missing value. The rows are in time order, but the file does not hold their times.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from os import PathLike
from typing import ClassVar

from stream_ctr.config.features import FieldConfig
from stream_ctr.datasets.base import Example
from stream_ctr.datasets.files import (
    Line,
    bad_value,
    build_rows,
    read_lines,
    to_integer,
    to_label,
    wrong_width,
)
from stream_ctr.datasets.reader import FileReader
from stream_ctr.errors import UsageError
from stream_ctr.events.records import FeatureValue

INTEGERS = tuple(f"I{number}" for number in range(1, 14))
CATEGORIES = tuple(f"C{number}" for number in range(1, 27))
CRITEO_FIELDS = (
    *(FieldConfig(name, "integer") for name in INTEGERS),
    *(FieldConfig(name) for name in CATEGORIES),
)
_WIDTH = 1 + len(INTEGERS) + len(CATEGORIES)


@dataclass(frozen=True)
class Criteo(FileReader):
    """Reads ``train.txt``.

    Row n (from 0) is event ``criteo-<n>``; its time is ``start_ms`` + n / ``rows`` x ``span_seconds``.
    """

    rows: int = 45_840_617
    """Number of rows in the span: the rows of the full file, or of the sample."""
    span_seconds: float = 7 * 86400.0
    """Time that the rows cover: the challenge's training file covers seven days."""
    start_ms: int = 0
    """Time of the first row, in milliseconds since 1970; the true date was never published."""

    name: ClassVar[str] = "criteo"
    fields: ClassVar[tuple[FieldConfig, ...]] = CRITEO_FIELDS

    def __post_init__(self) -> None:
        """Check the options."""
        super().__post_init__()
        if self.rows < 1 or not 0 < self.span_seconds < float("inf"):
            raise UsageError(
                f"criteo: rows and span_seconds must be above 0, got {self.rows} and {self.span_seconds:g}"
            )

    @property
    def about(self) -> str:
        """How the times are derived."""
        return (
            f"Criteo has no times: they are synthesised from the row number, {self.rows:,} rows spread "
            f"evenly over {self.span_seconds / 86400:g} days (options rows, span_seconds, start_ms)."
        )

    def _examples(self, path: str | PathLike[str]) -> Iterator[Example]:
        step_ms = self.span_seconds * 1000.0 / self.rows

        def build(row: Line) -> Example:
            number, line, text = row
            cells = text.split("\t")
            if len(cells) != _WIDTH:
                raise wrong_width(path, line, _WIDTH, len(cells))
            try:
                label = to_label(cells[0])
            except ValueError:
                raise bad_value(path, line, "label", cells[0], "0 or 1") from None
            features: dict[str, FeatureValue] = {}
            for name, cell in zip(INTEGERS, cells[1:14], strict=True):
                if cell:
                    try:
                        features[name] = to_integer(cell)
                    except ValueError:
                        raise bad_value(path, line, name, cell, "a whole number") from None
            categories = zip(CATEGORIES, cells[14:], strict=True)
            features.update({name: cell for name, cell in categories if cell})
            return Example(f"criteo-{number}", self.start_ms + int(number * step_ms), "", features, label)

        return build_rows(path, read_lines(path, self.report), build, self.report)
