"""Kernels that process events one by one: find or create rows, count features, read ratios."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stream_ctr.batch import ABSENT, ASIDE, PREDICT
from stream_ctr.features.rows.admission import count_sighting
from stream_ctr.features.rows.frequency import Counts, count_ratio, weight_at
from stream_ctr.features.rows.vocabulary import NOT_FOUND, find, insert, is_repeated, lookup_event
from stream_ctr.kernels.decorators import kernel

IN_USE: Final = 0
CHANGES: Final = 1
STARTED: Final = 2
"""Indices into ``sizes``: rows in use, changes written by this call, whether any event was encoded."""


class Tables(NamedTuple):
    """Arrays that the kernel reads and writes: C places of the vocabulary, V rows, F fields, S slots."""

    slot_field: NDArray[np.int32]
    """[S]"""
    table_keys: NDArray[np.uint64]
    """[C]"""
    table_rows: NDArray[np.int32]
    """[C]"""
    row_field: NDArray[np.int32]
    """[V]"""
    sketch: NDArray[np.uint16]
    """[DEPTH, CELLS]; one cell per row if every value is admitted at once."""
    sketch_used: NDArray[np.int64]
    """[DEPTH]"""
    sizes: NDArray[np.int64]
    """[3] see IN_USE, CHANGES and STARTED."""
    fields: int
    minimum_count: int
    room: int
    """Number of rows that fit before the table and row arrays must grow."""


class Changes(NamedTuple):
    """Rows to initialise, in order; the columns of RowChanges with spare capacity."""

    event: NDArray[np.int64]
    row: NDArray[np.int64]
    field: NDArray[np.int32]
    key: NDArray[np.uint64]


@kernel
def _record(tables: Tables, changes: Changes, event: int, row: int, field: int, key: np.uint64) -> None:
    change = tables.sizes[CHANGES]
    tables.sizes[CHANGES] += 1
    changes.event[change] = event
    changes.row[change] = row
    changes.field[change] = field
    changes.key[change] = key


@kernel
def _create(tables: Tables, changes: Changes, event: int, field: int, key: np.uint64) -> int:
    """Assign the next row to a key."""
    row = int(tables.sizes[IN_USE])
    tables.sizes[IN_USE] += 1
    tables.row_field[row] = field
    insert(tables.table_keys, tables.table_rows, key, row)
    _record(tables, changes, event, row, field, key)
    return row


@kernel
def _start(tables: Tables, changes: Changes, event: int) -> None:
    """Record the default rows as changes, before the first event of the stream."""
    tables.sizes[STARTED] = 1
    for field in range(tables.fields):
        _record(tables, changes, event, field, field, np.uint64(0))


@kernel
def _set_default_row(rows: NDArray[np.int64], slot_field: NDArray[np.int32], slot: int) -> None:
    """Set the slot to its default row, unless the event already has that row: no row occurs twice; both
    arrays [S]."""
    rows[slot] = slot_field[slot]
    if is_repeated(rows, slot_field, slot):
        rows[slot] = ABSENT


@kernel
def _read_ratios(
    rows: NDArray[np.int64],
    ratio: NDArray[np.float32],
    slot_field: NDArray[np.int32],
    counts: Counts,
    fields: int,
) -> None:
    """Write N / M of the rows of one event; rows, ratio and slot_field [S]."""
    number, row_time_ms, half_life_ms = counts.number, counts.time_ms, counts.half_life_ms
    maximum, maximum_time_ms = counts.maximum, counts.maximum_time_ms
    for slot in range(len(rows)):
        row, field = rows[slot], slot_field[slot]
        ratio[slot] = 0.0
        if row >= fields:
            row_time = row_time_ms[row] if half_life_ms > 0.0 else 0
            ratio[slot] = count_ratio(
                number[row], row_time, maximum[field], maximum_time_ms[field], half_life_ms
            )


@kernel
def encode_events(
    tables: Tables,
    counts: Counts,
    changes: Changes,
    start: int,
    keys: NDArray[np.uint64],
    action: NDArray[np.uint8],
    event_time_ms: NDArray[np.int64],
    rows: NDArray[np.int64],
    ratio: NDArray[np.float32],
) -> int:
    """Encode events [B, S] from ``start`` on; returns the first event that does not fit in the tables, or B.

    Tuples are unpacked here, and functions called at every slot take scalars: passing an array to a
    function costs a reference count, which at every slot took twenty times as long as the work itself.
    """
    slot_field, table_keys, table_rows = tables.slot_field, tables.table_keys, tables.table_rows
    sizes, fields, minimum = tables.sizes, tables.fields, tables.minimum_count
    number, row_time_ms, clock_ms = counts.number, counts.time_ms, counts.clock_ms
    maximum, maximum_time_ms = counts.maximum, counts.maximum_time_ms
    half_life_ms = counts.half_life_ms
    slots = len(slot_field)
    for event in range(start, len(keys)):
        event_keys, event_rows = keys[event], rows[event]
        if action[event] & (PREDICT | ASIDE) == PREDICT:
            if sizes[IN_USE] + slots > tables.room:
                return event
            if sizes[STARTED] == 0:
                _start(tables, changes, event)
            # 'Now' is the largest event time so far, so that a late event does not age any count.
            clock_ms[0] = max(clock_ms[0], event_time_ms[event])
            now_ms = clock_ms[0]
            for slot in range(slots):
                key, field = event_keys[slot], slot_field[slot]
                event_rows[slot] = ABSENT
                if key == np.uint64(0) or is_repeated(event_keys, slot_field, slot):
                    continue
                row = find(table_keys, table_rows, key)
                if row == NOT_FOUND:
                    sightings = 1
                    if minimum > 1:
                        sightings = count_sighting(tables.sketch, tables.sketch_used, key, minimum)
                    if sightings < minimum:
                        _set_default_row(event_rows, slot_field, slot)
                        continue
                    row = _create(tables, changes, event, field, key)
                    # The sightings before admission have no times, so they count as of now.
                    number[row] = sightings - 1.0
                    if half_life_ms > 0.0:
                        row_time_ms[row] = now_ms
                event_rows[slot] = row
                # N <- N + 1 and M <- max(M, N), both as of now.
                row_time = row_time_ms[row] if half_life_ms > 0.0 else now_ms
                number[row] = weight_at(number[row], row_time, now_ms, half_life_ms) + 1.0
                if half_life_ms > 0.0:
                    row_time_ms[row] = now_ms
                # M is written only when a row reaches it: decaying it at every event would add up rounding
                # errors.
                if number[row] >= weight_at(maximum[field], maximum_time_ms[field], now_ms, half_life_ms):
                    maximum[field] = number[row]
                    maximum_time_ms[field] = now_ms
        else:
            if sizes[STARTED] == 0:
                _start(tables, changes, event)
            lookup_event(event_keys, table_keys, table_rows, slot_field, event_rows)
        _read_ratios(event_rows, ratio[event], slot_field, counts, fields)
    return len(keys)
