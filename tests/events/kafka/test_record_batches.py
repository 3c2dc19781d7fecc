"""Compiled parsing of record batches, compared with kafka-python's parser on the same bytes."""

from __future__ import annotations

import struct
import tracemalloc
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import numpy as np
import pytest
from crc32c import crc32c

from stream_ctr.events.kafka import decompression, record_batches
from stream_ctr.events.kafka.client import codec, errors, fetcher, kafka
from stream_ctr.events.kafka.legacy_messages import LegacyMessages
from stream_ctr.events.kafka.record_batches import FetchedBatches, read_fetch
from stream_ctr.events.limits import DEFAULT_LIMITS, ENTRY_BYTES, ReadLimits
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
    """A batch as a broker stores it; ``records`` are offset minus ``base``, time, key, value, headers."""
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
    """The batch with a valid checksum."""
    struct.pack_into(">I", made, 17, crc32c(bytes(made[21:])))
    return bytes(made)


def mark(base: int, producer: int, *, commit: bool) -> bytes:
    """The control batch with which a broker ends a transaction."""
    key, value = struct.pack(">hh", 0, int(commit)), struct.pack(">hi", 0, 0)
    return batch(base, [(0, 7, key, value, ())], attributes=CONTROL, producer=producer, transactional=True)


class Aborted(NamedTuple):
    """An aborted transaction, as a fetch lists it."""

    producer_id: int
    first_offset: int


EVERYTHING = 2**62


def fetched(
    data: bytes, fetch_offset: int = 0, *aborted: Aborted, limits: ReadLimits = DEFAULT_LIMITS
) -> FetchedBatches | LegacyMessages:
    return read_fetch(data, PLACE, fetch_offset, limits, aborted)


def taken(
    read: FetchedBatches | LegacyMessages, at_once: int = EVERYTHING, most_bytes: int = EVERYTHING
) -> list[Entry]:
    """All entries up to a failure, taken in steps of limited size."""
    entries: list[Entry] = []
    while not read.done:
        more, size_bytes = read.take(at_once, most_bytes)
        assert len(more) <= at_once
        assert size_bytes == sum(size(entry) for entry in more) if isinstance(read, LegacyMessages) else True
        if not more:
            assert read.done or read.failure is not None
            break
        entries += more
    return entries


def size(entry: Entry) -> int:
    return len(entry.key or b"") + len(entry.value or b"") + ENTRY_BYTES


def oracle(data: bytes, fetch_offset: int = 0, *aborted: Aborted) -> tuple[list[Entry], int, int]:
    """Entries, next offset and leader epoch, as kafka-python reads them."""
    read = fetcher.Fetcher.PartitionRecords(
        fetch_offset,
        kafka.TopicPartition(*PLACE),
        fetcher.MemoryRecords(data),
        isolation_level=READ_COMMITTED,
        aborted_transactions=aborted,
    )
    entries: list[Entry] = []
    while read and (records := read.take()):
        entries += [
            Entry(*PLACE, r.offset, r.timestamp, r.key, r.value, tuple((n, v or b"") for n, v in r.headers))
            for r in records
        ]
    return entries, read.next_fetch_offset, read.leader_epoch


def both(data: bytes, fetch_offset: int = 0, *aborted: Aborted) -> list[Entry]:
    """The entries of both readers, which must be equal whatever the size of a take."""
    expected = oracle(data, fetch_offset, *aborted)
    for at_once, most_bytes in ((EVERYTHING, EVERYTHING), (3, EVERYTHING), (EVERYTHING, 1)):
        read = fetched(data, fetch_offset, *aborted)
        assert (taken(read, at_once, most_bytes), read.next_offset, read.leader_epoch) == expected
        assert read.done
        assert read.failure is None
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
    for cut in (1, 11, 60, len(made) - 1):  # the last batch is incomplete
        both(data[: len(data) - cut])
    for fetch_offset in (starts[3], starts[3] + 4, entries[-1].offset, base):
        both(data, fetch_offset)


@pytest.mark.parametrize("packing", [GZIP, SNAPPY, LZ4, ZSTD])
def test_compressed_batches(packing: int) -> None:
    if not HAVE[packing]():
        pytest.skip("the library of this packing is not installed")
    records = [(i, i, b"key", b"value " * 40, ()) for i in range(50)]
    data = batch(5, records[:20]) + batch(25, records, packing) + batch(75, records[:3], packing)
    assert len(both(data)) == 73


def failure_of(data: bytes) -> tuple[list[int], str]:
    """Offsets of the entries before the failure, and its message."""
    read = fetched(data)
    given = [entry.offset for entry in taken(read)]
    assert isinstance(read.failure, errors.CorruptRecordError | errors.UnsupportedCodecError)
    assert not read.done
    assert read.take(1, 1) == ([], 0)
    return given, str(read.failure.args[0])


def test_a_codec_without_its_library_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    good = batch(0, [(0, 1, b"k", b"v", ())])
    unknown = batch(5, [(0, 0, b"", b"", ())], attributes=6)
    assert failure_of(good + unknown) == (
        [0],
        "events[2] holds records with an unknown compression codec: 6",
    )
    monkeypatch.setitem(decompression._CODECS, LZ4, ("lz4", lambda: False, decompression._lz4))
    assert failure_of(batch(5, [(0, 0, b"", b"", ())], attributes=LZ4)) == (
        [],
        "events[2] holds records compressed by lz4, whose library is not installed; "
        "install stream-ctr[codecs]",
    )


def test_committed_and_aborted_transactions() -> None:
    taken_back = batch(0, [(0, 1, b"a", b"no", ())], producer=8, transactional=True)
    kept = batch(1, [(0, 1, b"b", b"yes", ())], producer=9, transactional=True)
    plain = batch(2, [(0, 1, b"c", b"yes", ())])
    ends = mark(3, 8, commit=False) + mark(4, 9, commit=True)
    data = taken_back + kept + plain + ends
    assert [entry.key for entry in both(data, 0, Aborted(8, 0))] == [b"b", b"c"]
    assert [entry.key for entry in both(kept + plain + mark(3, 9, commit=True), 1)] == [b"b", b"c"]
    assert both(ends, 3) == []


def test_formats_before_magic_2_are_read_as_before() -> None:
    from kafka.record.legacy_records import LegacyRecordBatchBuilder

    builder = LegacyRecordBatchBuilder(1, 0, 2**20)
    for offset in range(3):
        builder.append(offset, 12, b"key", b"value")
    assert [entry.offset for entry in both(bytes(builder.build()))] == [0, 1, 2]


def test_a_batch_emptied_by_compaction_is_skipped() -> None:
    data = batch(10, [], last=6) + batch(17, [(0, 1, None, None, ())])
    assert [entry.offset for entry in both(data, 10)] == [17]
    assert both(batch(10, [], last=6), 10) == []
    assert fetched(batch(10, [], last=6), 10).next_offset == 17
    nothing = fetched(b"", 10)
    assert (nothing.done, nothing.next_offset, nothing.leader_epoch) == (True, 10, -1)


def test_entries_before_a_damaged_batch_are_returned_before_the_error() -> None:
    good, other = batch(0, [(0, 1, b"k", b"v", ())]), bytearray(batch(7, [(0, 1, b"k", b"v", ())]))
    other[-1] ^= 1
    with pytest.raises(errors.CorruptRecordError):
        oracle(good + other)
    said = "events[2]: the record batch at offset 7 does not match its checksum"
    assert failure_of(good + other) == ([0], said)
    assert failure_of(bytes(other)) == ([], said)


def damaged(made: bytes, at: int, put: bytes) -> bytes:
    changed = bytearray(made)
    changed[at : at + len(put)] = put
    return sealed(changed)


def test_every_damage_under_a_valid_checksum_is_named() -> None:
    good, one = batch(0, [(0, 1, b"k", b"v", ())]), batch(4, [(0, 1, b"key", b"value", (("h", b"x"),))])
    many = struct.pack(">i", 2**31 - 1)
    where = "events[2]: the record batch at offset 4 "
    assert failure_of(good + damaged(one, 57, many)) == ([0], where + "cannot hold 2147483647 records")
    assert failure_of(good + damaged(one, 57, b"\xff\xff\xff\xff"))[1] == where + "cannot hold -1 records"
    assert failure_of(good + damaged(one, 57, bytes(4)))[1] == where + "holds a malformed record"
    name = one.index(b"\x02h\x02x") + 1
    assert failure_of(good + damaged(one, name, b"\xff")) == (
        [0],
        "events[2]: a header name at offset 4 is not UTF-8",
    )
    packed = batch(4, [(0, 1, b"key", bytes(999), ())], GZIP)
    assert failure_of(good + damaged(packed, 61, b"no"))[1].startswith(where + "cannot be decompressed: ")
    assert failure_of(good + struct.pack(">qi", 4, 3) + bytes(3)) == (
        [0],
        "events[2]: the data after the last record batch is invalid",
    )


@pytest.mark.parametrize("seed", range(3))
def test_changed_bytes_never_cause_reads_beyond_the_end_or_phantom_records(seed: int) -> None:
    """Each changed byte either is reported as damage or gives a record that kafka-python reads
    identically."""
    random = np.random.default_rng(seed)
    made = batch(4, [(i, 1, b"key", b"v" * i, (("h", b"x"), ("i", None))) for i in range(4)])
    failed = 0
    for at in range(61, len(made)):
        changed = damaged(made, at, random.bytes(1))
        read = fetched(changed, -(2**63))
        entries = taken(read)
        if read.failure is not None:
            failed += 1
        elif changed[at] < 128:  # from 128 on, kafka-python reads the attributes as a varint, not as a byte
            assert entries == oracle(changed, -(2**63))[0]
    assert failed > 20


def test_a_header_of_random_bytes_does_not_crash() -> None:
    random = np.random.default_rng(1)
    for _ in range(300):
        data = bytearray(random.bytes(int(random.integers(0, 200))))
        if len(data) > 60:
            data[8:12], data[16] = struct.pack(">i", len(data) - 12), 2
            data = bytearray(sealed(data))
        read = fetched(bytes(data))
        if isinstance(read, FetchedBatches):
            assert not taken(read) or read.failure is None


@pytest.mark.parametrize("seed", range(4))
def test_random_transactions_read_as_kafka_python_reads_them(seed: int) -> None:
    """Several interleaved transactions per producer, committed or aborted, with other records in between."""
    random = np.random.default_rng(seed)
    data, offset = b"", 0
    begun: dict[int, int] = {}
    aborted: list[Aborted] = []
    for _ in range(60):
        producer = int(random.integers(0, 4))
        if producer in begun and random.random() < 0.3:
            commit = random.random() < 0.5
            if not commit:
                aborted.append(Aborted(producer, begun[producer]))
            del begun[producer]
            data += mark(offset, producer, commit=commit)
            offset += 1
            continue
        transactional = producer > 0
        if transactional:
            begun.setdefault(producer, offset)
        records: list[Sent] = [(i, 1, b"%d" % producer, b"%d" % (offset + i), ()) for i in range(3)]
        packing = int(random.choice([NONE, GZIP, ZSTD]))
        data += batch(offset, records, packing, producer=producer or -1, transactional=transactional)
        offset += 3
    assert len(aborted) > 2
    assert both(data, 0, *aborted)
    both(data, offset // 2, *aborted)


@pytest.mark.parametrize("window", [1, 300, 5000])
def test_windows_of_any_size_give_the_same_entries(window: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record_batches, "_WINDOW_BYTES", window)
    random = np.random.default_rng(7)
    data, base = b"", 0
    for _ in range(12):
        made, base = random_batch(random, base, [NONE, GZIP, ZSTD])
        data += made
    both(data)
    both(data, base // 2)


PACKINGS = [GZIP, SNAPPY, LZ4, ZSTD]


@pytest.mark.parametrize("packing", PACKINGS)
def test_a_batch_above_the_decompression_limit_is_one_entry_and_reading_continues(packing: int) -> None:
    if not HAVE[packing]():
        pytest.skip("the library of this packing is not installed")
    small: list[Sent] = [(0, 5, b"k", b"v", ())]
    bomb = batch(1, [(i, 6, None, bytes(100_000), ()) for i in range(9)], packing)
    data = batch(0, small, packing) + bomb + batch(10, small, packing)
    limits = ReadLimits(batch=800_000)
    read = fetched(data, limits=limits)
    before, pointer, after = taken(read)
    assert (before.offset, after.offset, read.done, read.next_offset) == (0, 10, True, 11)
    assert (pointer.offset, pointer.timestamp_ms, pointer.key, pointer.value) == (9, 6, None, None)
    assert pointer.unread is not None
    assert pointer.unread.size_bytes == len(bomb)
    name = decompression.codec_name(packing)
    assert pointer.unread.reason == (
        f"the record batch of 9 records at offsets 1 to 9, compressed by {name} to {len(bomb) - 61} bytes, "
        "exceeds log.max_batch_bytes = 800000 after decompression; its records were not read"
    )
    # A start in the middle of the batch, as after a checkpoint, returns its entry again; a start after it
    # does not.
    assert [entry.offset for entry in taken(fetched(data, 5, limits=limits))] == [9, 10]
    assert [entry.offset for entry in taken(fetched(data, 10, limits=limits))] == [10]
    assert len(taken(fetched(data, limits=ReadLimits(batch=1_000_000)))) == 11


@pytest.mark.parametrize("packing", PACKINGS)
def test_decompression_stops_at_the_limit(packing: int) -> None:
    """A gigabyte in a small batch is not decompressed to learn its size."""
    if not HAVE[packing]():
        pytest.skip("the library of this packing is not installed")
    pack = {
        GZIP: codec.gzip_encode,
        SNAPPY: codec.snappy_encode,
        LZ4: codec.lz4_encode,
        ZSTD: codec.zstd_encode,
    }
    packed = pack[packing](bytes(60_000_000))
    tracemalloc.start()
    with pytest.raises(decompression.TooLargeError):
        decompression.unpack(packed, packing, 2_000_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8_000_000
    assert decompression.unpack(packed, packing, 60_000_000) == bytes(60_000_000)
    text = b"some text " * 1000
    assert decompression.unpack(pack[packing](text), packing, len(text)) == text


def test_a_record_above_the_limit_is_left_in_the_log() -> None:
    large: Sent = (1, 4, b"key", bytes(5000), (("h", b"x"),))
    data = batch(0, [(0, 1, b"a", b"b", ()), large, (2, 1, b"c", b"d", ())])
    first, pointer, last = taken(fetched(data, limits=ReadLimits(record=1000)))
    assert (first.value, last.value) == (b"b", b"d")
    assert pointer[:7] == (*PLACE, 1, 4, None, None, ())
    assert pointer.unread is not None
    assert 5000 < pointer.unread.size_bytes < 5050
    assert pointer.unread.reason.endswith("bytes, more than the limit of 1000; it was not read")
    assert both(data)[1].value == bytes(5000)


def test_the_size_of_one_take_is_bounded_in_bytes() -> None:
    records: list[Sent] = [(i, 1, None, bytes(10_000), ()) for i in range(50)]
    for packing in (NONE, ZSTD):
        read = fetched(batch(0, records, packing))
        sizes = []
        while not read.done:
            entries, size_bytes = read.take(1000, 35_000)
            assert size_bytes >= sum(size(entry) for entry in entries)
            sizes.append(len(entries))
        assert sizes == [4] * 12 + [2]


def test_messages_before_magic_2_are_bounded_too() -> None:
    from kafka.record.legacy_records import LegacyRecordBatchBuilder

    builder = LegacyRecordBatchBuilder(1, GZIP, 2**30)
    for offset in range(9):
        builder.append(offset, 12, b"key", bytes(100_000))
    made = bytearray(builder.build())
    struct.pack_into(">q", made, 0, 8)  # a broker stores the last offset of the compressed messages
    data = bytes(made)
    whole = both(data)
    assert [entry.offset for entry in whole] == list(range(9))
    (pointer,) = taken(fetched(data, limits=ReadLimits(batch=500_000)))
    assert (pointer.offset, pointer.value) == (8, None)
    assert pointer.unread is not None
    assert "compressed by gzip" in pointer.unread.reason
    kept = taken(fetched(data, limits=ReadLimits(record=1000)))
    assert all(entry.value is None and entry.unread is not None for entry in kept)
    assert len(kept) == 9
    follows = data + batch(9, [(0, 1, b"k", b"v", ())])
    first = fetched(follows)
    assert (len(taken(first)), first.next_offset) == (9, 9)
    broken = bytearray(data)
    broken[-1] ^= 1
    assert failure_of(bytes(broken)) == ([], "events[2]: the message at offset 8 does not match its checksum")
