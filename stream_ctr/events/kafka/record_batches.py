"""Entries from a broker's record batches, parsed in compiled code, many records at a time.

kafka-python creates some ten Python objects for each record. Here the batches of a fetch are laid out in a
table (:mod:`.record_batch_kernels`), and only the entries themselves are created. Connections, metadata,
fetch sessions and positions remain with kafka-python.

A fetch is parsed step by step: one window of batches is decompressed at a time, and only the requested number
of entries is created. So memory is bounded by the bytes of the fetch, one window and the returned entries,
whatever the decompressed size of the batches.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Final, Protocol

import numpy as np
from crc32c import crc32c
from numpy.typing import NDArray

from stream_ctr.events.kafka import record_batch_kernels as scan
from stream_ctr.events.kafka.client import decode_varint, errors
from stream_ctr.events.kafka.decompression import TooLargeError, codec_name, unpack
from stream_ctr.events.kafka.legacy_messages import LegacyMessages
from stream_ctr.events.limits import ENTRY_BYTES, ReadLimits, Unread, too_large
from stream_ctr.events.log import Entry, Headers, TopicPartition

_CHECKED_FROM: Final = 21
"""Bytes of a batch that precede the range of its checksum."""
_PRODUCER_ID_AT: Final = 43
_CODEC, _TRANSACTIONAL, _CONTROL = 0x07, 0x10, 0x20
"""Bits of the attributes: the codec; whether the batch belongs to a transaction; whether it is a control
batch, which marks a transaction's end and holds no data."""
_WINDOW_BYTES: Final = 4 * 1024 * 1024
"""Size of the decompressed batches that are scanned together; a single batch may be larger."""


class Aborted(Protocol):
    """An aborted transaction, as the broker lists it in a fetch."""

    @property
    def producer_id(self) -> int: ...
    @property
    def first_offset(self) -> int: ...


@dataclass(slots=True)
class _Window:
    """Decompressed batches, and the position of the next record."""

    data: bytes
    octets: NDArray[np.uint8]
    batches: NDArray[np.int64]
    cursor: NDArray[np.int64]
    held_bytes: int
    """Memory in addition to the bytes of the fetch."""

    @property
    def left(self) -> int:
        """Number of unread records, according to the batches' headers."""
        return int(self.batches[self.cursor[0] :, scan.COUNT].sum() - self.cursor[2])


class FetchedBatches:
    """The record batches of one partition in a fetch.

    Args:
        data: record batches of magic 2; the last one may be cut off.
        place: the partition.
        fetch_offset: the requested offset; earlier records of its batch are skipped.
        limits: limits on records and batches.
        aborted: aborted transactions, whose records are skipped.
    """

    def __init__(
        self,
        data: bytes,
        place: TopicPartition,
        fetch_offset: int,
        limits: ReadLimits,
        aborted: Sequence[Aborted] = (),
    ) -> None:
        self._data, self._place, self._fetch_offset, self._limits = data, place, fetch_offset, limits
        table = np.empty((len(data) // scan.HEAD_BYTES, scan.BATCH_COLUMNS), np.int64)
        found, then = scan.find_batches(np.frombuffer(data, np.uint8), table)
        self._table = table[:found]
        self._heads: list[list[int]] = self._table.tolist()
        self._skipped = _skipped(data, self._heads, aborted)
        self._next = 0
        self._window: _Window | None = None
        self._broken = then == scan.BROKEN
        self.failure: errors.KafkaError | None = None
        """The error that ended the reading; set once all entries before it were taken."""
        self.next_offset, self.leader_epoch = fetch_offset, -1
        """Offset after the last batch, including control batches and gaps; leader epoch of the last batch."""
        if found:
            last = self._heads[-1]
            self.next_offset = max(fetch_offset, last[scan.BASE] + last[scan.LAST] + 1)
            self.leader_epoch = last[scan.EPOCH]

    @property
    def done(self) -> bool:
        """Whether all entries were taken."""
        left = self._window is not None or self._next < len(self._heads) or self._broken
        return not left and self.failure is None

    @property
    def held_bytes(self) -> int:
        """Memory of the fetch and of the current window."""
        return len(self._data) + (0 if self._window is None else self._window.held_bytes)

    def take(self, max_entries: int, max_bytes: int) -> tuple[list[Entry], int]:
        """The next entries and their memory in bytes; no entries if all were taken or a failure comes next.

        The entry that reaches ``max_bytes`` is the last one.
        """
        while self.failure is None:
            if self._window is None:
                pointer = self._advance()
                if pointer is not None:
                    return [pointer], ENTRY_BYTES
            if self._window is None:
                break
            entries, size_bytes = self._scan(self._window, max_entries, max_bytes)
            if entries:
                return entries, size_bytes
        return [], 0

    def _advance(self) -> Entry | None:
        """Decompress the next window, or return the entry that replaces a batch above the limit."""
        start = self._next
        if start == len(self._heads):
            if self._broken:
                self.failure = _corrupt(self._place, "the data after the last record batch is invalid")
            return None
        pointer: Entry | None = None
        chosen: list[int] = []
        parts: list[bytes] = []
        in_place = not (self._table[start:, scan.ATTRIBUTES] & _CODEC).any()
        unpacked_bytes = 0
        while self._next < len(self._heads) and unpacked_bytes < _WINDOW_BYTES:
            number = self._next
            head = self._heads[number]
            if (
                crc32c(memoryview(self._data)[head[scan.START] + _CHECKED_FROM : head[scan.STOP]])
                != head[scan.CHECKSUM]
            ):
                self._fail(head, "does not match its checksum", bool(chosen))
                break
            if not self._skipped[number]:
                part = self._decompressed(head, bool(chosen), in_place)
                if part is None:
                    break
                if isinstance(part, Entry):
                    if chosen:
                        break  # the window comes first; this batch is examined again afterwards
                    self._next += 1
                    if part.offset < self._fetch_offset:
                        continue
                    pointer = part
                    break
                chosen.append(number)
                parts.append(part)
                unpacked_bytes += len(part)
            self._next += 1
        if chosen:
            self._window = self._window_of(chosen, parts, in_place)
        return pointer

    def _decompressed(self, head: list[int], later: bool, in_place: bool) -> bytes | Entry | None:
        """The records of a batch, an entry that replaces them, or None after a failure."""
        kind, count = head[scan.ATTRIBUTES] & _CODEC, head[scan.COUNT]
        start, stop = head[scan.START] + scan.HEAD_BYTES, head[scan.STOP]
        most = self._limits.batch
        if not kind:
            part = b"" if in_place else self._data[start:stop]
            length = stop - start
        else:
            try:
                part = unpack(self._data[start:stop], kind, most)
            except TooLargeError:
                return self._pointer(head, f", compressed by {codec_name(kind)} to {stop - start} bytes,")
            except errors.UnsupportedCodecError as error:
                if not later:
                    self.failure = errors.UnsupportedCodecError(
                        f"{self._place.topic}[{self._place.partition}] {error.args[0]}"
                    )
                return None
            except Exception as error:  # each library raises its own exceptions
                self._fail(head, f"cannot be decompressed: {error}", later)
                return None
            length = len(part)
        if count < 0 or count > length // scan.LEAST_RECORD_BYTES:
            self._fail(head, f"cannot hold {count} records", later)
            return None
        return part

    def _pointer(self, head: list[int], packed: str) -> Entry:
        """The entry that replaces a batch above the limit, at its last offset: reading continues after it."""
        first, last = head[scan.BASE], head[scan.BASE] + head[scan.LAST]
        reason = (
            f"the record batch of {head[scan.COUNT]} records at offsets {first} to {last}{packed} exceeds "
            f"log.max_batch_bytes = {self._limits.batch} after decompression; its records were not read"
        )
        size_bytes = head[scan.STOP] - head[scan.START]
        return Entry(*self._place, last, head[scan.MAX_MS], None, None, (), Unread(reason, size_bytes))

    def _fail(self, head: list[int], what: str, later: bool) -> None:
        """Record a damaged batch. With ``later``, earlier batches are read first and it is detected again."""
        if not later:
            self.failure = _corrupt(self._place, f"the record batch at offset {head[scan.BASE]} {what}")

    def _window_of(self, chosen: list[int], parts: list[bytes], in_place: bool) -> _Window:
        batches = self._table[chosen]
        if in_place:
            data = self._data
            batches[:, scan.START] += scan.HEAD_BYTES
        else:
            data = parts[0] if len(parts) == 1 else b"".join(parts)
            ends = np.cumsum([len(part) for part in parts])
            batches[:, scan.STOP] = ends
            batches[1:, scan.START] = ends[:-1]
            batches[0, scan.START] = 0
        held_bytes = 0 if in_place else len(data)
        return _Window(data, np.frombuffer(data, np.uint8), batches, np.zeros(3, np.int64), held_bytes)

    def _scan(self, window: _Window, max_entries: int, max_bytes: int) -> tuple[list[Entry], int]:
        table = np.empty((min(max_entries, window.left), scan.RECORD_COLUMNS), np.int64)
        most, limit = self._limits.record, min(max_bytes, 2**62)
        count, size_bytes, damaged = scan.scan_records(
            window.octets, window.batches, window.cursor, table, self._fetch_offset, limit, most, ENTRY_BYTES
        )
        table = table[:count]
        entries = self._entries(window.data, table)
        if damaged and len(entries) == count:
            if not count:
                head = window.batches[window.cursor[0]]
                self._fail(head.tolist(), "holds a malformed record", False)
        elif window.cursor[0] == len(window.batches):
            self._window = None
        return entries, size_bytes

    def _entries(self, data: bytes, table: NDArray[np.int64]) -> list[Entry]:
        """The entries of a table's rows, up to the first one that cannot be created."""
        larger = np.flatnonzero(table[:, scan.SIZE] > self._limits.record)
        sizes = table[larger, scan.SIZE].tolist()
        table[larger, scan.KEY_STOP] = table[larger, scan.VALUE_STOP] = scan.NULL
        table[larger, scan.HEADERS] = 0
        offsets, times, keys, key_ends, values, value_ends, heads, _ = table.T.tolist()
        made = map(
            Entry,
            repeat(self._place.topic),
            repeat(self._place.partition),
            offsets,
            times,
            [data[at:end] if end >= 0 else None for at, end in zip(keys, key_ends, strict=True)],
            [data[at:end] if end >= 0 else None for at, end in zip(values, value_ends, strict=True)],
            (_headers(data, at) for at in heads) if any(heads) else repeat(()),
        )
        entries: list[Entry] = []
        try:
            entries.extend(made)  # keeps the entries before an error
        except UnicodeDecodeError:
            offset = offsets[len(entries)]
            self.failure = _corrupt(self._place, f"a header name at offset {offset} is not UTF-8")
        for row, size in zip(larger.tolist(), sizes, strict=True):
            if row < len(entries):
                entries[row] = entries[row]._replace(unread=too_large(size, self._limits.record))
        return entries


def read_fetch(
    data: bytes,
    place: TopicPartition,
    fetch_offset: int,
    limits: ReadLimits,
    aborted: Sequence[Aborted] = (),
) -> FetchedBatches | LegacyMessages:
    """Parse one partition's part of a fetch, in the format of its first batch."""
    if len(data) > scan.MAGIC_AT and data[scan.MAGIC_AT] < 2:
        return LegacyMessages(data, place, fetch_offset, limits)
    return FetchedBatches(data, place, fetch_offset, limits, aborted)


def _skipped(data: bytes, heads: list[list[int]], aborted: Sequence[Aborted]) -> list[bool]:
    """Which batches are control batches or belong to aborted transactions.

    By the protocol, readers skip a producer's transactional batches from an aborted transaction's first
    offset up to its abort marker.
    """
    if not aborted:
        return [bool(head[scan.ATTRIBUTES] & _CONTROL) for head in heads]
    pending = sorted(((one.first_offset, one.producer_id) for one in aborted), reverse=True)
    aborting: set[int] = set()
    left_out: list[bool] = []
    for head in heads:
        while pending and pending[-1][0] <= head[scan.BASE] + head[scan.LAST]:
            aborting.add(pending.pop()[1])
        (producer,) = struct.unpack_from(">q", data, head[scan.START] + _PRODUCER_ID_AT)
        if head[scan.ATTRIBUTES] & _CONTROL:
            left_out.append(True)
            if producer in aborting and _is_abort(data, head):
                aborting.discard(producer)
        else:
            left_out.append(bool(head[scan.ATTRIBUTES] & _TRANSACTIONAL) and producer in aborting)
    return left_out


def _is_abort(data: bytes, head: list[int]) -> bool:
    """Whether a control batch aborts its transaction; its key holds two numbers, version and type."""
    try:
        _, at = decode_varint(data, head[scan.START] + scan.HEAD_BYTES)
        _, at = decode_varint(data, at + 1)
        _, at = decode_varint(data, at)
        _, at = decode_varint(data, at)
        return at + 4 <= head[scan.STOP] and struct.unpack_from(">hh", data, at)[1] == 0
    except IndexError:
        return False


def _corrupt(place: TopicPartition, what: str) -> errors.KafkaError:
    return errors.CorruptRecordError(f"{place.topic}[{place.partition}]: {what}")


def _headers(data: bytes, at: int) -> Headers:
    """The headers whose count is at ``at``; the scan has checked their positions."""
    if not at:
        return ()
    count, at = decode_varint(data, at)
    headers: list[tuple[str, bytes]] = []
    for _ in range(count):
        length, at = decode_varint(data, at)
        name, at = data[at : at + length].decode(), at + length
        length, at = decode_varint(data, at)
        end = at + max(length, 0)  # null becomes empty
        headers.append((name, data[at:end]))
        at = end
    return tuple(headers)
