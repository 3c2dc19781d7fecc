"""Lines out of files, plain or compressed, and values out of cells.

Every failure is a :class:`DataError` that names the file and the line; one that concerns a single row is a
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
"""A longer line is no line of any dataset; without a bound, a binary file would be read whole."""
MAX_TIME_MS: Final = 253_402_300_799_999
"""Last millisecond of the year 9999."""
_SHOWN: Final = 60

Built = TypeVar("Built")


class Line(NamedTuple):
    """One line that is a row."""

    number: int
    """Row number, from 0: bad rows count, blank lines and headers do not."""
    line: int
    """Line number, from 1."""
    text: str
    """The line without its end."""


class Row(NamedTuple):
    """The cells of one row."""

    number: int
    """Row number, from 0: bad rows count, blank lines and headers do not."""
    line: int
    """Number of the row's first line, from 1."""
    cells: list[str]


RowLike = TypeVar("RowLike", Line, Row)


def raw_lines(path: str | PathLike[str], report: ReadReport | None = None) -> Iterator[tuple[int, bytes]]:
    """Number (from 1) and bytes of every line with its end. Bytes behind compressed data become a note.

    Raises:
        DataError: unreadable, empty, truncated, damaged, not a text file, or a line beyond MAX_LINE_BYTES.
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
        raise DataError(f"{path} is empty; there is nothing to read in it")


def _note_trailing(path: str | PathLike[str], lines: int, opened: Opened, report: ReadReport) -> None:
    if opened.members is not None and (trailing := opened.members.trailing):
        report.notes[f"{path}: trailing"] = (
            f"{path}: its {opened.kind} data ends after line {lines:,}, but other bytes follow that are not "
            f"{opened.kind} data ({shorten(repr(trailing[:20]), _SHOWN)}); they were not read"
        )


def decode_line(path: str | PathLike[str], line: int, raw: bytes) -> str | RowError:
    """The text of a line, or the error when it is not UTF-8."""
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
    """Whether a line is no row: nothing or blanks; a line of tabs alone is a row of empty cells.

    >>> is_blank(" \\r\\n"), is_blank("\\t\\n")
    (True, False)
    """
    return not text or (text.isspace() and "\t" not in text)


def read_lines(path: str | PathLike[str], report: ReadReport | None = None) -> Iterator[Line]:
    """Every line that is not blank, UTF-8.

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
    """What ``build`` makes of each row of a file; rows that it refuses go to the report.

    Raises:
        DataError: a row is bad and is not to be skipped, too many are bad, or all.
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
    """The error of a line with too few or too many columns."""
    what = f"{found} {'column' if found == 1 else 'columns'} instead of {expected}"
    return _row_error(path, line, f" has {what}", what, remedy)


def bad_value(
    path: str | PathLike[str], line: int, column: str, value: object, expected: str, remedy: str = ""
) -> RowError:
    """The error of a cell that is not what the format says."""
    shown = shorten(repr(value), _SHOWN)
    what = f", column {column}: {shown} is not {expected}"
    return _row_error(path, line, what, f"column {column} is not {expected}", remedy)


def _row_error(path: str | PathLike[str], line: int, what: str, reason: str, remedy: str) -> RowError:
    return RowError(path, line, what, reason, remedy) if remedy else RowError(path, line, what, reason)


def shorten(text: str, length: int) -> str:
    """At most ``length`` characters of a text.

    >>> shorten("abcdef", 4)
    'a...'
    """
    return text if len(text) <= length else text[: length - 3] + "..."


def to_label(text: str) -> int:
    """0 or 1 out of their digits. Raises ValueError."""
    if text == "0":
        return 0
    if text == "1":
        return 1
    raise ValueError(text)


def to_integer(text: str) -> int:
    """A whole number; see :func:`stream_ctr.features.keys.values.whole_of`. Raises ValueError.

    >>> to_integer("-12"), to_integer("3.0")
    (-12, 3)
    """
    return whole_of(text)


def to_float(text: str) -> float:
    """A finite number; see :func:`stream_ctr.features.keys.values.number_of`. Raises ValueError.

    >>> to_float(" +0.5")
    0.5
    """
    return number_of(text)
