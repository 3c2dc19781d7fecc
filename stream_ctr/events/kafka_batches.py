"""Entries out of what a broker sent: record batches are read in compiled code, many at a time.

kafka-python makes some ten Python objects of each record. Here the batches of a fetch are laid out in a
table (:mod:`.kafka_scan`), and only the entries themselves are made. Connections, metadata, fetch sessions
and positions stay with kafka-python. What is unusual, formats before magic 2 and fetches in which
transactions were aborted, is left to its own reading too.
"""

from __future__ import annotations

from itertools import repeat
from typing import Final, NamedTuple

import numpy as np
from crc32c import crc32c
from numpy.typing import NDArray

from stream_ctr.events import kafka_scan as scan
from stream_ctr.events.kafka_client import codec, decode_varint, errors
from stream_ctr.events.log import Entry, Headers, TopicPartition

_CHECKED_FROM: Final = 21
"""Bytes of a batch before those that its checksum covers."""
_CODEC, _CONTROL = 0x07, 0x20
"""Attributes: how the records are packed; that they are a transaction's mark and nobody's records."""
_CODECS: Final = {
    1: ("gzip", codec.has_gzip, codec.gzip_decode),
    2: ("snappy", codec.has_snappy, codec.snappy_decode),
    3: ("lz4", codec.has_lz4, codec.lz4_decode),
    4: ("zstd", codec.has_zstd, codec.zstd_decode),
}
"""Name, whether its library is there, and how to unpack."""


class Read(NamedTuple):
    """What the batches of one fetch come to."""

    entries: list[Entry]
    next_offset: int | None
    """After the last batch, with marks of transactions and gaps; None where there is no whole batch."""
    leader_epoch: int
    """The last batch's; -1 where there is none."""
    failure: errors.KafkaError | None = None
    """Why the entries end before the batches do, if so."""


def read_batches(data: bytes, place: TopicPartition) -> Read | None:
    """The entries of all whole batches in ``data``; None where they are not all of magic 2."""
    octets = np.frombuffer(data, np.uint8)
    batches = np.empty((len(data) // scan.HEAD_BYTES, scan.BATCH_COLUMNS), np.int64)
    found, then = scan.find_batches(octets, batches)
    if then == scan.OTHER:
        return None
    batches, failure = batches[:found], None
    if then == scan.BROKEN:
        failure = _corrupt(place, "what follows the last record batch is none")
    good = _matching(data, batches)
    if good < found:
        failure = _damaged(place, batches[good], "does not match its checksum")
        batches = batches[:good]
    if not len(batches):
        return Read([], None, -1, failure)
    last = batches[-1]
    next_offset, epoch = int(last[scan.BASE] + last[scan.LAST]) + 1, int(last[scan.EPOCH])
    entries, unread = _entries(data, batches[batches[:, scan.ATTRIBUTES] & _CONTROL == 0], place)
    return Read(entries, next_offset, epoch, unread or failure)


def _corrupt(place: TopicPartition, what: str) -> errors.KafkaError:
    return errors.CorruptRecordError(f"{place.topic}[{place.partition}]: {what}")


def _damaged(place: TopicPartition, batch: NDArray[np.int64], what: str) -> errors.KafkaError:
    return _corrupt(place, f"the record batch at offset {batch[scan.BASE]} {what}")


def _matching(data: bytes, batches: NDArray[np.int64]) -> int:
    """Batches before the first whose checksum is another one."""
    view = memoryview(data)
    parts = batches[:, [scan.START, scan.STOP, scan.CHECKSUM]].tolist()
    for number, (start, stop, checksum) in enumerate(parts):
        if crc32c(view[start + _CHECKED_FROM : stop]) != checksum:
            return number
    return len(batches)


def _entries(
    data: bytes, batches: NDArray[np.int64], place: TopicPartition
) -> tuple[list[Entry], errors.KafkaError | None]:
    """The entries of batches, and why they are not all, if so; ``batches`` is written to."""
    data, batches, failure = _unpacked(data, batches, place)
    lengths, counts = batches[:, scan.STOP] - batches[:, scan.START], batches[:, scan.COUNT]
    # Before memory is taken for so many.
    impossible = np.flatnonzero((counts < 0) | (counts > lengths // scan.LEAST_RECORD_BYTES))
    if len(impossible):
        first = int(impossible[0])
        failure = _damaged(place, batches[first], f"cannot hold {counts[first]} records")
        batches = batches[:first]
    records = np.empty((int(batches[:, scan.COUNT].sum()), scan.RECORD_COLUMNS), np.int64)
    found, whole = scan.scan_records(np.frombuffer(data, np.uint8), batches, records)
    if whole < len(batches):
        failure = _damaged(place, batches[whole], "holds a record of another form")
    offsets, times, keys, key_ends, values, value_ends, heads = records[:found].T.tolist()
    entries = map(
        Entry,
        repeat(place.topic),
        repeat(place.partition),
        offsets,
        times,
        [data[at:end] if end >= 0 else None for at, end in zip(keys, key_ends, strict=True)],
        [data[at:end] if end >= 0 else None for at, end in zip(values, value_ends, strict=True)],
        (_headers(data, at) for at in heads) if any(heads) else repeat(()),
    )
    read: list[Entry] = []
    try:
        read.extend(entries)  # as far as it goes
    except UnicodeDecodeError:
        failure = _corrupt(place, f"a header's name at offset {offsets[len(read)]} is not in UTF-8")
    return read, failure


def _unpacked(
    data: bytes, batches: NDArray[np.int64], place: TopicPartition
) -> tuple[bytes, NDArray[np.int64], errors.KafkaError | None]:
    """Bytes, batches with the places of their records therein, and why these are not all, if so."""
    batches[:, scan.START] += scan.HEAD_BYTES
    packing = batches[:, scan.ATTRIBUTES] & _CODEC
    if not packing.any():
        return data, batches, None
    parts: list[bytes] = []
    end = 0
    for number, (start, stop, kind) in enumerate(
        zip(*batches[:, [scan.START, scan.STOP]].T.tolist(), packing.tolist(), strict=True)
    ):
        part = data[start:stop]
        if kind:
            try:
                part = _unpack(part, kind)
            except errors.UnsupportedCodecError as error:
                failure: errors.KafkaError = errors.UnsupportedCodecError(
                    f"{place.topic}[{place.partition}] {error.args[0]}"
                )
                return b"".join(parts), batches[:number], failure
            except Exception as error:  # each library has its own
                failure = _damaged(place, batches[number], f"cannot be unpacked: {error}")
                return b"".join(parts), batches[:number], failure
        batches[number, [scan.START, scan.STOP]] = end, end + len(part)
        end += len(part)
        parts.append(part)
    return b"".join(parts), batches, None


def _unpack(packed: bytes, kind: int) -> bytes:
    if kind not in _CODECS:
        raise errors.UnsupportedCodecError(f"holds records packed in a way that is not known: {kind}")
    name, is_there, unpack = _CODECS[kind]
    if not is_there():
        raise errors.UnsupportedCodecError(
            f"holds records packed by {name}, whose library is not installed; install stream-ctr[codecs]"
        )
    return bytes(unpack(packed))


def _headers(data: bytes, at: int) -> Headers:
    """The headers whose count is at ``at``; their places were checked by the scan."""
    if not at:
        return ()
    count, at = decode_varint(data, at)
    headers: list[tuple[str, bytes]] = []
    for _ in range(count):
        length, at = decode_varint(data, at)
        name, at = data[at : at + length].decode(), at + length
        length, at = decode_varint(data, at)
        end = at + max(length, 0)  # null is empty
        headers.append((name, data[at:end]))
        at = end
    return tuple(headers)
