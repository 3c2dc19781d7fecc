"""From the bytes of an entry to an impression or a click, or to the reason for rejecting it.

Any bytes give a record or a :class:`RecordError`: one bad event must never stop the stream.
"""

from __future__ import annotations

import json
from typing import Any, Final, Generic, Protocol, TypeVar

import msgspec

from stream_ctr.errors import RecordError
from stream_ctr.events.log import Entry
from stream_ctr.events.records import (
    MAX_EVENT_ID_BYTES,
    MAX_WORTH,
    RECORD_VERSION,
    Click,
    Impression,
    ImpressionRecord,
    LabelledImpression,
)
from stream_ctr.pipeline.decoding.time_units import LAST_SECOND, outside, surely_seconds

READABLE_VERSIONS: Final = tuple(v for v in (RECORD_VERSION, RECORD_VERSION - 1) if v >= 1)
"""Versions of records that are read: the current one and the one before it."""
MAX_VALUE_BYTES: Final = 1_048_576
"""Largest value that is decoded, in bytes."""
MAX_TIME_MS: Final = 253_402_300_799_999
"""Last millisecond of the year 9999."""

R = TypeVar("R", bound=msgspec.Struct)

_SPACED_QUOTES: Final = (b'" ', b'"\n', b'"\r', b'"\t')


class _Version(msgspec.Struct):
    v: int


_VERSION_DECODER = msgspec.json.Decoder(_Version)


class EntryDecoder(Protocol):
    """From an entry to its record, or to the reason for rejecting it."""

    def entry(self, entry: Entry) -> tuple[Impression | Click | LabelledImpression | None, str]:
        """The record and an empty text, or None and the reason for rejecting it."""
        ...


class NullableDecoder(Generic[R]):
    """Decodes a kind of record; an optional key may be null, which means the same as leaving it out.

    >>> NullableDecoder(Click).decode(b'{"v":1,"event_id":"a","ts_ms":5,"value":null}').value
    1.0
    """

    def __init__(self, kind: type[R]) -> None:
        self._kind = kind
        self.plain = msgspec.json.Decoder(kind).decode
        """Decodes a record without nulls, with a single call."""
        fields = msgspec.structs.fields(kind)
        nullable = msgspec.defstruct(
            f"Nullable{kind.__name__}",
            [
                (field.name, field.type)
                if field.required
                else (field.name, field.type | None, msgspec.field(default=None, name=field.encode_name))
                for field in fields
            ],
            kw_only=True,
            forbid_unknown_fields=True,
        )
        self._nullable = msgspec.json.Decoder(nullable)
        self._names = [field.name for field in fields]

    def decode(self, value: bytes) -> R:
        """The record.

        Raises:
            msgspec.MsgspecError, UnicodeDecodeError, RecursionError, OverflowError: the bytes are not such a
                record.
        """
        try:
            return self.plain(value)
        except msgspec.ValidationError:
            if b"null" not in value:
                raise
        found = self._nullable.decode(value)
        given = ((name, getattr(found, name)) for name in self._names)
        return self._kind(**{name: item for name, item in given if item is not None})


class RecordDecoder:
    """Decodes the values of entries.

    >>> RecordDecoder().click(b'{"v":1,"event_id":"a","ts_ms":5}')
    Click(v=1, event_id='a', ts_ms=5, value=1.0)
    """

    def __init__(
        self,
        impressions_topic: str = "impressions",
        max_ahead_seconds: float = float("inf"),
        max_value_bytes: int = MAX_VALUE_BYTES,
    ) -> None:
        self.impressions_topic = impressions_topic
        self.max_value_bytes = max_value_bytes
        self._max_ahead_ms = max_ahead_seconds * 1000.0
        self._impressions = NullableDecoder(Impression)
        self._clicks = NullableDecoder(Click)

    def entry(self, entry: Entry) -> tuple[Impression | Click | None, str]:
        """The record of an entry and an empty text, or None and the reason for rejecting it.

        A record far ahead of the log's own timestamp is rejected: it alone would close every window. So is
        one whose time is in seconds, if the timestamp shows that.
        """
        try:
            if entry.topic == self.impressions_topic:
                record: Impression | Click = self.impression(entry.value)
            else:
                record = self.click(entry.value)
        except RecordError as error:
            return None, str(error) if entry.unread is None else entry.unread.reason
        reason = self.too_far_ahead(record.ts_ms, entry)
        return (None, reason) if reason else (record, "")

    def too_far_ahead(self, ts_ms: int, entry: Entry) -> str:
        """How the log's own timestamp contradicts a record's time: it is far ahead, or in seconds. Empty if
        it does not."""
        if ts_ms < LAST_SECOND and surely_seconds(ts_ms, entry.timestamp_ms):
            return f"ts_ms = {ts_ms} looks like seconds; write milliseconds"
        ahead_ms = ts_ms - entry.timestamp_ms
        # A log without timestamps gives -1.
        if ahead_ms > self._max_ahead_ms and entry.timestamp_ms >= 0:
            return (
                f"ts_ms = {ts_ms} is {ahead_ms / 1000:g} s ahead of the log's timestamp, more than "
                f"order.max_ahead_seconds = {self._max_ahead_ms / 1000:g}"
            )
        return ""

    def impression(self, value: bytes | None) -> Impression:
        """The impression that a value holds.

        Raises:
            RecordError: the value is not a valid impression; the message gives the reason.
        """
        value = self._checked_size(value)
        record = _decode(self._impressions, value)
        check_common(record)
        check_shown(record)
        # A document of N distinct keys has at least N colons, and one more for each repeated key.
        keys = _impression_keys(record)
        if (
            value.count(b":") != keys
            and not _colons_after_keys(value, keys)
            and not _defaults_are_written(record, value, keys)
        ):
            _refuse_repeated_keys(value)
        return record

    def click(self, value: bytes | None) -> Click:
        """The click that a value holds.

        Raises:
            RecordError: the value is not a valid click; the message gives the reason.
        """
        value = self._checked_size(value)
        record = _decode(self._clicks, value)
        check_common(record)
        if not 0.0 <= record.value <= MAX_WORTH:
            raise _no_worth("value", record.value)
        keys = 3 + (record.value != 1.0)
        if value.count(b":") != keys and not _colons_after_keys(value, keys):
            _refuse_repeated_keys(value)
        return record

    def _checked_size(self, value: bytes | None) -> bytes:
        if value is None:
            raise RecordError("the value is null")
        if len(value) > self.max_value_bytes:
            raise RecordError(
                f"the value has {len(value)} bytes, more than the limit of {self.max_value_bytes}"
            )
        return value


def _decode(decoder: NullableDecoder[R], value: bytes) -> R:
    try:
        return decoder.plain(value)
    except (msgspec.MsgspecError, ValueError, RecursionError, OverflowError):
        pass  # decode again, with nulls allowed and with the reason for a failure
    try:
        return decoder.decode(value)
    except UnicodeDecodeError as error:
        raise RecordError(f"invalid UTF-8: {error.reason}") from None
    except (msgspec.MsgspecError, ValueError, RecursionError, OverflowError) as error:
        # A record of a later version fails because of its new keys; the version is the real reason.
        _check_version(_peek_version(value))
        if isinstance(error, RecursionError):
            raise RecordError("the value is nested too deeply") from None
        reason = str(error)
        if "unknown field" in reason:  # a key of the record itself: features may have any name
            reason += "; leave it out, or make it a feature"
        raise RecordError(reason) from None


def _peek_version(value: bytes) -> int:
    try:
        return _VERSION_DECODER.decode(value).v
    except (msgspec.MsgspecError, ValueError, RecursionError, OverflowError):
        return RECORD_VERSION


def _check_version(version: int) -> None:
    if version not in READABLE_VERSIONS:
        known = " and ".join(str(v) for v in READABLE_VERSIONS)
        raise RecordError(f"v = {_shown(version)} is not supported; supported versions: {known}")


def check_shown(record: ImpressionRecord[Any]) -> None:
    """Raises RecordError for a bid or a probability out of its range."""
    if not 0.0 <= record.bid <= MAX_WORTH:
        raise _no_worth("bid", record.bid)
    for arm, probability in record.p.items():
        if not 0.0 <= probability <= 1.0:
            raise RecordError(f"p[{arm!r}] must be between 0 and 1, got {probability!r}")
    if record.truth is not None and not 0.0 <= record.truth <= 1.0:
        raise RecordError(f"truth must be between 0 and 1, got {record.truth!r}")
    if record.propensity is not None and not 0.0 < record.propensity <= 1.0:
        raise RecordError(f"propensity must be above 0 and at most 1, got {record.propensity!r}")


def check_common(record: ImpressionRecord[Any] | Click) -> None:
    """Raises RecordError for an unsupported version, or an event id or time out of its range."""
    if record.v not in READABLE_VERSIONS:
        _check_version(record.v)
    if not record.event_id:
        raise RecordError("event_id is empty")
    # A character takes at most 4 bytes, so short ids need no encoding to be measured.
    if len(record.event_id) * 4 > MAX_EVENT_ID_BYTES:
        size = len(record.event_id.encode())
        if size > MAX_EVENT_ID_BYTES:
            raise RecordError(f"event_id has {size} bytes, more than the limit of {MAX_EVENT_ID_BYTES}")
    if not 0 <= record.ts_ms <= MAX_TIME_MS:
        raise RecordError(outside(record.ts_ms, _shown(record.ts_ms), MAX_TIME_MS))


def _no_worth(name: str, amount: float) -> RecordError:
    return RecordError(f"{name} must be between 0 and {MAX_WORTH:g}, got {amount:g}")


_OPTIONAL: Final = tuple(
    (field.name, {} if field.name == "p" else field.default, b'"%s":' % field.name.encode())
    for field in msgspec.structs.fields(Impression)
    if not field.required
)
"""Name, default and token of the optional keys of an impression."""


def _shown(number: int) -> str:
    text = str(number)
    return text if len(text) <= 24 else f"{text[:20]}... ({len(text)} digits)"


_REQUIRED: Final = sum(field.required for field in msgspec.structs.fields(Impression))


def _impression_keys(record: Impression) -> int:
    """Number of keys that the document has at least: those of the maps, the required ones, and the optional
    ones whose value is not the default."""
    given = sum(bool(getattr(record, name) != default) for name, default, _ in _OPTIONAL)
    return _REQUIRED + len(record.features) + len(record.p) + given


def _colons_after_keys(value: bytes, keys: int) -> bool:
    """Whether exactly ``keys`` quotes are followed by a colon, and none by white space.

    Then the document has no more keys, whatever colons its texts contain (times, addresses).
    """
    return value.count(b'":') == keys and not any(quote in value for quote in _SPACED_QUOTES)


def _defaults_are_written(record: Impression, value: bytes, keys: int) -> bool:
    """Whether the keys beyond ``keys`` are optional ones with their default value, each written once.

    Without a backslash, a quoted name before a colon is a key, and it is a key of the record itself if no
    feature and no arm has that name.
    """
    if b"\\" in value:
        return False
    written = 0
    for name, default, token in _OPTIONAL:
        if getattr(record, name) == default and token in value:
            if name in record.features or name in record.p:
                return False
            written += 1
    return _colons_after_keys(value, keys + written)


def _refuse_repeated_keys(value: bytes) -> None:
    """The exact test: parse the valid value again and check the keys of every object."""
    json.loads(value.decode(), object_pairs_hook=_distinct, parse_int=str, parse_float=str)


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise RecordError(f"the key {key!r} appears twice in one object")
            seen.add(key)
    return found
