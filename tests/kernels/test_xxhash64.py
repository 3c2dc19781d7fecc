"""XXH64, compared with the reference implementation, and the one value that is never a key."""

from __future__ import annotations

import numpy as np
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_ctr.features.keys.canonical import event_keys
from stream_ctr.kernels.xxhash64 import PRIME_1, PRIME_5, ZERO_KEY, hash_keys, hash_text, xxh64

SEEDS = st.integers(0, 2**64 - 1)


@settings(deadline=None)
@given(st.binary(max_size=200), SEEDS)
def test_any_bytes_and_seed_hash_like_the_reference(data: bytes, seed: int) -> None:
    buffer = np.frombuffer(b"...." + data + b"..", np.uint8)
    assert int(xxh64(buffer, 4, 4 + len(data), np.uint64(seed))) == xxhash.xxh64_intdigest(data, seed)


def test_every_length_around_the_stripe_and_lane_sizes() -> None:
    data = bytes(range(256)) * 2
    for length in range(300):
        expected = xxhash.xxh64_intdigest(data[:length], 7)
        assert hash_keys([data[:length]], [7]) == [expected], length


@settings(deadline=None)
@given(st.lists(st.tuples(st.binary(max_size=40), SEEDS), max_size=20))
def test_many_values_in_one_call(values: list[tuple[bytes, int]]) -> None:
    expected = [xxhash.xxh64_intdigest(data, seed) for data, seed in values]
    assert hash_keys([data for data, _ in values], [seed for _, seed in values]) == expected


def test_text_is_hashed_as_utf8_with_seed_zero() -> None:
    assert hash_text("größe") == xxhash.xxh64_intdigest("größe".encode())


def test_a_value_whose_hash_is_zero_is_not_taken_for_an_absent_slot() -> None:
    # One byte b goes in as (seed + P5 + 1) ^ (b P5); the steps after that keep 0 at 0.
    seed = -(int(PRIME_5) + 1) % 2**64
    assert xxhash.xxh64_intdigest(b"\x00", seed) == 0
    assert hash_keys([b"\x00"], [seed]) == [ZERO_KEY]

    # The same for the canonical bytes of the text "x", from the second byte backwards.
    whole, five = 2**64, int(PRIME_5)
    before = ord("x") * five * pow(int(PRIME_1), -1, whole) % whole
    seed = (((before >> 11 | before << 53) % whole ^ five) - five - 2) % whole
    assert xxhash.xxh64_intdigest(b"\x01x", seed) == 0
    columns = np.array([[0, seed, 5]], np.uint64)
    none = np.zeros((0, 3), np.uint64)
    data, lengths = np.frombuffer(b"\x01x", np.uint8), np.ones(1, np.int64)
    keys = event_keys(data, lengths, columns, np.zeros(0, np.int64), none, 1, 1)
    assert keys.tolist() == [[ZERO_KEY]]
