"""Reader of JSON lines, one object per line, described by a schema file."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from os import PathLike
from typing import ClassVar

import msgspec

from stream_ctr.datasets.base import Example
from stream_ctr.datasets.delimited import Delimited
from stream_ctr.datasets.files import Line, build_rows, read_lines, shorten
from stream_ctr.datasets.schema import Cell, ExampleBuilder
from stream_ctr.errors import DataError, RowError


@dataclass(frozen=True)
class JsonLines(Delimited):
    """Reads JSON lines; the schema's columns are keys of the objects, and absent keys are missing values."""

    name: ClassVar[str] = "jsonl"

    def _examples(self, path: str | PathLike[str]) -> Iterator[Example]:
        decoder = msgspec.json.Decoder(dict[str, Cell])
        builder = ExampleBuilder(self._loaded, path)

        def build(row: Line) -> Example:
            number, line, text = row
            try:
                record = decoder.decode(text)
            except (msgspec.DecodeError, RecursionError) as error:
                if not number and text.lstrip()[:1] in ("[", "{") and _is_document(text):
                    raise DataError(
                        f"{path}: holds one JSON document over several lines, not one object per line; "
                        f"convert it, for example: jq -c '.[]' {path}"
                    ) from None
                what = f": {shorten(repr(text), 60)} is not a JSON object ({error})"
                raise RowError(path, line, what, "not a JSON object") from None
            return builder.build(number, line, record.get)

        return build_rows(path, read_lines(path, self.report), build, self.report)


def _is_document(first: str) -> bool:
    """Whether the first line begins an array of objects, or an object that continues on the next line."""
    return re.match(r"\s*(\[\s*($|\{)|\{\s*$)", first) is not None
