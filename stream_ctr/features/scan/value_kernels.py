"""Kernels that scan JSON values in plain form from their bytes to keys; see :mod:`.record_kernels`."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from stream_ctr.features.keys.canonical import integer_key
from stream_ctr.features.scan.plan import INTEGER, LEARNED, LISTED, MOST_KEYS, NOT_SURE, TEXT, Schema
from stream_ctr.kernels.decorators import kernel
from stream_ctr.kernels.xxhash64 import never_zero, xxh64

MOST_DIGITS: Final = 15
"""Largest number of digits: 15 are exact in a double, and their quotient by a power of ten is correctly
rounded."""
MOST_CHARACTERS: Final = 40
"""Largest length of an ignored number."""

_POWERS = 10.0 ** np.arange(MOST_DIGITS + 1)
"""Exact: powers of ten up to the 22nd are doubles."""
QUOTE, BACKSLASH, COMMA, COLON, POINT, MINUS = 34, 92, 44, 58, 46, 45
OPEN_OBJECT, CLOSE_OBJECT, OPEN_LIST, CLOSE_LIST = 123, 125, 91, 93
SPACE, PLUS, ZERO, NINE, UPPER_E, UPPER_F, UPPER_T = 32, 43, 48, 57, 69, 70, 84
LETTER_A, LOWER_E, LETTER_F, LETTER_L, LETTER_N = 97, 101, 102, 108, 110
LETTER_R, LETTER_S, LETTER_T, LETTER_U = 114, 115, 116, 117
LOWER_CASE = 32
"""The bit in which lower-case and upper-case letters differ."""
TEXT_TAG = 1


@kernel
def blank(data: NDArray[np.uint8], at: int) -> int:
    """The first position from ``at`` on without white space; the last byte of data must not be white
    space."""
    while data[at] == 32 or data[at] == 10 or data[at] == 13 or data[at] == 9:
        at += 1
    return at


@kernel
def text_end(data: NDArray[np.uint8], at: int) -> int:
    """Position of the quote that ends the text whose first byte is at ``at``, or NOT_SURE."""
    while data[at] != QUOTE:
        if data[at] == BACKSLASH or data[at] < 32:
            return NOT_SURE
        at += 1
    return at


@kernel
def same(one: NDArray[np.uint8], at: int, other: NDArray[np.uint8], start: int, length: int) -> bool:
    """Whether ``length`` bytes of ``one`` from ``at`` equal those of ``other`` from ``start``."""
    index = 0
    while index < length and one[at + index] == other[start + index]:
        index += 1
    return index == length


@kernel
def number_end(data: NDArray[np.uint8], at: int) -> tuple[int, int, int]:
    """Parse the number at ``at``: position after it, digits as an integer, number of digits after the point
    (-1: no point). NOT_SURE for other forms: an exponent, a negative zero, too many digits."""
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
def _is_word(data: NDArray[np.uint8], at: int, second: int, third: int, fourth: int) -> bool:
    """Whether three letters are these, ignoring case."""
    letters = data[at] | LOWER_CASE, data[at + 1] | LOWER_CASE, data[at + 2] | LOWER_CASE
    return letters == (second, third, fourth)


@kernel
def plain_end(data: NDArray[np.uint8], start: int, stop: int) -> int:
    """The end of a text's canonical form: ``stop`` for most texts, the point of ``3.0``, and NOT_SURE for
    texts that :func:`stream_ctr.features.keys.values.plain_text` may rewrite."""
    length = stop - start
    if data[start] == UPPER_T or data[start] == UPPER_F:
        true = length == 4 and _is_word(data, start + 1, LETTER_R, LETTER_U, LOWER_E)
        false = length == 5 and _is_word(data, start + 1, LETTER_A, LETTER_L, LETTER_S)
        return NOT_SURE if true or false else stop
    first = start + (data[start] == MINUS)
    point = first
    while point < stop and ZERO <= data[point] <= NINE:
        point += 1
    whole = point - first
    if whole == 0 or point == stop or (whole > 1 and data[first] == ZERO):
        return stop
    end, decimals = point + 1, 0
    while end < stop and ZERO <= data[end] <= NINE:
        decimals += data[end] > ZERO
        end += 1
    if data[point] != POINT:
        return NOT_SURE if data[point] | LOWER_CASE == LOWER_E and data[point + 1] == PLUS else stop
    if end == point + 1:
        return stop
    if end < stop:
        return NOT_SURE if data[end] == UPPER_E or data[end] == LOWER_E else stop
    if decimals:
        return stop
    return point if whole <= MOST_DIGITS and (first == start or data[first] != ZERO) else NOT_SURE


@kernel
def _item(data: NDArray[np.uint8], at: int, seed: np.uint64) -> tuple[int, np.uint64]:
    """The position after the list item at ``at``, or NOT_SURE, and its key: 0 if it is missing."""
    missing = np.uint64(0)
    if data[at] == QUOTE:
        end = text_end(data, at + 1)
        if end == NOT_SURE or end == at + 1:
            return (end if end == NOT_SURE else end + 1), missing
        stop = plain_end(data, at + 1, end)
        if stop == NOT_SURE:
            return NOT_SURE, missing
        data[at] = TEXT_TAG
        return end + 1, never_zero(xxh64(data, at, stop, seed))
    if data[at] == LETTER_N:
        return (at + 4 if _is_word(data, at + 1, LETTER_U, LETTER_L, LETTER_L) else NOT_SURE), missing
    end, _, decimals = number_end(data, at)
    if end == NOT_SURE or decimals >= 0:
        return NOT_SURE, missing
    data[at - 1] = TEXT_TAG
    return end, never_zero(xxh64(data, at - 1, end, seed))


@kernel
def _place(
    listed: NDArray[np.uint64],
    count: int,
    row: NDArray[np.uint64],
    slot: int,
    width: int,
    keeps_last: bool,
) -> int:
    """Write the first or last ``width`` of ``count`` keys to row, ascending; returns how many are left
    out."""
    kept = min(count, width)
    begin = count - kept if keeps_last else 0
    for number in range(kept):
        key = listed[begin + number]
        place = slot + number
        while place > slot and row[place - 1] > key:
            row[place] = row[place - 1]
            place -= 1
        row[place] = key
    return count - kept


@kernel
def _list(
    data: NDArray[np.uint8],
    at: int,
    schema: Schema,
    field: int,
    row: NDArray[np.uint64],
    listed: NDArray[np.uint64],
) -> int:
    """Write the distinct keys of the list at ``at`` to the field's slots of row; see ``Column.list_keys``."""
    count, at, seed = 0, blank(data, at + 1), schema.seed[field]
    keeps_last = schema.keeps_last[field]
    while data[at] != CLOSE_LIST:
        at, key = _item(data, at, seed)
        if at == NOT_SURE or count == MOST_KEYS:
            return NOT_SURE
        if key != np.uint64(0):
            place = 0
            while place < count and listed[place] != key:
                place += 1
            if place == count:
                listed[count] = key
                count += 1
            elif keeps_last:
                for index in range(place, count - 1):
                    listed[index] = listed[index + 1]
                listed[count - 1] = key
        at = blank(data, at)
        if data[at] == COMMA:
            at = blank(data, at + 1)
            if data[at] == CLOSE_LIST:
                return NOT_SURE
        elif data[at] != CLOSE_LIST:
            return NOT_SURE
    if count == 0:
        row[schema.slot[field]] = schema.missing[field]
    else:
        cut = _place(listed, count, row, schema.slot[field], schema.width[field], keeps_last)
        row[schema.truncated] += np.uint64(cut)
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
    if end == NOT_SURE:
        return NOT_SURE
    stop = end - decimals - 1 if decimals >= 0 else end
    for _ in range(decimals):
        if value % 10:
            return NOT_SURE
        value //= 10
    if is_integer:
        row[slot] = integer_key(value, seed, tagged)
    else:
        data[at - 1] = TEXT_TAG
        row[slot] = never_zero(xxh64(data, at - 1, stop, seed))
    return end


@kernel
def _boolean(data: NDArray[np.uint8], at: int, seed: np.uint64, row: NDArray[np.uint64], slot: int) -> int:
    """Write the key of the boolean at ``at``, as its text; returns the position after it, or NOT_SURE."""
    true = data[at] == LETTER_T and data[at + 1] == LETTER_R and data[at + 2] == LETTER_U
    false = data[at] == LETTER_F and data[at + 1] == LETTER_A and data[at + 2] == LETTER_L
    end = at + 4 if true else at + 5
    if not (true or (false and data[at + 3] == LETTER_S)) or data[end - 1] != LOWER_E:
        return NOT_SURE
    data[at - 1] = TEXT_TAG
    row[slot] = never_zero(xxh64(data, at - 1, end, seed))
    return end


@kernel
def ignored_value(data: NDArray[np.uint8], at: int) -> int:
    """The position after a text, number, literal, or flat list of texts and numbers; NOT_SURE for anything
    else.

    The typed decoder checks that numbers and literals are valid.
    """
    listed = data[at] == OPEN_LIST
    if listed:
        at = blank(data, at + 1)
        if data[at] == CLOSE_LIST:
            return at + 1
    while True:
        if data[at] == QUOTE:
            at = text_end(data, at + 1)
            if at == NOT_SURE:
                return NOT_SURE
            at += 1
        else:
            start = at
            digits = MINUS <= data[at] <= NINE
            # Excludes exponents, which may put a number out of the full decoder's range.
            while (MINUS <= data[at] <= NINE) or (not digits and LETTER_A <= data[at] <= LETTER_U):
                at += 1
            if at == start or at - start > MOST_CHARACTERS:
                return NOT_SURE
        if not listed:
            return at
        at = blank(data, at)
        if data[at] == CLOSE_LIST:
            return at + 1
        if data[at] != COMMA:
            return NOT_SURE
        at = blank(data, at + 1)


@kernel
def other_value(
    data: NDArray[np.uint8],
    at: int,
    schema: Schema,
    field: int,
    row: NDArray[np.uint64],
    numbers: NDArray[np.float64],
    listed: NDArray[np.uint64],
) -> int:
    """Write the key of a boolean, a list or a float field's number; returns the position after it, or
    NOT_SURE.

    row uint64 [S + X] and numbers float64 [S + X] share memory; listed uint64 [MOST_KEYS] is overwritten.
    """
    kind, slot = schema.kind[field], schema.slot[field]
    if kind == LISTED:
        return _list(data, at, schema, field, row, listed) if data[at] == OPEN_LIST else NOT_SURE
    if kind == TEXT:
        return _boolean(data, at, schema.seed[field], row, slot)
    end, value, decimals = number_end(data, at)
    if end == NOT_SURE or kind == INTEGER:
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
