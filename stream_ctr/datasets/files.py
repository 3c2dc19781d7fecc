"""Reads lines from plain or compressed files, and parses the values of cells.

Every failure is a :class:`DataError` that names the file and the line; a failure of a single row is a
:class:`RowError`, which a reader may skip.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from os import PathLike
from typing import Final, NamedTuple, TypeVar

from stream_ctr.datasets.formats import Opened, open_content
from stream_ctr.datasets.members import CompressedDataError
from stream_ctr.datasets.read_report import ReadReport
from stream_ctr.errors import DataError, RowError
from stream_ctr.features.keys.values import number_of, whole_of

MAX_LINE_BYTES: Final = 16 * 1024 * 1024
"""Longest line; without a limit, a binary file could be read as one line."""
MAX_TIME_MS: Final = 253_402_300_799_999
"""Last millisecond of the year 9999."""
_SHOWN: Final = 60

Built = TypeVar("Built")


class Line(NamedTuple):
    """One line that holds a row."""

    number: int
    """Row number, from 0: bad rows count, blank lines and headers do not."""
    line: int
    """Line number, from 1."""
    text: str
    """The line without its line end."""


class Row(NamedTuple):
    """The cells of one row."""

    number: int
    """Row number, from 0: bad rows count, blank lines and headers do not."""
    line: int
    """Number of the row's first line, from 1."""
    cells: list[str]


RowLike = TypeVar("RowLike", Line, Row)


def raw_lines(path: str | PathLike[str], report: ReadReport | None = None) -> Iterator[tuple[int, bytes]]:
    """Number (from 1) and bytes of every line, including its line end. Bytes that follow compressed data are
    noted in the report.

    Raises:
        DataError: the file is unreadable, empty, truncated, damaged or not text, or a line reaches
            MAX_LINE_BYTES.
    """
    number = 0
    try:
        with open_content(path) as opened:
            readline = opened.stream.readline
            while raw := readline(MAX_LINE_BYTES):
                number += 1
                if len(raw) == MAX_LINE_BYTES:
                    raise DataError(
                        f"{path}, line {number} is longer than {MAX_LINE_BYTES} bytes; is it a text file?"
                    )
                yield number, raw
            if report is not None:
                _note_trailing(path, number, opened, report)
    except CompressedDataError as error:
        raise DataError(f"{path}, after line {number}: {error}") from None
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from None
    if number == 0:
        raise DataError(f"{path} is empty; there is nothing to read")


def _note_trailing(path: str | PathLike[str], lines: int, opened: Opened, report: ReadReport) -> None:
    if opened.members is not None and (trailing := opened.members.trailing):
        report.notes[f"{path}: trailing"] = (
            f"{path}: its {opened.kind} data ends after line {lines:,}, but other bytes follow that are not "
            f"{opened.kind} data ({shorten(repr(trailing[:20]), _SHOWN)}); they were not read"
        )


def decode_line(path: str | PathLike[str], line: int, raw: bytes) -> str | RowError:
    """The text of a line, or the error if it is not UTF-8."""
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        return RowError(
            path,
            line,
            f": byte {raw[error.start]:#04x} is not UTF-8",
            "a byte that is not UTF-8",
            "convert the file to UTF-8, or skip bad rows with --option on_bad_row=skip",
        )
    return text.removeprefix("\ufeff") if line == 1 else text


def is_blank(text: str) -> bool:
    """Whether a line is empty or blank. A line with tabs is not blank: it is a row of empty cells.

    >>> is_blank(" \\r\\n"), is_blank("\\t\\n")
    (True, False)
    """
    return not text or (text.isspace() and "\t" not in text)


def read_lines(path: str | PathLike[str], report: ReadReport | None = None) -> Iterator[Line]:
    """Every line that is not blank, decoded as UTF-8.

    Raises:
        DataError: as :func:`raw_lines`, or a line is not UTF-8 and ``report`` does not skip it.
    """
    report = report or ReadReport()
    number = -1
    for line, raw in raw_lines(path, report):
        text = decode_line(path, line, raw)
        if isinstance(text, RowError):
            number += 1
            report.skip(text, number)
            continue
        text = text.rstrip("\r\n")
        if not text or (text[0] <= " " and is_blank(text)):
            continue
        number += 1
        yield Line(number, line, text)


def build_rows(
    path: str | PathLike[str],
    rows: Iterable[RowLike],
    build: Callable[[RowLike], Built],
    report: ReadReport,
) -> Iterator[Built]:
    """Apply ``build`` to each row of a file; rows that it rejects are added to the report.

    Raises:
        DataError: a row is bad and bad rows are not skipped, too many rows are bad, or all are.
    """
    built = False
    for row in rows:
        try:
            example = build(row)
        except RowError as error:
            report.skip(error, row.number)
            continue
        built = True
        yield example
    if not built:
        report.end_without_rows(str(path))


def wrong_width(
    path: str | PathLike[str], line: int, expected: int, found: int, remedy: str = ""
) -> RowError:
    """The error for a line with too few or too many columns."""
    what = f"{found} {'column' if found == 1 else 'columns'} instead of {expected}"
    return _row_error(path, line, f" has {what}", what, remedy)


def bad_value(
    path: str | PathLike[str], line: int, column: str, value: object, expected: str, remedy: str = ""
) -> RowError:
    """The error for a cell that does not match the format."""
    shown = shorten(repr(value), _SHOWN)
    what = f", column {column}: {shown} is not {expected}"
    return _row_error(path, line, what, f"column {column} is not {expected}", remedy)


def _row_error(path: str | PathLike[str], line: int, what: str, reason: str, remedy: str) -> RowError:
    return RowError(path, line, what, reason, remedy) if remedy else RowError(path, line, what, reason)


def shorten(text: str, length: int) -> str:
    """The text, truncated to ``length`` characters.

    >>> shorten("abcdef", 4)
    'a...'
    """
    return text if len(text) <= length else text[: length - 3] + "..."


def to_label(text: str) -> int:
    """Parse 0 or 1. Raises ValueError."""
    if text == "0":
        return 0
    if text == "1":
        return 1
    raise ValueError(text)


def to_integer(text: str) -> int:
    """Parse a whole number as :func:`stream_ctr.features.keys.values.whole_of` does. Raises ValueError.

    >>> to_integer("-12"), to_integer("3.0")
    (-12, 3)
    """
    return whole_of(text)


def to_float(text: str) -> float:
    """Parse a finite number as :func:`stream_ctr.features.keys.values.number_of` does. Raises ValueError.

    >>> to_float(" +0.5")
    0.5
    """
    return number_of(text)
