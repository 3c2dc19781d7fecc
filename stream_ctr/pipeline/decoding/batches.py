"""Many entries at once to records: the usual form by a compiled scan, all else the careful way.

Whatever the bytes are, the outcome is the careful decoder's: the same records, the same keys, the same
reasons. The scan only spares the building and taking apart of an impression's features in Python.
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
"""Key of what is no part of a record in JSON. A record that has it is left to the careful way."""


class IgnoringImpression(ScannedImpression, forbid_unknown_fields=True, kw_only=True, gc=False):
    """A scanned impression with features that no field has."""

    names: tuple[str, ...] = msgspec.field(default=(), name=_UNWRITTEN)

    @property
    def ignored(self) -> tuple[str, ...]:
        """Names of the features that no field has."""
        return self.names


Decoded = tuple[
    Impression | ScannedImpression | Click | LabelledImpression | None, str, NDArray[np.uint64] | None
]
"""A record, or None and the reason; for a scanned impression the row that
:meth:`.keys.KeyEncoder.complete` takes."""


class BatchDecoder:
    """Decodes entries in batches; without a scanner each one the careful way."""

    def __init__(self, careful: EntryDecoder, scanner: RecordScanner | None = None) -> None:
        """``scanner`` serves where ``careful`` decodes impressions and clicks."""
        self._careful = careful
        self._scanner = scanner
        self._usual = NullableDecoder(ScannedImpression)
        self._ignoring = NullableDecoder(IgnoringImpression)

    def decode(self, entries: Sequence[Entry]) -> list[Decoded]:
        """What :meth:`.records.RecordDecoder.entry` gives for each entry."""
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
        """The impression of a value that the scan is sure of, or None for the careful way to say why not."""
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
        """A record with features that no field has; ``bits`` say which."""
        if _UNWRITTEN.encode() in value:
            raise RecordError("not sure")
        assert self._scanner is not None
        record = self._ignoring.decode(value)
        record.names = self._scanner.ignored_names(bits)
        return record
