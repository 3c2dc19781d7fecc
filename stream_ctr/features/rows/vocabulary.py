"""Maps each key to its own embedding row: an open-addressing hash table with linear probing.

The table consists of two arrays of equal length, a power of two: keys uint64 [C], 0 in free places, and rows
[C]. Keys are hashes already, so the low bits of a key are its home place. Entries are never removed, so a
free place ends a search.

A vocabulary can be read as of one moment, piece by piece, while keys are added to it: an occupied place keeps
its key and row, and rows are assigned in ascending order. So the entries with rows below a bound are the
table as of the moment when it had that many rows; later entries are left out. (The search for an older key
never passes the place of a later key: that place was free when the older key was inserted.) A place whose key
is written and whose row is not has row 0, which no key ever has.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from stream_ctr.batch import ABSENT
from stream_ctr.kernels.decorators import kernel

Rows = NDArray[np.int32] | NDArray[np.int64]
"""Rows of a table: 4 bytes each in the trainer's table, 8 in an exported one."""

NOT_FOUND = -1
SMALLEST_CAPACITY = 1024

PIECE: Final = 1 << 20
"""Rows or places per piece: each piece of keys ordered by row costs a pass over the whole table."""


def capacity_for(keys: int) -> int:
    """Places for ``keys`` keys: the smallest power of two that is at most three quarters full.

    >>> capacity_for(768), capacity_for(769)
    (1024, 2048)
    """
    capacity = SMALLEST_CAPACITY
    while keys > room(capacity):
        capacity *= 2
    return capacity


def room(capacity: int) -> int:
    """Number of keys that fit before a table must grow; in a fuller one unsuccessful searches get long."""
    return capacity // 4 * 3


@kernel
def find(table_keys: NDArray[np.uint64], table_rows: Rows, key: np.uint64) -> int:
    """Row of a key other than 0, or NOT_FOUND; table arrays [C]."""
    mask = np.uint64(len(table_keys) - 1)
    place = key & mask
    while table_keys[place] != np.uint64(0):
        if table_keys[place] == key:
            return int(table_rows[place])
        place = (place + np.uint64(1)) & mask
    return NOT_FOUND


@kernel
def insert(table_keys: NDArray[np.uint64], table_rows: NDArray[np.int32], key: np.uint64, row: int) -> bool:
    """Assign a row to a key; False if the key already has one. The table [C] must have a free place."""
    mask = np.uint64(len(table_keys) - 1)
    place = key & mask
    while table_keys[place] != np.uint64(0):
        if table_keys[place] == key:
            return False
        place = (place + np.uint64(1)) & mask
    table_keys[place] = key
    table_rows[place] = row
    return True


@kernel
def rehash(
    table_keys: NDArray[np.uint64],
    table_rows: NDArray[np.int32],
    new_keys: NDArray[np.uint64],
    new_rows: NDArray[np.int32],
) -> None:
    """Copy a table [C] into an empty one [C']."""
    for place in range(len(table_keys)):
        if table_keys[place] != np.uint64(0):
            insert(new_keys, new_rows, table_keys[place], table_rows[place])


@kernel
def insert_all(
    table_keys: NDArray[np.uint64], table_rows: NDArray[np.int32], keys: NDArray[np.uint64], first_row: int
) -> int:
    """Assign consecutive rows from ``first_row`` on to keys [K].

    Returns the index of the first key that is 0 or repeated, or K if there is none.
    """
    for index in range(len(keys)):
        if keys[index] == np.uint64(0):
            return index
        if not insert(table_keys, table_rows, keys[index], first_row + index):
            return index
    return len(keys)


@kernel
def keys_between(
    table_keys: NDArray[np.uint64], table_rows: NDArray[np.int32], keys: NDArray[np.uint64], first_row: int
) -> None:
    """Fill keys [K]: keys[i] is the key of row ``first_row + i``; the inverse of :func:`insert_all`."""
    for place in range(len(table_keys)):
        index = table_rows[place] - first_row
        if table_keys[place] != np.uint64(0) and 0 <= index < len(keys):
            keys[index] = table_keys[place]


@kernel
def is_repeated(
    values: NDArray[np.int64] | NDArray[np.uint64], slot_field: NDArray[np.int32], slot: int
) -> bool:
    """Whether an earlier slot of the same field holds values[slot]; values and slot_field [S]."""
    earlier = slot - 1
    while earlier >= 0 and slot_field[earlier] == slot_field[slot]:
        if values[earlier] == values[slot]:
            return True
        earlier -= 1
    return False


@kernel
def lookup_event(
    keys: NDArray[np.uint64],
    table_keys: NDArray[np.uint64],
    table_rows: Rows,
    slot_field: NDArray[np.int32],
    rows: NDArray[np.int64],
) -> None:
    """Write the rows of one event; keys, slot_field and rows [S], the table [C]; see lookup_rows."""
    for slot in range(len(keys)):
        rows[slot] = ABSENT
        if keys[slot] != np.uint64(0):
            row = find(table_keys, table_rows, keys[slot])
            rows[slot] = row if row != NOT_FOUND else slot_field[slot]
            if is_repeated(rows, slot_field, slot):
                rows[slot] = ABSENT


@kernel
def _lookup_events(
    keys: NDArray[np.uint64],
    table_keys: NDArray[np.uint64],
    table_rows: Rows,
    slot_field: NDArray[np.int32],
    rows: NDArray[np.int64],
) -> None:
    for event in range(len(keys)):
        lookup_event(keys[event], table_keys, table_rows, slot_field, rows[event])


def lookup_rows(
    keys: NDArray[np.uint64],
    table_keys: NDArray[np.uint64],
    table_rows: Rows,
    slot_field: NDArray[np.int32],
) -> NDArray[np.int64]:
    """Rows int64 [B, S] of keys [B, S]; changes nothing, so the arrays may be read-only memory maps.

    An unknown key gets the default row of its slot's field; key 0 is ABSENT. Two unknown values of one field
    share the default row: a row occurs at most once in an event, so the second is ABSENT.
    """
    rows = np.empty(keys.shape, np.int64)
    _lookup_events(keys, table_keys, table_rows, slot_field, rows)
    return rows


@dataclass(frozen=True, slots=True)
class RowKeys:
    """Keys of the rows from ``first_row`` to ``used`` - 1, ordered by row; see
    :class:`stream_ctr.state.frozen.Pieces`."""

    table_keys: NDArray[np.uint64]
    """[C]"""
    table_rows: NDArray[np.int32]
    """[C]"""
    first_row: int
    used: int

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(np.uint64)

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.used - self.first_row,)

    def pieces(self) -> Iterator[NDArray[Any]]:
        for start in range(self.first_row, self.used, PIECE):
            keys = np.zeros(min(PIECE, self.used - start), np.uint64)
            keys_between(self.table_keys, self.table_rows, keys, start)
            yield keys


@dataclass(frozen=True, slots=True)
class Places:
    """Keys or rows of the table's places, as input of :func:`.rows.vocabulary.lookup_rows`; see
    :class:`stream_ctr.state.frozen.Pieces`."""

    table_keys: NDArray[np.uint64]
    """[C]"""
    table_rows: NDArray[np.int32]
    """[C]"""
    first_row: int
    used: int
    rows: bool
    """Rows int64 [C] instead of keys uint64 [C]."""

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(np.int64 if self.rows else np.uint64)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.table_keys.shape

    def pieces(self) -> Iterator[NDArray[Any]]:
        for start in range(0, len(self.table_keys), PIECE):
            rows = self.table_rows[start : start + PIECE].astype(np.int64)
            old = (rows >= self.first_row) & (rows < self.used)
            yield np.where(old, rows if self.rows else self.table_keys[start : start + PIECE], 0).astype(
                self.dtype
            )
