"""The key table: compared with a dict, with colliding keys, and read from a file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_ctr.batch import ABSENT, PREDICT
from stream_ctr.config.features import FeaturesConfig
from stream_ctr.features.rows.tables import FeatureTables
from stream_ctr.features.rows.vocabulary import (
    NOT_FOUND,
    SMALLEST_CAPACITY,
    capacity_for,
    find,
    insert,
    insert_all,
    keys_between,
    lookup_rows,
    rehash,
    room,
)

# Few places, so that searches are long and wrap around the table's end.
KEYS = st.lists(
    st.one_of(
        st.integers(1, 2**64 - 1),
        st.integers(0, 400).map(lambda i: (i << 32) | (SMALLEST_CAPACITY - 1)),
    ),
    max_size=300,
)


@settings(deadline=None)
@given(KEYS, st.booleans())
def test_the_table_is_a_dict(keys: list[int], grown: bool) -> None:
    table_keys, table_rows = np.zeros(1024, np.uint64), np.zeros(1024, np.int32)
    model: dict[int, int] = {}
    for row, key in enumerate(keys):
        assert insert(table_keys, table_rows, np.uint64(key), row) == (key not in model)
        model.setdefault(key, row)
    if grown:
        new_keys, new_rows = np.zeros(4096, np.uint64), np.zeros(4096, np.int32)
        rehash(table_keys, table_rows, new_keys, new_rows)
        table_keys, table_rows = new_keys, new_rows
    for key in [*keys, 5, 2**64 - 1, SMALLEST_CAPACITY - 1]:
        assert find(table_keys, table_rows, np.uint64(key)) == model.get(key, NOT_FOUND)
    assert np.count_nonzero(table_keys) == len(model)


def test_keys_and_rows_are_inverse_and_repeats_are_found() -> None:
    keys = np.arange(1, 501, dtype=np.uint64) << np.uint64(10)
    table_keys, table_rows = np.zeros(1024, np.uint64), np.zeros(1024, np.int32)
    assert insert_all(table_keys, table_rows, keys, 7) == 500
    back = np.zeros(500, np.uint64)
    keys_between(table_keys, table_rows, back, 7)
    assert back.tolist() == keys.tolist()
    empty = np.zeros(1024, np.uint64)
    assert insert_all(empty, table_rows, np.array([3, 4, 3], np.uint64), 0) == 2
    empty[:] = 0
    assert insert_all(empty, table_rows, np.array([3, 0, 4], np.uint64), 0) == 1


def test_a_table_is_at_most_three_quarters_full() -> None:
    for keys in (0, 1, 768, 769, 10**6, 10**8):
        capacity = capacity_for(keys)
        assert capacity & (capacity - 1) == 0
        assert keys <= room(capacity)
        assert capacity == SMALLEST_CAPACITY or keys > room(capacity // 2)


def test_a_server_reads_the_table_from_a_file_it_cannot_write(tmp_path: Path) -> None:
    slot_field = np.array([0, 1, 1], np.int32)
    tables = FeatureTables(slot_field, 2, FeaturesConfig())
    rng = np.random.default_rng(1)
    keys = rng.integers(1, 2**63, (2000, 3)).astype(np.uint64)
    tables.encode(keys, np.full(2000, PREDICT, np.uint8), np.zeros(2000, np.int64))
    for name, array in zip(("keys", "rows"), tables.lookup_arrays(), strict=True):
        np.save(tmp_path / name, array)
    table_keys = np.load(tmp_path / "keys.npy", mmap_mode="r")
    table_rows = np.load(tmp_path / "rows.npy", mmap_mode="r")
    assert table_rows.dtype == np.int64

    asked = keys[:500].copy()
    asked.flags.writeable = False
    assert lookup_rows(asked, table_keys, table_rows, slot_field).tolist() == tables.lookup(asked).tolist()
    unknown = np.array([[9, 8, 7], [0, 0, 0]], np.uint64)
    # Two unknown values of field 1 share the default row, which occurs once.
    assert lookup_rows(unknown, table_keys, table_rows, slot_field).tolist() == [
        [0, 1, ABSENT],
        [ABSENT, ABSENT, ABSENT],
    ]
