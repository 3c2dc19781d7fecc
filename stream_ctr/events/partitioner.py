"""Assignment of records to partitions: Kafka's own rule, the same in every log.

Impressions and clicks share a partition because both are keyed by event id over equal partition counts, so
a key must map to the same partition whichever log or client wrote it.
"""

from __future__ import annotations

import struct

_SEED = 0x9747B28C
_MULTIPLIER = 0x5BD1E995
_MASK = 0xFFFFFFFF


def murmur2(data: bytes) -> int:
    """32-bit MurmurHash2 of ``data`` with Kafka's seed, unsigned.

    Source: ``org.apache.kafka.common.utils.Utils.murmur2``.

    >>> murmur2(b"foobar") - 2**32
    -790332482
    """
    length = len(data)
    words = length >> 2
    h = _SEED ^ length
    for k in struct.unpack_from(f"<{words}I", data):
        k = (k * _MULTIPLIER) & _MASK
        k ^= k >> 24
        h = ((h * _MULTIPLIER) & _MASK) ^ ((k * _MULTIPLIER) & _MASK)
    if length & 3:
        h = ((h ^ int.from_bytes(data[words << 2 :], "little")) * _MULTIPLIER) & _MASK
    h ^= h >> 13
    h = (h * _MULTIPLIER) & _MASK
    return h ^ (h >> 15)


def partition_of(key: bytes | None, partitions: int) -> int:
    """The partition of ``key`` among ``partitions``: murmur2 without its sign bit, modulo the count.

    A record without a key gets the partition of the empty key. Kafka's clients choose at random; here two
    replays must produce the same log.

    >>> partition_of(b"event-1", 3)
    2
    """
    return (murmur2(key or b"") & 0x7FFFFFFF) % partitions
