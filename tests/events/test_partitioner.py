"""Partitioning, compared with Kafka's own test vectors and the client library's implementation."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_ctr.events.kafka.client import kafka  # imports the library with its warnings silenced
from stream_ctr.events.partitioner import murmur2, partition_of


@pytest.mark.parametrize(
    ("data", "signed"),
    [
        # org.apache.kafka.common.utils.UtilsTest.testMurmur2
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_kafkas_own_vectors(data: bytes, signed: int) -> None:
    assert murmur2(data) == signed % 2**32


@settings(deadline=None)
@given(st.binary(max_size=100))
def test_same_hash_as_the_client_library(data: bytes) -> None:
    assert murmur2(data) == kafka.partitioner.murmur2(data)


@settings(deadline=None)
@given(st.binary(max_size=50), st.integers(1, 100))
def test_same_partition_as_the_client_library(key: bytes, partitions: int) -> None:
    assert partition_of(key, partitions) == (kafka.partitioner.murmur2(key) & 0x7FFFFFFF) % partitions


def test_a_record_without_a_key_always_goes_to_the_same_partition() -> None:
    assert {partition_of(None, 7) for _ in range(10)} == {partition_of(b"", 7)}
