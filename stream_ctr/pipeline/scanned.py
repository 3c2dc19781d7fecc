"""Many entries at once to records: the usual form by a compiled scan, all else the careful way.

Whatever the bytes are, the outcome is the careful decoder's: the same records, the same keys, the same
reasons. The scan only spares the building and taking apart of an impression's features in Python.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from stream_ctr.errors import RecordError
from stream_ctr.events.log import Entry
from stream_ctr.events.records import Click, Impression, LabelledImpression
from stream_ctr.features.scanner import RecordScanner
from stream_ctr.pipeline.decode import EntryDecoder, RecordDecoder, check_common, check_shares


class ScannedImpression(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, gc=False):
    """An :class:`~stream_ctr.events.records.Impression` whose features became keys already."""

    v: int
    event_id: str
    ts_ms: int
    features: msgspec.Raw
    user: str = ""
    bid: float = 0.0
    p: dict[str, float] = {}
    truth: float | None = None
    experiment: str = ""
    salt: str = ""
    bucket: int | None = None
    assigned_arm: str = ""
    arm: str = ""
    reason: str = ""
    model_version: str = ""
    propensity: float | None = None


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
        self._decoder = msgspec.json.Decoder(ScannedImpression)

    def decode(self, entries: Sequence[Entry]) -> list[Decoded]:
        """What :meth:`.decode.RecordDecoder.entry` gives for each entry."""
        careful = self._careful
        if self._scanner is None or not isinstance(careful, RecordDecoder):
            return [(*careful.entry(entry), None) for entry in entries]
        topic, most = careful.impressions_topic, careful.max_value_bytes
        values = [
            entry.value if entry.value and entry.topic == topic and len(entry.value) <= most else b""
            for entry in entries
        ]
        rows, sure = self._scanner.scan(values)
        return [
            (self._shown(careful, entry, value, row) if known else None) or (*careful.entry(entry), None)
            for entry, value, row, known in zip(entries, values, rows, sure, strict=True)
        ]

    def _shown(
        self, careful: RecordDecoder, entry: Entry, value: bytes, row: NDArray[np.uint64]
    ) -> Decoded | None:
        """The impression of a value that the scan is sure of, or None for the careful way to say why not."""
        try:
            record = self._decoder.decode(value)
            check_common(record)
            if record.p or record.truth is not None or record.propensity is not None:
                check_shares(record)
        except (msgspec.MsgspecError, RecordError, ValueError, RecursionError, OverflowError):
            return None
        if careful.too_far_ahead(record.ts_ms, entry):
            return None
        return record, "", row
