"""Reader of any delimited file (CSV, TSV and similar), described by a schema file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from os import PathLike
from typing import ClassVar

from stream_ctr.config.features import FieldConfig
from stream_ctr.datasets.base import Example
from stream_ctr.datasets.files import Row, build_rows
from stream_ctr.datasets.reader import FileReader
from stream_ctr.datasets.schema import ExampleBuilder, Schema, load_schema
from stream_ctr.datasets.table import Table
from stream_ctr.errors import UsageError


@dataclass(frozen=True)
class Delimited(FileReader):
    """Reads a delimited file; the schema (see :mod:`stream_ctr.datasets.schema`) is a TOML file."""

    schema: str = ""
    """Path of the schema file."""
    _loaded: Schema = field(init=False, repr=False)

    name: ClassVar[str] = "delimited"

    def __post_init__(self) -> None:
        """Load the schema, so that its errors surface before any reading."""
        if not self.schema:
            raise UsageError(f"dataset {self.name} needs the option schema=FILE, a TOML file")
        loaded = load_schema(self.schema)
        object.__setattr__(self, "_loaded", loaded)
        self._report_as(loaded.on_bad_row, loaded.max_bad_share)

    @property
    def fields(self) -> tuple[FieldConfig, ...]:
        """The schema's fields."""
        return tuple(item.config() for item in self._loaded.fields)

    @property
    def about(self) -> str:
        """How the times are derived."""
        return self._loaded.note(self.name)

    def _examples(self, path: str | PathLike[str]) -> Iterator[Example]:
        schema = self._loaded
        table = Table(path, schema.layout(), self.report)
        names = schema.used_columns()
        places = [table.index(name) for name in names]
        builder = ExampleBuilder(schema, path)

        def build(row: Row) -> Example:
            number, line, cells = row
            return builder.build(number, line, dict(zip(names, (cells[i] for i in places), strict=True)).get)

        return build_rows(path, table, build, self.report)
