"""Values in the plain forms of JSON, from their bytes to keys. Kernels only; see :mod:`.scan`."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from stream_ctr.features.canonical import integer_key
from stream_ctr.features.hashing import never_zero, xxh64
from stream_ctr.features.scan_plan import INTEGER, LEARNED, LISTED, MOST_KEYS, NOT_SURE, Schema, Scratch
from stream_ctr.kernels import kernel

MOST_DIGITS: Final = 15
"""Digits of a number: so many are exact in a double, and so is their quotient by a power of ten."""

_POWERS = 10.0 ** np.arange(MOST_DIGITS + 1)
"""Exact: powers of ten up to the 22nd are doubles."""
QUOTE, BACKSLASH, COMMA, COLON, POINT, MINUS = 34, 92, 44, 58, 46, 45
OPEN_OBJECT, CLOSE_OBJECT, OPEN_LIST, CLOSE_LIST = 123, 125, 91, 93
SPACE, ZERO, NINE, LETTER_N, LETTER_U, LETTER_L = 32, 48, 57, 110, 117, 108
TEXT_TAG = 1


@kernel
def blank(data: NDArray[np.uint8], at: int) -> int:
    """The first place from ``at`` on that is no white space; data ends with a byte that is none."""
    while data[at] == 32 or data[at] == 10 or data[at] == 13 or data[at] == 9:
        at += 1
    return at


@kernel
def text_end(data: NDArray[np.uint8], at: int) -> int:
    """Place of the quote that ends the text whose first byte is at ``at``, or NOT_SURE."""
    while data[at] != QUOTE:
        if data[at] == BACKSLASH or data[at] < 32:
            return NOT_SURE
        at += 1
    return at


@kernel
def same(one: NDArray[np.uint8], at: int, other: NDArray[np.uint8], start: int, length: int) -> bool:
    """Whether ``length`` bytes of ``one`` from ``at`` are those of ``other`` from ``start``."""
    index = 0
    while index < length and one[at + index] == other[start + index]:
        index += 1
    return index == length


@kernel
def number_end(data: NDArray[np.uint8], at: int) -> tuple[int, int, int]:
    """Of the number at ``at``: place after it, its digits as an integer, digits after the point (-1: no
    point). NOT_SURE for a form that is not plain: an exponent, a zero with a sign, too many digits."""
    first = at + (data[at] == MINUS)
    at, value, point = first, 0, -1
    while True:
        byte = data[at]
        if ZERO <= byte <= NINE:
            value = 10 * value + (byte - ZERO)
        elif byte == POINT and point < 0 and at > first:
            point = at
        else:
            break
        at += 1
        if at - first > MOST_DIGITS:
            return NOT_SURE, 0, 0
    digits = at - first
    whole = (point if point >= 0 else at) - first
    if digits == 0 or at - 1 == point or (whole > 1 and data[first] == ZERO):
        return NOT_SURE, 0, 0
    if data[first - 1] == MINUS:
        if value == 0:
            return NOT_SURE, 0, 0
        value = -value
    return at, value, at - 1 - point if point >= 0 else -1


@kernel
def _list(
    data: NDArray[np.uint8],
    at: int,
    schema: Schema,
    field: int,
    row: NDArray[np.uint64],
    listed: NDArray[np.uint64],
) -> int:
    """Keys of the list of texts after ``at``, ascending and each once, into the field's slots of row."""
    count, at = 0, blank(data, at + 1)
    if data[at] == CLOSE_LIST:
        row[schema.slot[field]] = schema.missing[field]
        return at + 1
    while True:
        if data[at] != QUOTE or count == MOST_KEYS:
            return NOT_SURE
        end = text_end(data, at + 1)
        if end == NOT_SURE:
            return NOT_SURE
        data[at] = TEXT_TAG
        key = never_zero(xxh64(data, at, end, schema.seed[field]))
        place = count
        while place > 0 and listed[place - 1] > key:
            place -= 1
        if place == 0 or listed[place - 1] != key:
            for index in range(count, place, -1):
                listed[index] = listed[index - 1]
            listed[place] = key
            count += 1
        at = blank(data, end + 1)
        if data[at] == CLOSE_LIST:
            break
        if data[at] != COMMA:
            return NOT_SURE
        at = blank(data, at + 1)
    width = schema.width[field]
    for index in range(min(count, width)):
        row[schema.slot[field] + index] = listed[index]
    row[schema.truncated] += np.uint64(max(0, count - width))
    return at + 1


@kernel
def whole_number(
    data: NDArray[np.uint8],
    at: int,
    is_integer: bool,
    seed: np.uint64,
    row: NDArray[np.uint64],
    slot: int,
    tagged: NDArray[np.uint8],
) -> int:
    """Write the key of a whole number, as an integer or as its decimal text; see :func:`other_value`."""
    end, value, decimals = number_end(data, at)
    if end == NOT_SURE or decimals >= 0:
        return NOT_SURE
    if is_integer:
        row[slot] = integer_key(value, seed, tagged)
    else:
        data[at - 1] = TEXT_TAG
        row[slot] = never_zero(xxh64(data, at - 1, end, seed))
    return end


@kernel
def other_value(
    data: NDArray[np.uint8],
    at: int,
    schema: Schema,
    field: int,
    row: NDArray[np.uint64],
    numbers: NDArray[np.float64],
    scratch: Scratch,
) -> int:
    """Write the key of a value that is no text; the place after it, or NOT_SURE.

    row uint64 [S + X] and numbers float64 [S + X] are the same memory.
    """
    kind, slot = schema.kind[field], schema.slot[field]
    if data[at] == OPEN_LIST:
        return _list(data, at, schema, field, row, scratch.listed) if kind == LISTED else NOT_SURE
    if data[at] == LETTER_N:
        row[slot] = schema.missing[field]
        null = data[at + 1] == LETTER_U and data[at + 2] == LETTER_L and data[at + 3] == LETTER_L
        return at + 4 if null else NOT_SURE
    if kind <= INTEGER:
        return whole_number(data, at, kind == INTEGER, schema.seed[field], row, slot, scratch.tagged)
    end, value, decimals = number_end(data, at)
    if end == NOT_SURE or kind == LISTED:
        return NOT_SURE
    number = np.float64(value) / _POWERS[max(decimals, 0)]
    if kind == LEARNED:
        numbers[schema.extra[field]] = number
        return end
    bucket = 0  # boundaries at or below the number
    for index in range(schema.boundary_start[field], schema.boundary_start[field + 1]):
        bucket += schema.boundaries[index] <= number
    row[slot] = schema.bucket_keys[schema.bucket_start[field] + bucket]
    return end
