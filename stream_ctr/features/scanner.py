"""Many records at once from their bytes to keys, where they have the usual form."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stream_ctr.features.columns import Column, check_fields
from stream_ctr.features.scan import scan_records
from stream_ctr.features.scan_plan import (
    BOUNDED,
    INTEGER,
    LEARNED,
    LISTED,
    MOST_KEYS,
    TEXT,
    Schema,
    Scratch,
)
from stream_ctr.features.schema import FieldConfig, slot_fields

_KINDS: Final = {"categorical": TEXT, "integer": INTEGER, "multi": LISTED}


class RecordScanner:
    """Keys of records in JSON, for :meth:`.keys.KeyEncoder.complete`.

    What it is sure of is what a careful decoder and :meth:`.keys.KeyEncoder.keys` come to, but for the
    values beside the features: these it only sees to be named once.

    >>> from stream_ctr.features.keys import KeyEncoder
    >>> fields = (FieldConfig("site"), FieldConfig("visits", "integer"))
    >>> value = b'{"v":1,"features":{"site":"news","visits":3}}'
    >>> rows, sure = RecordScanner(fields).scan([value, b"[]"])
    >>> encoder = KeyEncoder(fields)
    >>> sure, (encoder.complete(rows[0]) == encoder.keys({"site": "news", "visits": 3})).tolist()
    ([True, False], [True, True])
    """

    def __init__(self, fields: tuple[FieldConfig, ...]) -> None:
        """Raises ConfigError if the fields contradict themselves."""
        check_fields(fields)
        slots = slot_fields(fields)
        columns = [Column(item, slots.index(index)) for index, item in enumerate(fields)]
        names = [column.name.encode(errors="surrogatepass") for column in columns]
        kinds = [_kind(column) for column in columns]
        learned = [kind == LEARNED for kind in kinds]
        listed = LISTED in kinds
        bounded = [c if kind == BOUNDED else None for c, kind in zip(columns, kinds, strict=True)]
        boundaries = [c.boundaries if c else () for c in bounded]
        buckets: list[list[int]] = [c.bucket_keys if c else [] for c in bounded]
        self._width = len(slots) + sum(learned) + listed
        self._schema = Schema(
            names=np.frombuffer(b"".join(names), np.uint8).copy(),
            name_start=_starts(names),
            kind=np.array(kinds, np.int64),
            slot=np.array([column.slot for column in columns], np.int64),
            width=np.array([column.width for column in columns], np.int64),
            seed=np.array([column.seed for column in columns], np.uint64),
            missing=np.array([column.missing_key for column in columns], np.uint64),
            extra=len(slots) + np.cumsum(learned, dtype=np.int64) - learned,
            boundaries=np.array([number for each in boundaries for number in each], np.float64),
            boundary_start=_starts(boundaries),
            bucket_keys=np.array([key for each in buckets for key in each], np.uint64),
            bucket_start=_starts(buckets),
            truncated=self._width - 1 if listed else 0,
        )
        self.scan([])  # compiled, or loaded from disk, before the first record

    def scan(self, values: Sequence[bytes]) -> tuple[NDArray[np.uint64], list[bool]]:
        """Rows uint64 [B, S + X] for :meth:`.keys.KeyEncoder.complete`, and whether each can be relied on."""
        start = np.zeros(len(values) + 1, np.int64)
        # One byte of 0 after each record, so that none is read beyond its end.
        np.cumsum([len(value) + 1 for value in values], out=start[1:])
        data = np.frombuffer(bytearray(b"\0".join([*values, b"\0\0\0\0"])), np.uint8)
        keys, sure = np.zeros((len(values), self._width), np.uint64), np.zeros(len(values), np.bool_)
        fields = len(self._schema.kind)
        scratch = Scratch(
            seen=np.zeros(fields, np.int64),
            key_start=np.zeros(MOST_KEYS, np.int64),
            key_stop=np.zeros(MOST_KEYS, np.int64),
            listed=np.zeros(MOST_KEYS, np.uint64),
            tagged=np.zeros(9, np.uint8),
        )
        scan_records(data, start, self._schema, keys, keys.view(np.float64), sure, scratch)
        found: list[bool] = sure.tolist()
        if not data.size or int(data.max()) > 127:
            found = [known and _is_unicode(value) for known, value in zip(found, values, strict=True)]
        return keys, found


def _kind(column: Column) -> int:
    if column.kind == "float":
        return LEARNED if column.learned is not None else BOUNDED
    return _KINDS[column.kind]


def _starts(parts: Sequence[Sequence[object]] | Sequence[bytes]) -> NDArray[np.int64]:
    return np.cumsum([0, *map(len, parts)], dtype=np.int64)


def _is_unicode(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True
