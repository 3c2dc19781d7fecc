"""Records of the labelled topic: an impression with its final label, from and to bytes."""

from __future__ import annotations

import msgspec

from stream_ctr.errors import RecordError
from stream_ctr.events.log import Entry
from stream_ctr.events.records import LabelledImpression
from stream_ctr.pipeline.decoding.records import (
    MAX_TIME_MS,
    MAX_VALUE_BYTES,
    READABLE_VERSIONS,
    RecordDecoder,
)
from stream_ctr.pipeline.decoding.time_units import outside

ENVELOPE_BYTES = 4096
"""Largest size of a labelled record without its impression, in bytes."""


class _Envelope(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A labelled impression whose impression is still in its logged bytes."""

    v: int
    ts_ms: int
    label: int
    impression: msgspec.Raw
    source: tuple[str, int, int] | None = None
    sequence: int | None = -1


_ENVELOPES = msgspec.json.Decoder(_Envelope)


def labelled_value(
    value: bytes, label: int, ts_ms: int, source: tuple[str, int, int], sequence: int
) -> bytes:
    """A labelled record around the bytes of a valid impression."""
    return msgspec.json.encode(
        _Envelope(
            v=1, ts_ms=ts_ms, label=label, impression=msgspec.Raw(value), source=source, sequence=sequence
        )
    )


def sequence_of(value: bytes | None) -> int | None:
    """The sequence number of a labelled record; None if the bytes are not one, or it has none."""
    try:
        sequence = _number_of(_ENVELOPES.decode(value or b""))
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
    return None if sequence < 0 else sequence


def _number_of(envelope: _Envelope) -> int:
    return -1 if envelope.sequence is None else envelope.sequence


class LabelledDecoder:
    """Decodes the entries of a labelled topic; the impression inside must be a valid one."""

    def __init__(self, max_ahead_seconds: float = float("inf")) -> None:
        self._records = RecordDecoder(max_ahead_seconds=max_ahead_seconds)

    def entry(self, entry: Entry) -> tuple[LabelledImpression | None, str]:
        """The record of an entry and an empty text, or None and the reason for rejecting it."""
        try:
            record = self._record(entry.value)
        except RecordError as error:
            return None, str(error)
        reason = self._records.too_far_ahead(record.ts_ms, entry)
        return (None, reason) if reason else (record, "")

    def _record(self, value: bytes | None) -> LabelledImpression:
        if value is None:
            raise RecordError("the value is null")
        if len(value) > MAX_VALUE_BYTES + ENVELOPE_BYTES:
            raise RecordError(f"the value has {len(value)} bytes, more than a labelled impression can have")
        try:
            envelope = _ENVELOPES.decode(value)
        except UnicodeDecodeError as error:
            raise RecordError(f"invalid UTF-8: {error.reason}") from None
        except RecursionError:
            raise RecordError("the value is nested too deeply") from None
        except (msgspec.MsgspecError, ValueError, OverflowError) as error:
            raise RecordError(str(error)) from None
        if envelope.v not in READABLE_VERSIONS:
            raise RecordError(f"v = {envelope.v} is not supported")
        if envelope.label not in (0, 1):
            raise RecordError(f"label must be 0 or 1, got {envelope.label}")
        if not 0 <= envelope.ts_ms <= MAX_TIME_MS:
            raise RecordError(outside(envelope.ts_ms, str(envelope.ts_ms), MAX_TIME_MS))
        return LabelledImpression(
            v=envelope.v,
            ts_ms=envelope.ts_ms,
            label=envelope.label,
            impression=self._records.impression(bytes(envelope.impression)),
            source=envelope.source,
            sequence=_number_of(envelope),
        )
