"""XXH64, the 64-bit hash of every key, as compiled code.

Transcribed from the public specification (xxHash fast digest algorithm, version 0.1.1, section
"XXH64 Algorithm Description"). The step names in the comments are the specification's.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from stream_ctr.kernels.decorators import kernel

PRIME_1 = np.uint64(0x9E3779B185EBCA87)
PRIME_2 = np.uint64(0xC2B2AE3D27D4EB4F)
PRIME_3 = np.uint64(0x165667B19E3779F9)
PRIME_4 = np.uint64(0x85EBCA77C2B2AE63)
PRIME_5 = np.uint64(0x27D4EB2F165667C5)

ABSENT_KEY = 0
"""Key of an empty slot; no value has this key."""
ZERO_KEY = 0x9E3779B97F4A7C15
"""Key of a value whose hash is 0: about one value in 10^19, with one more chance of a collision."""

_U8 = np.uint64(8)
_U64 = np.uint64(64)


@kernel
def _rotate_left(value: np.uint64, bits: np.uint64) -> np.uint64:
    return (value << bits) | (value >> (_U64 - bits))


@kernel
def _read(data: NDArray[np.uint8], start: int, width: int) -> np.uint64:
    """``width`` bytes from ``start``, little-endian."""
    value = np.uint64(0)
    for index in range(width):
        value |= np.uint64(data[start + index]) << (_U8 * np.uint64(index))
    return value


@kernel
def _round(accumulator: np.uint64, lane: np.uint64) -> np.uint64:
    return _rotate_left(accumulator + lane * PRIME_2, np.uint64(31)) * PRIME_1


@kernel
def _merge(accumulator: np.uint64, lane_accumulator: np.uint64) -> np.uint64:
    return (accumulator ^ _round(np.uint64(0), lane_accumulator)) * PRIME_1 + PRIME_4


@kernel
def xxh64(data: NDArray[np.uint8], start: int, stop: int, seed: np.uint64) -> np.uint64:
    """XXH64 of ``data[start:stop]``; data is uint8 [N]."""
    length = stop - start
    at = start
    if length >= 32:
        # Step 1 and 2: four accumulators, one stripe of 32 bytes at a time. Step 3: convergence.
        one = seed + PRIME_1 + PRIME_2
        two = seed + PRIME_2
        three = seed
        four = seed - PRIME_1
        while at + 32 <= stop:
            one = _round(one, _read(data, at, 8))
            two = _round(two, _read(data, at + 8, 8))
            three = _round(three, _read(data, at + 16, 8))
            four = _round(four, _read(data, at + 24, 8))
            at += 32
        total = _rotate_left(one, np.uint64(1)) + _rotate_left(two, np.uint64(7))
        total += _rotate_left(three, np.uint64(12)) + _rotate_left(four, np.uint64(18))
        total = _merge(_merge(_merge(_merge(total, one), two), three), four)
    else:
        total = seed + PRIME_5
    # Step 4: the length. Step 5: the remaining bytes.
    total += np.uint64(length)
    while at + 8 <= stop:
        total ^= _round(np.uint64(0), _read(data, at, 8))
        total = _rotate_left(total, np.uint64(27)) * PRIME_1 + PRIME_4
        at += 8
    if at + 4 <= stop:
        total ^= _read(data, at, 4) * PRIME_1
        total = _rotate_left(total, np.uint64(23)) * PRIME_2 + PRIME_3
        at += 4
    while at < stop:
        total ^= np.uint64(data[at]) * PRIME_5
        total = _rotate_left(total, np.uint64(11)) * PRIME_1
        at += 1
    # Step 6: avalanche.
    total = (total ^ (total >> np.uint64(33))) * PRIME_2
    total = (total ^ (total >> np.uint64(29))) * PRIME_3
    return total ^ (total >> np.uint64(32))


@kernel
def never_zero(key: np.uint64) -> np.uint64:
    """The hash as a key: 0 means an absent slot, so a value whose hash is 0 gets ZERO_KEY."""
    return key if key != np.uint64(ABSENT_KEY) else np.uint64(ZERO_KEY)


@kernel
def _keys_of(
    data: NDArray[np.uint8], lengths: NDArray[np.int64], seeds: NDArray[np.uint64]
) -> NDArray[np.uint64]:
    """Keys uint64 [K] of the K consecutive strings in ``data``.

    data uint8 [N]; lengths int64 [K], their sum is N; seeds uint64 [K].
    """
    keys = np.empty(len(lengths), np.uint64)
    start = 0
    for index in range(len(lengths)):
        stop = start + lengths[index]
        keys[index] = never_zero(xxh64(data, start, stop, seeds[index]))
        start = stop
    return keys


def hash_text(text: str) -> int:
    """XXH64 with seed 0 of the text's UTF-8 bytes: a field's seed.

    >>> hex(hash_text(""))
    '0xef46db3751d8e999'
    """
    data = np.frombuffer(text.encode(), np.uint8)
    return int(xxh64(data, 0, len(data), np.uint64(0)))


def hash_keys(values: Sequence[bytes], seeds: Sequence[int]) -> list[int]:
    """The key of each value: its XXH64 under its seed, never 0.

    >>> hash_keys([b"a", b"a"], [1, 2])[0] == hash_keys([b"a"], [1])[0]
    True
    """
    lengths = np.array([len(value) for value in values], np.int64)
    data = np.frombuffer(b"".join(values), np.uint8)
    keys: list[int] = _keys_of(data, lengths, np.array(seeds, np.uint64)).tolist()
    return keys
