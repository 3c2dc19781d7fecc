"""Parses the rows and columns of delimited files: separators, quotes, headers."""

from __future__ import annotations

import csv
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Final, Literal

from stream_ctr.datasets.files import Row, decode_line, is_blank, raw_lines, read_lines, shorten, wrong_width
from stream_ctr.datasets.hints import looks_like_separator, no_such_column
from stream_ctr.datasets.read_report import ReadReport
from stream_ctr.errors import DataError, RowError, printable

Quoting = Literal["none", "minimal"]
MAX_ROW_LINES: Final = 100
"""Largest number of lines in a row: an unclosed quote would turn the rest of the file into one cell."""


@dataclass(frozen=True)
class Layout:
    """The layout of rows and cells."""

    delimiter: str = ","
    """One or more characters between two cells."""
    quoting: Quoting = "minimal"
    """minimal: quotes as in RFC 4180. none: a quote is an ordinary character."""
    columns: tuple[str, ...] = ()
    """Names of the columns; without them the first row is a header."""
    max_row_lines: int = MAX_ROW_LINES
    """Largest number of lines in a row; a row of several lines needs quotes."""
    schema: bool = False
    """Whether the user can change the layout in a schema, so that messages may suggest it."""


class _LongRowError(Exception):
    """A row has more lines than allowed."""


def read_rows(
    path: str | PathLike[str], layout: Layout | None = None, report: ReadReport | None = None
) -> Iterator[Row]:
    """Every row of a delimited file except blank lines.

    Raises:
        DataError: as ``read_lines``, or a row's quotes are wrong and ``report`` does not skip it.
    """
    layout, report = layout or Layout(), report or ReadReport()
    if layout.quoting == "minimal":
        yield from _QuotedRows(path, layout, report)
        return
    delimiter = layout.delimiter
    for number, line, text in read_lines(path, report):
        yield Row(number, line, text.split(delimiter))


class _QuotedRows:
    """Rows of a file with quotes. After a bad row, parsing resumes on the line after the row's first line."""

    def __init__(self, path: str | PathLike[str], layout: Layout, report: ReadReport) -> None:
        self._path = path
        self._layout = layout
        self._report = report
        self._lines = raw_lines(path, report)
        self._returned: deque[tuple[int, str | RowError]] = deque()
        """Lines to read again."""
        self._taken: list[tuple[int, str | RowError]] = []
        """Lines of the current row."""
        self._parser = self._reader()
        self._long = _LongRows(path, layout, report)

    def __iter__(self) -> Iterator[Row]:
        number = -1
        path, delimiter, lines, returned = self._path, self._layout.delimiter, self._lines, self._returned
        while True:
            if returned:
                line, text = returned.popleft()
            elif (found := next(lines, None)) is not None:
                line, text = found[0], decode_line(path, *found)
            else:
                break
            # A line without quotes, outside any quoted cell, is a complete row and needs no parser.
            if isinstance(text, str) and '"' not in text:
                body = text.rstrip("\r\n")
                if not body or (body[0] <= " " and is_blank(body)):
                    continue
                if "\r" not in body:
                    number += 1
                    yield Row(number, line, body.split(delimiter))
                    continue
            returned.appendleft((line, text))
            number += 1
            if (row := self._parsed(number)) is not None:
                yield row

    def _parsed(self, number: int) -> Row | None:
        """The row that begins on the next line; None if it is bad."""
        taken = self._taken
        taken.clear()
        try:
            cells = next(self._parser)
        except (csv.Error, RowError, _LongRowError) as error:
            self._report.skip(self._row_error(error), number)
            self._returned.extendleft(reversed(taken[1:]))
            self._parser = self._reader()
            return None
        if len(taken) > 1:
            self._long.count(taken[0][0], len(taken))
        return Row(number, taken[0][0], cells)

    def _reader(self) -> Iterator[list[str]]:
        return csv.reader(self._texts(), delimiter=self._layout.delimiter, strict=True)

    def _texts(self) -> Iterator[str]:
        taken, most = self._taken, self._layout.max_row_lines
        while True:
            if self._returned:
                item = self._returned.popleft()
            elif (found := next(self._lines, None)) is not None:
                item = found[0], decode_line(self._path, *found)
            else:
                return
            taken.append(item)
            text = item[1]
            if isinstance(text, RowError):
                raise text
            if len(taken) > most:
                raise _LongRowError
            yield text

    def _row_error(self, error: Exception) -> RowError:
        line = self._taken[0][0]
        text = str(error)
        if isinstance(error, RowError):
            return error
        quotes = (
            'if quotes are part of the text, set quoting = "none" in the schema'
            if self._layout.schema
            else "correct the quotes, or skip bad rows with --option on_bad_row=skip"
        )
        if isinstance(error, _LongRowError):
            what = f"a quote that opens in this row is not closed within {self._layout.max_row_lines} lines"
            more = "; if such long cells are intended, raise max_row_lines" if self._layout.schema else ""
            return RowError(self._path, line, f": {what}", what, quotes + more)
        if "unexpected end of data" in text or ("field larger" in text and len(self._taken) > 1):
            what = "a quote that opens in this row is not closed"
        elif "new-line character" in text:
            what = "the row contains a carriage return"
            quotes = "remove it, put the cell in quotes, or skip bad rows with --option on_bad_row=skip"
        elif "field larger" in text:
            what = f"a cell is longer than {csv.field_size_limit():,} characters"
        else:
            what = f"text follows the closing quote of a cell ({text})"
        return RowError(self._path, line, f": {what}", what, quotes)


class _LongRows:
    """Notes rows of several lines, because they may result from a stray quote that causes no error."""

    def __init__(self, path: str | PathLike[str], layout: Layout, report: ReadReport) -> None:
        self._path = path
        self._remedy = '; if quotes are part of the text, set quoting = "none" in the schema'
        if not layout.schema:
            self._remedy = ""
        self._notes = report.notes
        self._rows = self._longest = self._line = 0

    def count(self, line: int, lines: int) -> None:
        """Count a row of ``lines`` lines that begins on ``line``."""
        self._rows += 1
        if lines > self._longest:
            self._longest, self._line = lines, line
        self._notes[f"{self._path}: lines"] = (
            f"{self._path}: quotes join several lines into one row, {self._rows:,} "
            f"{'time' if self._rows == 1 else 'times'}; the longest is {self._longest} lines, from line "
            f"{self._line}{self._remedy}"
        )


class Table:
    """A delimited file with named columns; the names come from its header line or the layout."""

    def __init__(
        self, path: str | PathLike[str], layout: Layout | None = None, report: ReadReport | None = None
    ) -> None:
        self._path = path
        self._layout = layout or Layout()
        self._report = report or ReadReport()
        self._rows = read_rows(path, self._layout, self._report)
        self._header = not self._layout.columns
        self.columns = list(self._layout.columns)
        if self._header:
            header = next(self._rows, None)
            if header is None:
                raise DataError(f"{path} holds only blank lines; there is nothing to read")
            if header.number:
                raise DataError(f"{path}: its first line, the header, is bad; correct it")
            self.columns = [cell.strip() for cell in header.cells]

    def index(self, name: str) -> int:
        """Index of a column.

        Raises:
            DataError: the file has no column of that name, or several.
        """
        found = self.columns.count(name)
        if found == 1:
            return self.columns.index(name)
        if found:
            raise DataError(f"{self._path}: the header names the column {name!r} {found} times; rename one")
        shown = printable(shorten(", ".join(self.columns), 300))
        hint = no_such_column(name, self.columns, self._layout.delimiter, self._layout.schema)
        raise DataError(f"{self._path} has no column {name!r}; its columns are {shown}: {hint}")

    def __iter__(self) -> Iterator[Row]:
        """The rows; rows with too few or too many cells are added to the report."""
        width, first = len(self.columns), int(self._header)
        for number, line, cells in self._rows:
            if len(cells) != width:
                self._report.skip(self._wrong_width(line, cells), number - first)
            elif not number and not first and cells == self.columns:
                raise DataError(
                    f"{self._path}: its first line is a header, but the schema names columns; remove columns"
                )
            else:
                yield Row(number - first, line, cells)

    def _wrong_width(self, line: int, cells: Sequence[str]) -> RowError:
        remedy = ""
        if self._layout.schema and len(cells) == 1:
            other = looks_like_separator(cells[0], self._layout.delimiter, len(self.columns))
            remedy = f"set delimiter = {other} in the schema" if other else ""
        return wrong_width(self._path, line, len(self.columns), len(cells), remedy)
