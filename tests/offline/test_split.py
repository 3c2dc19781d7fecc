"""The split is a partition, equal on every machine; random or by time."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_ctr.errors import DataError, UsageError
from stream_ctr.offline.protocol import BatchProtocol, batch_size_for, check_protocol, parse_shares
from stream_ctr.offline.split import TEST, TRAINING, VALIDATION, mixed, shuffled, split_rows
from tests.support.splitmix64 import splitmix64


@given(st.integers(0, 2**63 - 1), st.integers(0, 2**40), st.integers(0, 1000))
def test_the_hash_is_splitmix64(seed: int, number: int, salt: int) -> None:
    expected = splitmix64(number ^ splitmix64(splitmix64(seed) ^ salt))
    assert int(mixed(seed, np.array([number], np.uint64), salt)[0]) == expected


def test_a_random_split_is_a_partition_of_about_its_shares() -> None:
    part = split_rows(BatchProtocol(), np.zeros(20_000, np.int64))
    counts = np.bincount(part)
    assert counts.sum() == 20_000
    assert np.abs(counts / 20_000 - [0.8, 0.1, 0.1]).max() < 0.01


def test_a_random_split_depends_on_seed_and_row_alone() -> None:
    part = split_rows(BatchProtocol(), np.zeros(3000, np.int64))
    more = split_rows(BatchProtocol(split_seed=1), np.arange(5000)[::-1].copy())
    assert np.array_equal(part, more[:3000])
    assert not np.array_equal(part, split_rows(BatchProtocol(split_seed=2), np.zeros(3000, np.int64)))
    # Golden values: a later rerun must test on the same rows.
    golden = [splitmix64(row ^ splitmix64(splitmix64(1))) % 10 for row in range(3000)]
    assert part.tolist() == [TRAINING if g < 8 else VALIDATION if g == 8 else TEST for g in golden]


def test_a_split_by_time_is_exact_and_keeps_ties_in_file_order() -> None:
    generator = random.Random(3)
    time_ms = [generator.randrange(40) for _ in range(1000)]
    part = split_rows(BatchProtocol(split="time"), np.array(time_ms))
    order = sorted(range(1000), key=lambda row: (time_ms[row], row))
    expected = dict.fromkeys(order[:800], TRAINING)
    expected.update(dict.fromkeys(order[800:900], VALIDATION))
    expected.update(dict.fromkeys(order[900:], TEST))
    assert part.tolist() == [expected[row] for row in range(1000)]


def test_without_a_test_share_nothing_is_tested() -> None:
    for kind in ("random", "time"):
        protocol = BatchProtocol(split="time" if kind == "time" else "random", shares=(9, 1, 0))
        assert set(split_rows(protocol, np.arange(500)).tolist()) == {TRAINING, VALIDATION}


def test_too_few_rows_are_rejected() -> None:
    with pytest.raises(DataError, match=r"2 rows are too few to split 8:1:1: no row is left for \w+"):
        split_rows(BatchProtocol(split="time"), np.arange(2))


def test_every_epoch_has_a_different_permutation() -> None:
    rows = np.flatnonzero(split_rows(BatchProtocol(), np.zeros(400, np.int64)) == TRAINING)
    first, second = shuffled(rows, 1, 1), shuffled(rows, 1, 2)
    assert sorted(first.tolist()) == sorted(second.tolist()) == rows.tolist()
    assert not np.array_equal(first, second)
    assert np.array_equal(first, shuffled(rows, 1, 1))
    assert not np.array_equal(first, shuffled(rows, 2, 1))


def test_the_default_batch_size_is_the_papers_for_large_data() -> None:
    assert batch_size_for(BatchProtocol(), 36_672_493) == 10_000
    assert batch_size_for(BatchProtocol(), 64_000) == 320
    assert batch_size_for(BatchProtocol(batch_size=77), 64_000) == 77


@pytest.mark.parametrize(
    ("protocol", "message"),
    [
        (BatchProtocol(epochs=0), "--epochs 0: must be from 1"),
        (BatchProtocol(patience=0), "--patience 0"),
        (BatchProtocol(shares=(8, 0, 1)), "--shares 8:0:1"),
        (BatchProtocol(rate_factor=0.0), "--rate-factor 0"),
        (BatchProtocol(rate_factor=float("nan")), "--rate-factor nan"),
        (BatchProtocol(split_seed=-1), "--split-seed -1"),
    ],
)
def test_an_invalid_protocol_is_rejected(protocol: BatchProtocol, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        check_protocol(protocol)


@pytest.mark.parametrize("text", ["8:1", "8:1:1:1", "a:1:1", "8:-1:1", "8:1:99999", "", "8:1:²"])
def test_malformed_shares_are_rejected(text: str) -> None:
    with pytest.raises(UsageError, match="TRAINING:VALIDATION:TEST"):
        parse_shares(text)
