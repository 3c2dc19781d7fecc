"""The record batches of a fetch, from their bytes to the places of keys and values. Kernels only.

Format: record batches of magic 2, https://kafka.apache.org/documentation/#recordbatch. All numbers of a
batch's head are big-endian, all of a record are varints in zigzag form. Nothing is read beyond its end,
whatever the bytes are.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from stream_ctr.kernels.decorators import kernel

HEAD_BYTES: Final = 61
"""A batch's head: from its first offset to its count of records."""
MAGIC_AT: Final = 16
"""Place of the format's number, in a batch and in the messages before it."""
LEAST_RECORD_BYTES: Final = 7
"""Length, attributes, time, offset, null key, null value, no headers: a byte each."""

END, OTHER, BROKEN = range(3)

START, STOP, BASE, EPOCH, CHECKSUM, ATTRIBUTES, LAST, FIRST_MS, MAX_MS, COUNT = range(10)
BATCH_COLUMNS: Final = 10
"""Columns of a table of batches: place of the first and after the last byte, first offset, leader's epoch,
CRC-32C, attributes, last offset less the first, first and largest timestamp, records."""

OFFSET, TIME_MS, KEY, KEY_STOP, VALUE, VALUE_STOP, HEADERS, SIZE = range(8)
RECORD_COLUMNS: Final = 8
"""Columns of a table of records: offset, timestamp, places of key and value (their stops NULL where they are
null), place of the count of headers (0: no headers), bytes of the whole record."""
NULL: Final = -1

APPEND_TIME: Final = 0x08
"""Attribute: the broker's time, in the batch's head, holds for all of its records."""


@kernel
def _big_endian(data: NDArray[np.uint8], at: int, size: int) -> np.int64:
    """The signed number of ``size`` bytes."""
    number = np.int64(data[at])
    if number > 127:
        number -= 256
    for index in range(1, size):
        number = (number << 8) | np.int64(data[at + index])
    return number


@kernel
def find_batches(data: NDArray[np.uint8], batches: NDArray[np.int64]) -> tuple[int, int]:
    """Write one row of ``batches`` int64 [M, BATCH_COLUMNS] for each whole batch of magic 2 that ``data``
    begins with: how many there are, and what follows: END (the last one of a fetch may be cut off), OTHER (a
    batch of another magic) or BROKEN."""
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
    """The number at ``at`` and the place after it, which is -1 where there is none that fits 64 bits."""
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
    """Start and stop of the bytes at ``at`` (NULL: they are null), and the place after them or -1."""
    length, at = _varint(data, at, end)
    if at < 0 or length < -1 or length > end - at:
        return 0, NULL, -1
    stop = at + int(length)
    return (at, stop, stop) if length >= 0 else (0, NULL, at)


@kernel
def _record(data: NDArray[np.uint8], at: int, end: int, row: NDArray[np.int64]) -> int:
    """Write ``row`` for the record at ``at``, time and offset less the batch's; the place after it or -1."""
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
    """Write one row of ``records`` int64 [N, RECORD_COLUMNS] for each record, from a cursor on.

    Args:
        data: what the batches hold.
        batches: int64 [B, BATCH_COLUMNS], where START and STOP are the places of a batch's records in data.
        cursor: int64 [3], moved on: number of the batch, place of its next record, records of it that were
            read. Begin with the place at 0 for the start of the batch.
        records: the rows.
        first_offset: records before it are left out.
        most_bytes: stop at the record with which this size is reached.
        record_bytes: most that a record counts.
        entry_bytes: what a record counts in addition.

    Returns:
        Rows written, what they count together, and whether the record at the cursor is damaged. All is read
        when the cursor's batch is B.
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
