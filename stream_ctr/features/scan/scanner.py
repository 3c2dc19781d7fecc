"""Encodes many JSON records at once from their bytes, if they have the plain form."""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stream_ctr.config.features import FieldConfig, UnknownFeatures, slot_fields
from stream_ctr.features.keys.column import Column, check_fields
from stream_ctr.features.keys.tally import LONGEST_NAME
from stream_ctr.features.scan.plan import (
    BOUNDED,
    IGNORED,
    INTEGER,
    LEARNED,
    LISTED,
    MOST_IGNORED,
    MOST_KEYS,
    TEXT,
    Schema,
    Scratch,
)
from stream_ctr.features.scan.record_kernels import scan_records

MOST_SETS: Final = 256
"""Number of cached sets of ignored names."""
_KINDS: Final = {"categorical": TEXT, "integer": INTEGER, "multi": LISTED}


class RecordScanner:
    """Keys of JSON records, for :meth:`stream_ctr.features.keys.encoder.KeyEncoder.complete`.

    If it is sure of a record, the keys equal those of a full decoder and
    :meth:`stream_ctr.features.keys.encoder.KeyEncoder.keys`. It does not check the values outside the
    features, only that their keys are not repeated.

    >>> from stream_ctr.features.keys.encoder import KeyEncoder
    >>> fields = (FieldConfig("site"), FieldConfig("visits", "integer"))
    >>> value = b'{"v":1,"features":{"site":"news","visits":3}}'
    >>> rows, sure, _ = RecordScanner(fields).scan([value, b"[]"])
    >>> encoder = KeyEncoder(fields)
    >>> sure, (encoder.complete(rows[0]) == encoder.keys({"site": "news", "visits": 3})).tolist()
    ([True, False], [True, True])
    """

    def __init__(self, fields: tuple[FieldConfig, ...], unknown: UnknownFeatures = "refuse") -> None:
        """``unknown`` decides whether features without a field are rejected or ignored.

        Raises:
            ConfigError: the fields are not a valid schema.
        """
        check_fields(fields)
        self._columns = [Column(item, slot) for item, slot in zip(fields, _first_slots(fields), strict=True)]
        self._names = [column.name.encode(errors="surrogatepass") for column in self._columns]
        self._known = frozenset(column.name for column in self._columns)
        self._ignores = unknown == "ignore"
        self._ignored: list[str] = []
        slots, learned = len(slot_fields(fields)), sum(c.learned is not None for c in self._columns)
        self._width = slots + learned + any(column.kind == "multi" for column in self._columns)
        self._schema = self._plan()
        self.ignored_names = lru_cache(maxsize=MOST_SETS)(self._names_of)
        """The ignored names that the bits of a scanned record represent."""
        self.scan([])  # compiles or loads the kernels before the first record

    def meet(self, names: AbstractSet[str]) -> None:
        """Register the names of a record's features: further scans skip those without a field, up to the
        limit of ignored names."""
        if not self._ignores or names <= self._known:
            return
        short = sorted(name for name in names - self._known if len(name) <= LONGEST_NAME)
        new = short[: MOST_IGNORED - len(self._ignored)]
        if new:
            self._ignored += new
            self._known = self._known.union(new)
            self._schema = self._plan()

    def _names_of(self, bits: int) -> tuple[str, ...]:
        return tuple(name for index, name in enumerate(self._ignored) if bits >> index & 1)

    def _plan(self) -> Schema:
        """The kernels' input for the fields and the ignored names."""
        columns = self._columns
        names = [*self._names, *(name.encode() for name in self._ignored)]
        kinds = [_kind(column) for column in columns]
        learned = [kind == LEARNED for kind in kinds]
        bounded = [c if kind == BOUNDED else None for c, kind in zip(columns, kinds, strict=True)]
        boundaries = [c.boundaries if c else () for c in bounded]
        buckets: list[list[int]] = [c.bucket_keys if c else [] for c in bounded]
        slots = sum(column.width for column in columns)
        return Schema(
            fields=len(columns),
            names=np.frombuffer(b"".join(names), np.uint8).copy(),
            name_start=_starts(names),
            kind=np.array(kinds + [IGNORED] * len(self._ignored), np.int64),
            slot=np.array([column.slot for column in columns], np.int64),
            width=np.array([column.width for column in columns], np.int64),
            keeps_last=np.array([column.keeps_last for column in columns], np.bool_),
            seed=np.array([column.seed for column in columns], np.uint64),
            missing=np.array([column.missing_key for column in columns], np.uint64),
            extra=slots + np.cumsum(learned, dtype=np.int64) - learned,
            boundaries=np.array([number for each in boundaries for number in each], np.float64),
            boundary_start=_starts(boundaries),
            bucket_keys=np.array([key for each in buckets for key in each], np.uint64),
            bucket_start=_starts(buckets),
            truncated=self._width - 1 if LISTED in kinds else 0,
        )

    def scan(self, values: Sequence[bytes]) -> tuple[NDArray[np.uint64], list[bool], list[int]]:
        """Rows uint64 [B, S + X] for :meth:`stream_ctr.features.keys.encoder.KeyEncoder.complete`, whether
        the scan is sure of each row, and the bits for :meth:`ignored_names`."""
        start = np.zeros(len(values) + 1, np.int64)
        # A zero byte after each record stops the scan at the record's end.
        np.cumsum([len(value) + 1 for value in values], out=start[1:])
        data = np.frombuffer(bytearray(b"\0".join([*values, b"\0\0\0\0"])), np.uint8)
        keys, sure = np.zeros((len(values), self._width), np.uint64), np.zeros(len(values), np.bool_)
        ignored = np.zeros(len(values), np.uint64)
        scratch = Scratch(
            seen=np.zeros(len(self._schema.kind), np.int64),
            ignored=np.zeros(1, np.uint64),
            key_start=np.zeros(MOST_KEYS, np.int64),
            key_stop=np.zeros(MOST_KEYS, np.int64),
            listed=np.zeros(MOST_KEYS, np.uint64),
            tagged=np.zeros(9, np.uint8),
        )
        scan_records(data, start, self._schema, keys, keys.view(np.float64), sure, ignored, scratch)
        found: list[bool] = sure.tolist()
        if not data.size or int(data.max()) > 127:
            found = [known and _is_unicode(value) for known, value in zip(found, values, strict=True)]
        return keys, found, ignored.tolist()


def _first_slots(fields: tuple[FieldConfig, ...]) -> list[int]:
    slots = slot_fields(fields)
    return [slots.index(index) for index in range(len(fields))]


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
