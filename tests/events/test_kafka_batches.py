"""Compiled reading of record batches beside kafka-python's own, on the same bytes."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import numpy as np
import pytest
from crc32c import crc32c

from stream_ctr.events import kafka_batches
from stream_ctr.events.kafka_batches import read_batches
from stream_ctr.events.kafka_client import codec, errors, fetcher, kafka
from stream_ctr.events.kafka_fetch import FetchedEntries, entry_of
from stream_ctr.events.log import Entry, TopicPartition

PLACE = TopicPartition("events", 2)
NONE, GZIP, SNAPPY, LZ4, ZSTD = range(5)
HAVE: Final[dict[int, Callable[[], bool]]] = {
    NONE: lambda: True,
    GZIP: codec.has_gzip,
    SNAPPY: codec.has_snappy,
    LZ4: codec.has_lz4,
    ZSTD: codec.has_zstd,
}
Sent = tuple[int, int, bytes | None, bytes | None, tuple[tuple[str, bytes | None], ...]]
READ_COMMITTED = 1
APPEND_TIME, CONTROL = 0x08, 0x20


def batch(
    base: int,
    records: Sequence[Sent],
    packing: int = NONE,
    *,
    attributes: int = 0,
    last: int | None = None,
    epoch: int = 3,
    producer: int = -1,
    transactional: bool = False,
) -> bytes:
    """A batch as a broker keeps it; ``records`` are offset less ``base``, time, key, value, headers."""
    from kafka.record.default_records import DefaultRecordBatchBuilder  # after kafka_client: it warns

    sequence = 0 if producer >= 0 else -1
    builder = DefaultRecordBatchBuilder(
        2, packing, transactional, producer, sequence, sequence, batch_size=2**30
    )
    for record in records:
        builder.append(*record)
    made = bytearray(builder.build())
    struct.pack_into(">q", made, 0, base)
    struct.pack_into(">i", made, 12, epoch)
    struct.pack_into(">h", made, 21, struct.unpack_from(">h", made, 21)[0] | attributes)
    if last is not None:
        struct.pack_into(">i", made, 23, last)
    return sealed(made)


def sealed(made: bytearray) -> bytes:
    """With its checksum."""
    struct.pack_into(">I", made, 17, crc32c(bytes(made[21:])))
    return bytes(made)


def mark(base: int, producer: int, *, commit: bool) -> bytes:
    """The batch by which a broker ends a transaction."""
    key, value = struct.pack(">hh", 0, int(commit)), struct.pack(">hi", 0, 0)
    return batch(base, [(0, 7, key, value, ())], attributes=CONTROL, producer=producer, transactional=True)


class Aborted(NamedTuple):
    """A transaction that was taken back, as a fetch names it."""

    producer_id: int
    first_offset: int


def part(
    kind: type[fetcher.Fetcher.PartitionRecords], data: bytes, fetch_offset: int = 0, *aborted: Aborted
) -> fetcher.Fetcher.PartitionRecords:
    return kind(
        fetch_offset,
        kafka.TopicPartition(*PLACE),
        fetcher.MemoryRecords(data),
        isolation_level=READ_COMMITTED,
        aborted_transactions=aborted,
    )


def outcome(
    kind: type[fetcher.Fetcher.PartitionRecords],
    data: bytes,
    fetch_offset: int = 0,
    *aborted: Aborted,
    at_once: int | None = None,
) -> tuple[list[Entry], int, int, bool]:
    """Entries, where to fetch next, the leader's epoch, and whether there is more."""
    read = part(kind, data, fetch_offset, *aborted)
    entries: list[Entry] = []
    while read and (taken := [entry_of(record) for record in read.take(at_once)]):
        entries += taken
    return entries, read.next_fetch_offset, read.leader_epoch, bool(read)


def both(data: bytes, fetch_offset: int = 0, *aborted: Aborted) -> list[Entry]:
    """What both readers make of the bytes, which is the same."""
    own = fetcher.Fetcher.PartitionRecords
    expected = outcome(own, data, fetch_offset, *aborted)
    assert outcome(FetchedEntries, data, fetch_offset, *aborted) == expected
    assert outcome(FetchedEntries, data, fetch_offset, *aborted, at_once=3) == expected
    return expected[0]


def random_bytes(random: np.random.Generator, most: int) -> bytes | None:
    size = int(random.integers(-1, most))
    return None if size < 0 else random.bytes(size)


def random_batch(random: np.random.Generator, base: int, packings: list[int]) -> tuple[bytes, int]:
    """A batch and the offset after it."""
    records: list[Sent] = []
    offset = int(random.integers(0, 3))
    for _ in range(int(random.integers(0, 30))):
        headers = tuple(
            (f"näme-{int(random.integers(9))}", random_bytes(random, 300))
            for _ in range(int(random.integers(0, 3)) * int(random.integers(0, 2)))
        )
        time_ms = int(random.integers(-(2**62), 2**62) >> int(random.integers(0, 60)))
        records.append((offset, time_ms, random_bytes(random, 100), random_bytes(random, 5000), headers))
        offset += int(random.integers(1, 3) ** random.integers(0, 9))
    made = batch(
        base,
        records,
        packings[int(random.integers(len(packings)))],
        attributes=APPEND_TIME * int(random.integers(0, 2)),
        last=offset,
        epoch=int(random.integers(0, 9)),
        producer=int(random.integers(-1, 2)),
        transactional=False,
    )
    return made, base + offset + 1


@pytest.mark.parametrize("seed", range(6))
def test_random_batches_read_as_kafka_python_reads_them(seed: int) -> None:
    random = np.random.default_rng(seed)
    packings = [NONE, NONE, *([GZIP] if seed % 2 else [])]
    data, base, starts = b"", int(random.integers(0, 2**40)), []
    for _ in range(8):
        starts.append(base)
        made, base = random_batch(random, base, packings)
        data += made
        if random.integers(0, 4) == 0:
            data += mark(base, 5, commit=True)
            base += 1
    entries = both(data)
    assert entries
    for cut in (1, 11, 60, len(made) - 1):  # the last batch is not whole
        both(data[: len(data) - cut])
    for fetch_offset in (starts[3], starts[3] + 4, entries[-1].offset, base):
        both(data, fetch_offset)


@pytest.mark.parametrize("packing", [GZIP, SNAPPY, LZ4, ZSTD])
def test_packed_batches(packing: int) -> None:
    if not HAVE[packing]():
        pytest.skip("the library of this packing is not installed")
    records = [(i, i, b"key", b"value " * 40, ()) for i in range(50)]
    data = batch(5, records[:20]) + batch(25, records, packing) + batch(75, records[:3], packing)
    assert len(both(data)) == 73


def test_a_packing_without_its_library_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    unknown = batch(5, [(0, 0, b"", b"", ())], attributes=6)
    read = read_batches(batch(0, [(0, 1, b"k", b"v", ())]) + unknown, PLACE)
    assert read is not None
    assert len(read.entries) == 1
    assert read.failure is not None
    assert read.failure.args == ("events[2] holds records packed in a way that is not known: 6",)
    monkeypatch.setitem(kafka_batches._CODECS, LZ4, ("lz4", lambda: False, bytes))
    read = read_batches(batch(5, [(0, 0, b"", b"", ())], attributes=LZ4), PLACE)
    assert read is not None
    assert isinstance(read.failure, errors.UnsupportedCodecError)
    assert read.failure.args == (
        "events[2] holds records packed by lz4, whose library is not installed; install stream-ctr[codecs]",
    )


def test_transactions_that_hold_and_that_were_taken_back() -> None:
    taken_back = batch(0, [(0, 1, b"a", b"no", ())], producer=8, transactional=True)
    kept = batch(1, [(0, 1, b"b", b"yes", ())], producer=9, transactional=True)
    plain = batch(2, [(0, 1, b"c", b"yes", ())])
    ends = mark(3, 8, commit=False) + mark(4, 9, commit=True)
    data = taken_back + kept + plain + ends
    assert [entry.key for entry in both(data, 0, Aborted(8, 0))] == [b"b", b"c"]
    assert [entry.key for entry in both(kept + plain + mark(3, 9, commit=True), 1)] == [b"b", b"c"]
    assert both(ends, 3) == []
    assert part(FetchedEntries, ends, 3).take() == []


def test_formats_before_magic_2_are_read_as_before() -> None:
    from kafka.record.legacy_records import LegacyRecordBatchBuilder

    builder = LegacyRecordBatchBuilder(1, 0, 2**20)
    for offset in range(3):
        builder.append(offset, 12, b"key", b"value")
    assert [entry.offset for entry in both(bytes(builder.build()))] == [0, 1, 2]


def test_a_batch_emptied_by_compaction_is_passed() -> None:
    data = batch(10, [], last=6) + batch(17, [(0, 1, None, None, ())])
    assert [entry.offset for entry in both(data, 10)] == [17]
    assert part(FetchedEntries, batch(10, [], last=6), 10).take() == []
    assert outcome(FetchedEntries, batch(10, [], last=6), 10)[1] == 17
    assert outcome(FetchedEntries, b"", 10)[1:] == (10, -1, False)


def failure_of(data: bytes) -> tuple[list[int], str]:
    """Offsets that are given before the failure, and what it says."""
    read = part(FetchedEntries, data)
    given = [entry.offset for entry in read.take()]
    if not given:
        read = part(FetchedEntries, data)
    with pytest.raises(errors.CorruptRecordError) as raised:
        read.take()
    assert not read  # asked again, the fetcher fetches again
    return given, str(raised.value.args[0])


def test_what_comes_before_a_damaged_batch_is_given_and_then_it_is_named() -> None:
    good, other = batch(0, [(0, 1, b"k", b"v", ())]), bytearray(batch(7, [(0, 1, b"k", b"v", ())]))
    other[-1] ^= 1
    with pytest.raises(errors.CorruptRecordError):
        outcome(fetcher.Fetcher.PartitionRecords, good + other)
    said = "events[2]: the record batch at offset 7 does not match its checksum"
    assert failure_of(good + other) == ([0], said)
    read = part(FetchedEntries, bytes(other), 7)
    with pytest.raises(errors.CorruptRecordError, match="offset 7 does not match its checksum"):
        read.take()
    assert read.next_fetch_offset == 7


def damaged(made: bytes, at: int, put: bytes) -> bytes:
    changed = bytearray(made)
    changed[at : at + len(put)] = put
    return sealed(changed)


def test_every_damage_under_a_right_checksum_is_named() -> None:
    good, one = batch(0, [(0, 1, b"k", b"v", ())]), batch(4, [(0, 1, b"key", b"value", (("h", b"x"),))])
    many = struct.pack(">i", 2**31 - 1)
    where = "events[2]: the record batch at offset 4 "
    assert failure_of(good + damaged(one, 57, many)) == ([0], where + "cannot hold 2147483647 records")
    assert failure_of(good + damaged(one, 57, b"\xff\xff\xff\xff"))[1] == where + "cannot hold -1 records"
    assert failure_of(good + damaged(one, 57, bytes(4)))[1] == where + "holds a record of another form"
    name = one.index(b"\x02h\x02x") + 1
    assert failure_of(good + damaged(one, name, b"\xff")) == (
        [0],
        "events[2]: a header's name at offset 4 is not in UTF-8",
    )
    packed = batch(4, [(0, 1, b"key", bytes(999), ())], GZIP)
    assert failure_of(good + damaged(packed, 61, b"no"))[1].startswith(where + "cannot be unpacked: ")
    assert failure_of(good + struct.pack(">qi", 4, 3) + bytes(3)) == (
        [0],
        "events[2]: what follows the last record batch is none",
    )


@pytest.mark.parametrize("seed", range(3))
def test_no_bytes_are_read_beyond_their_end_or_taken_for_records_that_are_not_there(seed: int) -> None:
    """Any byte of the records changed: a damage, or another record that kafka-python reads alike."""
    random = np.random.default_rng(seed)
    made = batch(4, [(i, 1, b"key", b"v" * i, (("h", b"x"), ("i", None))) for i in range(4)])
    failed = 0
    for at in range(61, len(made)):
        changed = damaged(made, at, random.bytes(1))
        read = read_batches(changed, PLACE)
        assert read is not None
        if read.failure is not None:
            failed += 1
        elif changed[at] < 128:  # beyond that the attributes of a record differ: a byte, there a varint
            assert read.entries == outcome(fetcher.Fetcher.PartitionRecords, changed, -(2**63))[0]
    assert failed > 20


def test_a_head_of_any_bytes_is_no_reason_to_crash() -> None:
    random = np.random.default_rng(1)
    for _ in range(300):
        data = bytearray(random.bytes(int(random.integers(0, 200))))
        if len(data) > 60:
            data[8:12], data[16] = struct.pack(">i", len(data) - 12), 2
            data = bytearray(sealed(data))
        read = read_batches(bytes(data), PLACE)
        assert read is None or not read.entries or read.failure is None
