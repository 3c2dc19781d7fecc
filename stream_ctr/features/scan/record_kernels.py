"""Kernels that scan impressions in plain form from their bytes directly to keys.

A scan is either sure of a record or leaves it to the full decoder. It is sure of a JSON object without
backslashes and repeated keys, whose features have the plain form of their kind or a name that is known to be
ignored. It leaves the values outside ``features`` to a typed decoder and only checks that none of their keys
is repeated.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from stream_ctr.features.scan.plan import IGNORED, INTEGER, MOST_KEYS, NOT_SURE, TEXT, Schema, Scratch
from stream_ctr.features.scan.value_kernels import (
    BACKSLASH,
    CLOSE_OBJECT,
    COLON,
    COMMA,
    LETTER_L,
    LETTER_N,
    LETTER_U,
    LOWER_E,
    NINE,
    OPEN_LIST,
    OPEN_OBJECT,
    PLUS,
    POINT,
    QUOTE,
    SPACE,
    TEXT_TAG,
    UPPER_E,
    UPPER_F,
    UPPER_T,
    ZERO,
    blank,
    ignored_value,
    other_value,
    plain_end,
    same,
    text_end,
    whole_number,
)
from stream_ctr.kernels.decorators import kernel
from stream_ctr.kernels.xxhash64 import never_zero, xxh64

_FEATURES = np.frombuffer(b"features", np.uint8).copy()


@kernel
def _features(
    data: NDArray[np.uint8],
    at: int,
    schema: Schema,
    event: int,
    row: NDArray[np.uint64],
    numbers: NDArray[np.float64],
    scratch: Scratch,
) -> int:
    """Write the keys of the features object at ``at``; returns the position after it, or NOT_SURE.

    Texts and null, the most frequent values, are handled without a call: passing an array to a function costs
    a reference count, which at every step took many times as long as the work itself.
    """
    names, name_start, kind, slot = schema.names, schema.name_start, schema.kind, schema.slot
    seed, seen, listed, tagged = schema.seed, scratch.seen, scratch.listed, scratch.tagged
    count, field, here = len(kind), -1, event + 1
    if data[at] != OPEN_OBJECT:
        return NOT_SURE
    at += 1
    while data[at] != CLOSE_OBJECT:
        if data[at] != QUOTE:
            return NOT_SURE
        start = at + 1
        at = start
        while data[at] != QUOTE and data[at] != BACKSLASH and data[at] >= SPACE:
            at += 1
        known = False
        for _ in range(count):  # names usually occur in schema order
            field = field + 1 if field + 1 < count else 0
            shift = name_start[field] - start
            if name_start[field + 1] - name_start[field] == at - start:
                index = start
                while index < at and data[index] == names[index + shift]:
                    index += 1
                known = index == at
                if known:
                    break
        if not known or data[at] != QUOTE or data[at + 1] != COLON or seen[field] == here:
            return NOT_SURE
        seen[field] = here
        at += 2 + (data[at + 2] == SPACE)
        if data[at] == QUOTE and kind[field] == TEXT:
            start = at
            at += 1
            while data[at] != QUOTE and data[at] != BACKSLASH and data[at] >= SPACE:
                at += 1
            if data[at] != QUOTE:
                return NOT_SURE
            # The last bytes show whether a text may be rewritten or missing. The test has no branches,
            # because a mispredicted branch costs as much as the hash.
            stop, last, before, third = at, data[at - 1], data[at - 2], data[at - 3]
            if (
                (last == QUOTE)
                | ((last == ZERO) & ((before == POINT) | (before == ZERO)))
                | (before == UPPER_E)
                | (third == UPPER_E)
                | (before == PLUS)
                | (third == PLUS)
                | ((last == LOWER_E) | (last == UPPER_E))
                & ((data[at - 4] == UPPER_T) | (data[at - 5] == UPPER_F))
            ):
                stop = plain_end(data, start + 1, at)
                if stop == NOT_SURE:
                    return NOT_SURE
            if stop == start + 1:
                row[slot[field]] = schema.missing[field]
            else:
                # The tag overwrites the quote before the text.
                data[start] = TEXT_TAG
                row[slot[field]] = never_zero(xxh64(data, start, stop, seed[field]))
            at += 1
        elif kind[field] != IGNORED and data[at] == LETTER_N:
            if data[at + 1] != LETTER_U or data[at + 2] != LETTER_L or data[at + 3] != LETTER_L:
                return NOT_SURE
            row[slot[field]] = schema.missing[field]
            at += 4
        elif kind[field] <= INTEGER and data[at] <= NINE:
            at = whole_number(data, at, kind[field] == INTEGER, seed[field], row, slot[field], tagged)
        elif kind[field] == IGNORED:
            scratch.ignored[0] |= np.uint64(1) << np.uint64(field - schema.fields)
            at = ignored_value(data, at)
        else:
            at = other_value(data, at, schema, field, row, numbers, listed)
        if at == NOT_SURE:
            return NOT_SURE
        if data[at] == COMMA and data[at + 1] != CLOSE_OBJECT:
            at += 1 + (data[at + 1] == SPACE)
        elif data[at] != CLOSE_OBJECT:
            return NOT_SURE
    for field in range(schema.fields):
        if seen[field] != here:
            row[slot[field]] = schema.missing[field]
    return at + 1


@kernel
def _is_new(data: NDArray[np.uint8], scratch: Scratch, first: int, count: int) -> bool:
    """Whether key number ``count`` differs from all keys from number ``first`` on."""
    key_start, key_stop = scratch.key_start, scratch.key_stop
    start, length = key_start[count], key_stop[count] - key_start[count]
    for other in range(first, count):
        if key_stop[other] - key_start[other] == length and same(data, start, data, key_start[other], length):
            return False
    return True


@kernel
def _plain_value(data: NDArray[np.uint8], at: int) -> int:
    """The position after a text, or after a possible number or null; NOT_SURE for anything else."""
    if data[at] == QUOTE:
        end = text_end(data, at + 1)
        return NOT_SURE if end == NOT_SURE else end + 1
    start = at
    # Digits, letters, signs and points: the typed decoder checks whether they form a value.
    while data[at] > 32 and data[at] != COMMA and data[at] != CLOSE_OBJECT:
        if data[at] == QUOTE or data[at] == OPEN_OBJECT or data[at] == OPEN_LIST:
            return NOT_SURE
        at += 1
    return at if at > start else NOT_SURE


@kernel
def _plain_object(data: NDArray[np.uint8], at: int, scratch: Scratch, first: int) -> int:
    """The position after an object of plain values and distinct keys; stores its keys from ``first`` on."""
    count, at = first, blank(data, at + 1)
    while data[at] != CLOSE_OBJECT:
        if data[at] != QUOTE or count == MOST_KEYS:
            return NOT_SURE
        end = text_end(data, at + 1)
        if end == NOT_SURE:
            return NOT_SURE
        scratch.key_start[count], scratch.key_stop[count] = at + 1, end
        at = blank(data, end + 1)
        if data[at] != COLON or not _is_new(data, scratch, first, count):
            return NOT_SURE
        count += 1
        at = _plain_value(data, blank(data, at + 1))
        if at == NOT_SURE:
            return NOT_SURE
        at = blank(data, at)
        if data[at] == COMMA:
            at = blank(data, at + 1)
        elif data[at] != CLOSE_OBJECT:
            return NOT_SURE
    return at + 1


@kernel
def _scan_record(
    data: NDArray[np.uint8],
    at: int,
    schema: Schema,
    event: int,
    row: NDArray[np.uint64],
    numbers: NDArray[np.float64],
    scratch: Scratch,
) -> int:
    """The position after the record at ``at``, or NOT_SURE."""
    count, found = 0, False
    if data[at] != OPEN_OBJECT:
        return NOT_SURE
    at = blank(data, at + 1)
    while data[at] != CLOSE_OBJECT:
        if data[at] != QUOTE or count == MOST_KEYS:
            return NOT_SURE
        start, end = at + 1, text_end(data, at + 1)
        if end == NOT_SURE:
            return NOT_SURE
        scratch.key_start[count], scratch.key_stop[count] = start, end
        at = blank(data, end + 1)
        if data[at] != COLON or not _is_new(data, scratch, 0, count):
            return NOT_SURE
        count += 1
        at = blank(data, at + 1)
        if end - start == len(_FEATURES) and same(data, start, _FEATURES, 0, end - start):
            at, found = _features(data, at, schema, event, row, numbers, scratch), True
        elif data[at] == OPEN_OBJECT:
            at = _plain_object(data, at, scratch, count)
        else:
            at = _plain_value(data, at)
        if at == NOT_SURE:
            return NOT_SURE
        at = blank(data, at)
        if data[at] == COMMA:
            at = blank(data, at + 1)
        elif data[at] != CLOSE_OBJECT:
            return NOT_SURE
    return at + 1 if found else NOT_SURE


@kernel
def scan_records(
    data: NDArray[np.uint8],
    start: NDArray[np.int64],
    schema: Schema,
    keys: NDArray[np.uint64],
    numbers: NDArray[np.float64],
    sure: NDArray[np.bool_],
    ignored: NDArray[np.uint64],
    scratch: Scratch,
) -> None:
    """Write the keys of B records.

    data: the records, each followed by a zero byte; it is overwritten. start int64 [B + 1]: the start of each
    record, and the end. keys uint64 [B, S + X], zeros, and numbers float64 [B, S + X] are the same memory;
    their last X columns receive the values of learned floats, then the count of truncated values. sure bool
    [B] is output; rows where it is false hold no usable data. ignored uint64 [B] is output: bit u is set if
    the event has the name F + u.
    """
    for event in range(len(sure)):
        scratch.ignored[0] = 0
        end = _scan_record(data, start[event], schema, event, keys[event], numbers[event], scratch)
        sure[event] = end != NOT_SURE and blank(data, end) == start[event + 1] - 1
        ignored[event] = scratch.ignored[0]
