"""Decodes batches of entries: impressions in the usual form by a compiled scan, all others one by one.

The results are always those of the record decoder: the same records, keys and reasons. The scan only avoids
building an impression's features as Python objects.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from stream_ctr.errors import RecordError
from stream_ctr.events.log import Entry
from stream_ctr.events.records import Click, Impression, LabelledImpression, ScannedImpression
from stream_ctr.features.scan.scanner import RecordScanner
from stream_ctr.pipeline.decoding.records import (
    EntryDecoder,
    NullableDecoder,
    RecordDecoder,
    check_common,
    check_shown,
)

_UNWRITTEN: Final = "\x7f"
"""Key of a field that is not part of the JSON record. A record with this key is left to the record
decoder."""


class IgnoringImpression(ScannedImpression, forbid_unknown_fields=True, kw_only=True, gc=False):
    """A scanned impression with features that no field names."""

    names: tuple[str, ...] = msgspec.field(default=(), name=_UNWRITTEN)

    @property
    def ignored(self) -> tuple[str, ...]:
        """Names of the features that no field has."""
        return self.names


Decoded = tuple[
    Impression | ScannedImpression | Click | LabelledImpression | None, str, NDArray[np.uint64] | None
]
"""A record, or None and the reason for rejecting it; for a scanned impression also the row that
:meth:`.keys.KeyEncoder.complete` takes."""


class BatchDecoder:
    """Decodes entries in batches; without a scanner, one by one."""

    def __init__(self, careful: EntryDecoder, scanner: RecordScanner | None = None) -> None:
        """``careful`` is the record decoder; the ``scanner`` is used if that decodes impressions and
        clicks."""
        self._careful = careful
        self._scanner = scanner
        self._usual = NullableDecoder(ScannedImpression)
        self._ignoring = NullableDecoder(IgnoringImpression)

    def decode(self, entries: Sequence[Entry]) -> list[Decoded]:
        """The result of :meth:`.records.RecordDecoder.entry` for each entry."""
        careful = self._careful
        if self._scanner is None or not isinstance(careful, RecordDecoder):
            return [(*careful.entry(entry), None) for entry in entries]
        topic, most = careful.impressions_topic, careful.max_value_bytes
        values = [
            entry.value if entry.value and entry.topic == topic and len(entry.value) <= most else b""
            for entry in entries
        ]
        rows, sure, ignored = self._scanner.scan(values)
        found: list[Decoded] = []
        for entry, value, row, known, bits in zip(entries, values, rows, sure, ignored, strict=True):
            scanned = self._shown(careful, entry, value, bits) if known else None
            if scanned is not None:
                found.append((scanned, "", row))
                continue
            record, reason = careful.entry(entry)
            if isinstance(record, Impression):
                self._scanner.meet(record.features.keys())
            found.append((record, reason, None))
        return found

    def _shown(
        self, careful: RecordDecoder, entry: Entry, value: bytes, bits: int
    ) -> ScannedImpression | None:
        """The impression in a value that the scan is sure of; None if the record decoder must find the
        reason."""
        try:
            record = self._ignoring_names(value, bits) if bits else self._usual.decode(value)
            check_common(record)
            if record.bid or record.p or record.truth is not None or record.propensity is not None:
                check_shown(record)
        except (msgspec.MsgspecError, RecordError, ValueError, RecursionError, OverflowError):
            return None
        if careful.too_far_ahead(record.ts_ms, entry):
            return None
        return record

    def _ignoring_names(self, value: bytes, bits: int) -> IgnoringImpression:
        """A record with features that no field names; ``bits`` are their indexes in the scanner."""
        if _UNWRITTEN.encode() in value:
            raise RecordError("not sure")
        assert self._scanner is not None
        record = self._ignoring.decode(value)
        record.names = self._scanner.ignored_names(bits)
        return record
