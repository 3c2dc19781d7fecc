"""Kernels that locate the keys and values in the record batches of a fetch.

Format: record batches of magic 2, https://kafka.apache.org/documentation/#recordbatch. All numbers in a
batch's header are big-endian; all numbers in a record are zigzag varints. No kernel reads beyond the end of
the data, whatever the bytes are.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from stream_ctr.kernels.decorators import kernel

HEAD_BYTES: Final = 61
"""Size of a batch's header: from its first offset to its record count."""
MAGIC_AT: Final = 16
"""Position of the format's number, in a batch and in the older message formats."""
LEAST_RECORD_BYTES: Final = 7
"""Length, attributes, time, offset, null key, null value, no headers: one byte each."""

END, OTHER, BROKEN = range(3)

START, STOP, BASE, EPOCH, CHECKSUM, ATTRIBUTES, LAST, FIRST_MS, MAX_MS, COUNT = range(10)
BATCH_COLUMNS: Final = 10
"""Columns of a table of batches: position of the first byte and after the last, first offset, leader epoch,
CRC-32C, attributes, last offset minus the first, first and largest timestamp, number of records."""

OFFSET, TIME_MS, KEY, KEY_STOP, VALUE, VALUE_STOP, HEADERS, SIZE = range(8)
RECORD_COLUMNS: Final = 8
"""Columns of a table of records: offset, timestamp, positions of key and value (stop is NULL for a null),
position of the header count (0: no headers), size of the whole record in bytes."""
NULL: Final = -1

APPEND_TIME: Final = 0x08
"""Attribute: the broker's timestamp, in the batch's header, applies to all of its records."""


@kernel
def _big_endian(data: NDArray[np.uint8], at: int, size: int) -> np.int64:
    """The signed integer of ``size`` bytes."""
    number = np.int64(data[at])
    if number > 127:
        number -= 256
    for index in range(1, size):
        number = (number << 8) | np.int64(data[at + index])
    return number


@kernel
def find_batches(data: NDArray[np.uint8], batches: NDArray[np.int64]) -> tuple[int, int]:
    """Write one row of ``batches`` int64 [M, BATCH_COLUMNS] for each complete batch of magic 2 at the start
    of ``data``. Returns their number and what follows: END (the last batch of a fetch may be cut off), OTHER
    (a batch of another magic) or BROKEN."""
    at, count, end = 0, 0, len(data)
    while end - at >= 12:
        size = int(12 + _big_endian(data, at + 8, 4))
        if size > end - at:
            break
        if size < 17 or (data[at + 16] == 2 and size < HEAD_BYTES):
            return count, BROKEN
        if data[at + 16] != 2:
            return count, OTHER
        row = batches[count]
        row[START], row[STOP] = at, at + size
        row[BASE] = _big_endian(data, at, 8)
        row[EPOCH] = _big_endian(data, at + 12, 4)
        row[CHECKSUM] = _big_endian(data, at + 17, 4) & 0xFFFFFFFF
        row[ATTRIBUTES] = _big_endian(data, at + 21, 2)
        row[LAST] = _big_endian(data, at + 23, 4)
        row[FIRST_MS] = _big_endian(data, at + 27, 8)
        row[MAX_MS] = _big_endian(data, at + 35, 8)
        row[COUNT] = _big_endian(data, at + 57, 4)
        count += 1
        at += size
    return count, END


@kernel
def _varint(data: NDArray[np.uint8], at: int, end: int) -> tuple[np.int64, int]:
    """The number at ``at`` and the position after it; -1 if it is incomplete or exceeds 64 bits."""
    bits, shift = np.uint64(0), np.uint64(0)
    while 0 <= at < end:
        byte = np.uint64(data[at])
        at += 1
        if shift == np.uint64(63) and byte > np.uint64(1):
            break
        bits |= (byte & np.uint64(127)) << shift
        if byte < np.uint64(128):
            half = np.int64(bits >> np.uint64(1))
            return (-half - 1 if bits & np.uint64(1) else half), at
        shift += np.uint64(7)
    return np.int64(0), -1


@kernel
def _bytes(data: NDArray[np.uint8], at: int, end: int) -> tuple[int, int, int]:
    """Start and stop of the bytes at ``at`` (stop is NULL for a null), and the position after them or -1."""
    length, at = _varint(data, at, end)
    if at < 0 or length < -1 or length > end - at:
        return 0, NULL, -1
    stop = at + int(length)
    return (at, stop, stop) if length >= 0 else (0, NULL, at)


@kernel
def _record(data: NDArray[np.uint8], at: int, end: int, row: NDArray[np.int64]) -> int:
    """Write ``row`` for the record at ``at``, with time and offset relative to the batch. Returns the
    position after the record or -1."""
    length, at = _varint(data, at, end)
    if at < 0 or length < 1 or length > end - at:
        return -1
    end = at + int(length)
    row[TIME_MS], at = _varint(data, at + 1, end)
    row[OFFSET], at = _varint(data, at, end)
    row[KEY], row[KEY_STOP], at = _bytes(data, at, end)
    row[VALUE], row[VALUE_STOP], at = _bytes(data, at, end)
    place = at
    headers, at = _varint(data, at, end)
    row[HEADERS] = place if headers else 0
    while headers > 0 and at >= 0:
        _, stop, at = _bytes(data, at, end)
        if stop == NULL:
            return -1
        _, stop, at = _bytes(data, at, end)
        headers -= 1
    return at if at == end and headers == 0 else -1


@kernel
def scan_records(
    data: NDArray[np.uint8],
    batches: NDArray[np.int64],
    cursor: NDArray[np.int64],
    records: NDArray[np.int64],
    first_offset: int,
    most_bytes: int,
    record_bytes: int,
    entry_bytes: int,
) -> tuple[int, int, bool]:
    """Write one row of ``records`` int64 [N, RECORD_COLUMNS] for each record, starting at a cursor.

    Args:
        data: the records of the batches.
        batches: int64 [B, BATCH_COLUMNS]; START and STOP are the positions of a batch's records in data.
        cursor: int64 [3], advanced by the call: index of the batch, position of its next record, number of
            its records already read. Position 0 means the start of the batch.
        records: the output rows.
        first_offset: records before it are skipped.
        most_bytes: stop after the record that reaches this total size.
        record_bytes: maximum size that one record counts with.
        entry_bytes: size that each record counts in addition.

    Returns:
        Number of rows written, their total size, and whether the record at the cursor is damaged. All
        records have been read when the cursor's batch is B.
    """
    count, total = 0, 0
    while cursor[0] < len(batches):
        batch = batches[cursor[0]]
        at = cursor[1] if cursor[1] else batch[START]
        stop = batch[STOP]
        while cursor[2] < batch[COUNT]:
            if count == len(records) or total >= most_bytes:
                return count, total, False
            row = records[count]
            following = _record(data, at, stop, row)
            if following < 0:
                return count, total, True
            row[SIZE] = following - at
            at = following
            cursor[1] = at
            cursor[2] += 1
            row[OFFSET] += batch[BASE]
            if row[OFFSET] < first_offset:
                continue
            row[TIME_MS] = (
                batch[MAX_MS] if batch[ATTRIBUTES] & APPEND_TIME else row[TIME_MS] + batch[FIRST_MS]
            )
            total += min(row[SIZE], record_bytes) + entry_bytes
            count += 1
        if at != stop:
            return count, total, True
        cursor[0] += 1
        cursor[1] = cursor[2] = 0
    return count, total, False
