"""The canonical bytes of a value, and their keys.

The key of a value is XXH64(canonical bytes, seed = XXH64(field name)). The canonical bytes begin with a
tag, so that values of different kinds never share a key:

==========  =========================================================================
missing     ``00``. An ordinary value of its field.
text        ``01`` and the UTF-8 bytes of the text that the value counts as (:mod:`.values`)
integer     ``02`` and v > 2 ? floor(ln(v)^2) : v as 8 bytes, little-endian
bucket      ``03`` and the number of a float's bucket as 8 bytes, little-endian
==========  =========================================================================
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from stream_ctr.kernels.decorators import kernel
from stream_ctr.kernels.xxhash64 import never_zero, xxh64

CANONICAL_MISSING = b"\x00"
TEXT_TAG = "\x01"
INTEGER_TAG = 2
MISSING_INTEGER = -(2**63)
"""Marks a missing integer; it is rejected as a value."""


def canonical_text(text: str) -> bytes:
    """Tagged bytes of a text. Raises UnicodeEncodeError if it has no UTF-8 form."""
    return (TEXT_TAG + text).encode()


def canonical_bucket(bucket: int) -> bytes:
    """Tagged bytes of a bucket's number."""
    return b"\x03" + bucket.to_bytes(8, "little")


@kernel
def _text_keys(
    data: NDArray[np.uint8], lengths: NDArray[np.int64], columns: NDArray[np.uint64], keys: NDArray[np.uint64]
) -> None:
    """Write the keys of B x T texts to their slots in keys [B, S]; see event_keys."""
    start = 0
    fields = len(columns)
    for event in range(len(keys)):
        for index in range(fields):
            slot = np.int64(columns[index, 0])
            length = lengths[event * fields + index]
            if length == 0:
                keys[event, slot] = columns[index, 2]
                start += 1
            else:
                stop = start + 1 + length
                keys[event, slot] = never_zero(xxh64(data, start, stop, columns[index, 1]))
                start = stop


@kernel
def integer_key(value: int, seed: np.uint64, tagged: NDArray[np.uint8]) -> np.uint64:
    """Key of an integer that is not missing; overwrites tagged uint8 [9]."""
    tagged[0] = INTEGER_TAG
    shown = np.int64(math.floor(math.log(np.float64(value)) ** 2)) if value > 2 else np.int64(value)
    for byte in range(8):
        tagged[1 + byte] = (shown >> (8 * byte)) & 0xFF
    return never_zero(xxh64(tagged, 0, 9, seed))


@kernel
def _integer_keys(values: NDArray[np.int64], columns: NDArray[np.uint64], keys: NDArray[np.uint64]) -> None:
    """Write the keys of B x I integers to their slots in keys [B, S]; see event_keys."""
    tagged = np.empty(9, np.uint8)
    fields = len(columns)
    for event in range(len(keys)):
        for index in range(fields):
            slot = np.int64(columns[index, 0])
            value = values[event * fields + index]
            if value == MISSING_INTEGER:
                keys[event, slot] = columns[index, 2]
            else:
                keys[event, slot] = integer_key(value, columns[index, 1], tagged)


@kernel
def event_keys(
    data: NDArray[np.uint8],
    lengths: NDArray[np.int64],
    text_columns: NDArray[np.uint64],
    integers: NDArray[np.int64],
    integer_columns: NDArray[np.uint64],
    events: int,
    slots: int,
) -> NDArray[np.uint64]:
    """Keys [B, S] of the texts and integers of B events, 0 in every other slot.

    data: canonical bytes of B x T consecutive texts. lengths [B * T]: bytes of each text without its tag, 0
    if it is missing (an empty text is missing). integers [B * I]: MISSING_INTEGER if missing.
    text_columns [T, 3] and integer_columns [I, 3]: slot, seed and missing key of each field. One call handles
    both, since a call from Python costs as much as 30 keys.
    """
    keys = np.zeros((events, slots), np.uint64)
    _text_keys(data, lengths, text_columns, keys)
    _integer_keys(integers, integer_columns, keys)
    return keys
