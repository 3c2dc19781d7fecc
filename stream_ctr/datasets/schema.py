"""The schema file, as TOML, that describes the columns of a delimited or JSON-lines file.

::

    label = "click"          # column of the outcome
    time = "at"              # column of the impression's time; without it times are synthesised
    time_unit = "s"          # s, ms, us, ns, or iso for texts as 2024-05-01T12:00:00+00:00
    user = "visitor"         # optional, as are event_id and bid
    fields = [
        { name = "site" },
        { name = "age", kind = "integer" },
        { name = "interests", kind = "multi", separator = "|" },
        { name = "price", kind = "float", column = "price_eur" },
    ]
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from os import PathLike
from pathlib import Path
from typing import Literal

import msgspec

from stream_ctr.config.features import FieldConfig, FieldKind
from stream_ctr.datasets.base import Example
from stream_ctr.datasets.files import MAX_TIME_MS, bad_value
from stream_ctr.datasets.hints import label_remedy
from stream_ctr.datasets.read_report import OnBadRow, ReadReport
from stream_ctr.datasets.table import MAX_ROW_LINES, Layout, Quoting
from stream_ctr.errors import ConfigError, UsageError
from stream_ctr.events.records import MAX_EVENT_ID_BYTES, MAX_WORTH, FeatureValue
from stream_ctr.features.keys.values import number_of, text_of, whole_of

TimeUnit = Literal["s", "ms", "us", "ns", "iso"]
Cell = str | int | float | bool | list[object] | dict[str, object] | None
"""A cell as read: text from a delimited file, any JSON value from JSON lines."""
MOST_NAME_BYTES = MAX_EVENT_ID_BYTES - 24
"""Bytes of the file's name in an event id, before the row number."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_PER_UNIT_MS = {"s": (1000, 1), "ms": (1, 1), "us": (1, 1000), "ns": (1, 1_000_000)}


class FieldSchema(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """One field, as in the configuration file, and its source column."""

    name: str
    kind: FieldKind = "categorical"
    column: str = ""
    """Column of the file; default: the field's name."""
    separator: str = "|"
    """multi, delimited files: what separates the values in one cell."""
    max_values: int = 8
    buckets: int = 64
    boundaries: tuple[float, ...] = ()
    keep: Literal["first", "last"] = "first"
    """multi: which values of a list with more than ``max_values`` are kept."""

    @property
    def source(self) -> str:
        """The column that the field is read from."""
        return self.column or self.name

    def config(self) -> FieldConfig:
        """The field for the feature schema."""
        return FieldConfig(self.name, self.kind, self.max_values, self.buckets, self.boundaries, self.keep)


class Schema(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """The meaning of the columns."""

    fields: tuple[FieldSchema, ...]
    label: str
    time: str = ""
    """Column of the time; without one, row n happens at n / ``rows_per_second``."""
    time_unit: TimeUnit = "ms"
    rows_per_second: float = 1.0
    event_id: str = ""
    """Column of the event id; without one, the id is the file's name and the row number."""
    user: str = ""
    bid: str = ""
    positive: tuple[str, ...] = ("1", "true")
    """Texts of the label column that mean a click."""
    negative: tuple[str, ...] = ("0", "false")
    missing: tuple[str, ...] = ("",)
    """Texts that mean a missing value; the empty text and JSON's null always do."""
    delimiter: str = ","
    """Delimited files: one or more characters, such as "::"."""
    quoting: Quoting | None = None
    """Delimited files. minimal: cells may be quoted as in RFC 4180. none: quotes are part of the text.
    Default: none if ``delimiter`` is a tab or several characters, else minimal."""
    max_row_lines: int = MAX_ROW_LINES
    """Delimited files with quotes: largest number of lines in a row. A longer row is an error, caused by a
    stray quote."""
    columns: tuple[str, ...] = ()
    """Delimited files without a header line: the names of all columns."""
    on_bad_row: OnBadRow = "stop"
    """stop: a bad row ends the run. skip: it is counted and reported at the end."""
    max_bad_share: float = 0.01
    """With skip: share of bad rows, after 1,000 rows of a file, above which the run ends."""

    def layout(self) -> Layout:
        """The layout of a delimited file."""
        plain = self.delimiter == "\t" or len(self.delimiter) > 1
        quoting = self.quoting or ("none" if plain else "minimal")
        return Layout(self.delimiter, quoting, self.columns, self.max_row_lines, schema=True)

    def note(self, reader: str) -> str:
        """The caveat that a report must state."""
        if self.time:
            return f"{reader}: times come from the column {self.time!r}; rows keep the order of the file."
        return (
            f"{reader}: the schema has no time column: times are synthesised from the row number at "
            f"{self.rows_per_second:g} rows per second."
        )

    def used_columns(self) -> list[str]:
        """Names of all columns that are read."""
        special = (self.label, self.time, self.event_id, self.user, self.bid)
        return list(dict.fromkeys(name for name in (*special, *(f.source for f in self.fields)) if name))


def load_schema(path: str | PathLike[str]) -> Schema:
    """Read a schema file.

    Raises:
        ConfigError: the file is unreadable or not TOML, a key is unknown or missing, or a value is invalid.
    """
    try:
        table = tomllib.loads(Path(path).read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read the schema {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"the schema {path} is not TOML: {error}") from None
    try:
        schema = msgspec.convert(table, Schema)
    except msgspec.ValidationError as error:
        raise ConfigError(f"the schema {path}: {error}; see stream_ctr/datasets/schema.py") from None
    _check(schema, path)
    return schema


def _check(schema: Schema, path: str | PathLike[str]) -> None:
    names = [field.name for field in schema.fields]
    for name in names:
        if not name or names.count(name) > 1:
            raise ConfigError(f"the schema {path}: field name {name!r} is empty or repeated")
    if not names:
        raise ConfigError(f"the schema {path} has no fields; name at least one")
    if not schema.delimiter or not {"\r", "\n"}.isdisjoint(schema.delimiter):
        raise ConfigError(f"the schema {path}: delimiter = {schema.delimiter!r} is empty or a line end")
    if schema.layout().quoting == "minimal" and (len(schema.delimiter) != 1 or schema.delimiter == '"'):
        raise ConfigError(
            f"the schema {path}: delimiter = {schema.delimiter!r} cannot be used with quoting = "
            '"minimal"; set quoting = "none"'
        )
    if schema.max_row_lines < 1:
        raise ConfigError(f"the schema {path}: max_row_lines must be at least 1, got {schema.max_row_lines}")
    try:
        ReadReport(schema.on_bad_row, schema.max_bad_share)
    except UsageError as error:
        raise ConfigError(f"the schema {path}: {error}") from None
    if not 0 < schema.rows_per_second < float("inf"):
        raise ConfigError(
            f"the schema {path}: rows_per_second must be above 0, got {schema.rows_per_second:g}"
        )
    if both := set(schema.positive) & set(schema.negative):
        raise ConfigError(f"the schema {path}: {sorted(both)} are both positive and negative labels")
    for field in schema.fields:
        if field.kind == "multi" and not field.separator:
            raise ConfigError(f"the schema {path}: field {field.name!r} is multi and has no separator")
        if list(field.boundaries) != sorted(set(field.boundaries)):
            raise ConfigError(f"the schema {path}: boundaries of field {field.name!r} must ascend")


class ExampleBuilder:
    """Builds an example from the cells of a row."""

    def __init__(self, schema: Schema, path: str | PathLike[str]) -> None:
        self._schema = schema
        self._path = path
        # An id is the file's name and a row number; a file's name may be as long as an id.
        self._prefix = Path(path).name.encode()[-MOST_NAME_BYTES:].decode(errors="ignore")
        self._missing = frozenset(schema.missing)

    def build(self, row: int, line: int, cell: Callable[[str], Cell]) -> Example:
        """The example of row ``row`` (from 0); ``cell`` returns a column's value, None if missing.

        Raises:
            DataError: a value does not match the schema.
        """
        schema = self._schema
        features: dict[str, FeatureValue] = {}
        for field in schema.fields:
            value = cell(field.source)
            if value is None or (isinstance(value, str) and (not value or value in self._missing)):
                continue
            try:
                features[field.name] = _feature(field, value)
            except ValueError:
                raise self._bad(line, field.source, value, _EXPECTED[field.kind]) from None
        return Example(
            self._text(line, schema.event_id, cell) if schema.event_id else f"{self._prefix}-{row}",
            self._time(row, line, cell),
            (_text_of(cell(schema.user)) or "") if schema.user else "",
            features,
            self._label(line, cell),
            self._bid(line, cell),
        )

    def _bad(self, line: int, column: str, value: Cell, expected: str) -> Exception:
        return bad_value(self._path, line, column, value, expected)

    def _text(self, line: int, column: str, cell: Callable[[str], Cell]) -> str:
        if text := _id_of(cell(column)):
            return text
        expected = f"an id (a text or whole number of at most {MAX_EVENT_ID_BYTES} bytes)"
        raise self._bad(line, column, cell(column), expected)

    def _label(self, line: int, cell: Callable[[str], Cell]) -> int:
        value = cell(self._schema.label)
        # The schema lists labels exactly as the file spells them, so a text is not normalised.
        text = value if isinstance(value, str) else _text_of(value)
        if text is not None and text in self._schema.positive:
            return 1
        if text is not None and text in self._schema.negative:
            return 0
        known = ", ".join((*self._schema.negative, *self._schema.positive))
        remedy = label_remedy(text, self._schema.positive, self._schema.negative)
        raise bad_value(
            self._path, line, self._schema.label, value, f"a known label ({known})", remedy
        ) from None

    def _bid(self, line: int, cell: Callable[[str], Cell]) -> float:
        if not self._schema.bid:
            return 0.0
        value = cell(self._schema.bid)
        if value is None or (isinstance(value, str) and (not value or value in self._missing)):
            return 0.0
        try:
            bid = number_of(value)
            if not 0.0 <= bid <= MAX_WORTH:
                raise ValueError
        except ValueError:
            expected = f"a bid from 0 to {MAX_WORTH:g}"
            raise self._bad(line, self._schema.bid, value, expected) from None
        return bid

    def _time(self, row: int, line: int, cell: Callable[[str], Cell]) -> int:
        schema = self._schema
        if not schema.time:
            return int(row * 1000.0 / schema.rows_per_second)
        value = cell(schema.time)
        try:
            time_ms = _iso_ms(value) if schema.time_unit == "iso" else _time_ms(value, schema.time_unit)
            if not 0 <= time_ms <= MAX_TIME_MS:
                raise ValueError
            return time_ms
        except ValueError:
            unit = "ISO 8601" if schema.time_unit == "iso" else schema.time_unit
            raise self._bad(line, schema.time, value, f"a time ({unit}) from 1970 to 9999") from None


_EXPECTED: dict[FieldKind, str] = {
    "categorical": "a text, number or boolean",
    "multi": "a list of texts, numbers or booleans",
    "integer": "a whole number",
    "float": "a finite number",
}


def _text_of(value: Cell) -> str | None:
    """The canonical text of a value, as for a categorical feature; None if it has none."""
    try:
        return text_of(value)
    except ValueError:
        return None


def _id_of(value: Cell) -> str | None:
    """The id in a value; None if it is not a valid id or too long."""
    text = _text_of(value)
    return text if text and len(text.encode(errors="replace")) <= MAX_EVENT_ID_BYTES else None


def _feature(field: FieldSchema, value: Cell) -> FeatureValue:
    if field.kind == "integer":
        return whole_of(value)
    if field.kind == "float":
        return number_of(value)
    if field.kind == "multi":
        parts = value.split(field.separator) if isinstance(value, str) else value
        if not isinstance(parts, list):
            raise ValueError
        return [text_of(part) for part in parts if part is not None and part != ""]
    return text_of(value)


def _time_ms(value: Cell, unit: str) -> int:
    factor, divisor = _PER_UNIT_MS[unit]
    try:
        return whole_of(value) * factor // divisor
    except ValueError:
        # A fraction of a unit, such as 1700000000.25 seconds; exact enough for milliseconds.
        return int(number_of(value) * factor // divisor)


def _iso_ms(value: Cell) -> int:
    if not isinstance(value, str):
        raise ValueError
    time = datetime.fromisoformat(value)
    if time.tzinfo is None:
        time = time.replace(tzinfo=UTC)
    return (time - _EPOCH) // timedelta(milliseconds=1)
