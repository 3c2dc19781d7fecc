"""Remembered records on disk: immutable, memory-mapped files.

A segment holds N consecutive records. Its file is little-endian: N and the size of all ids in bytes, then the
columns, each of N 8-byte numbers: id hashes in ascending order, the record of each hash, running number, own
time, place time, status, end of the id's bytes, end of the payload's bytes; then all ids in UTF-8 and all
payloads. Its name contains its digest, so equal names mean equal contents.
"""

from __future__ import annotations

import errno
import hashlib
import mmap
import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stream_ctr.errors import StateError
from stream_ctr.state.durable_files import Files

COLUMNS: Final = 8
HASH, OF_HASH, NUMBER, TS_MS, TIME_MS, STATUS, ID_END, PAYLOAD_END = range(COLUMNS)
NAME: Final = re.compile("[0-9]{10}-[0-9a-f]{32}")


class Held:
    """One remembered impression or click; ``position`` counts the records remembered before it."""

    __slots__ = ("event_id", "number", "payload", "position", "status", "time_ms", "ts_ms")

    def __init__(
        self, event_id: str, number: int, ts_ms: int, time_ms: int, payload: bytes | None, status: int
    ) -> None:
        self.event_id = event_id
        self.number = number
        self.ts_ms = ts_ms
        self.time_ms = time_ms
        self.payload = payload
        self.status = status
        self.position = -1


class SegmentName(NamedTuple):
    """Name, size and digest of a segment in a checkpoint."""

    name: str
    bytes: int
    blake2b: str


class Segment:
    """A memory-mapped file of records. A filter of the ids takes 2 to 4 bytes of memory per record."""

    def __init__(self, path: Path, named: SegmentName, start: int) -> None:
        """``start`` is the position of its first record.

        Raises:
            StateError: the file is missing or truncated.
        """
        self.named = named
        self.start = start
        try:
            with path.open("rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise StateError(
                f"{path}: cannot be read ({error}); restore it, or start with a new state folder"
            ) from None
        records, id_bytes = np.frombuffer(self._map, "<i8", 2).tolist()
        self._ids_at = 16 + 8 * COLUMNS * records
        self._payloads_at = self._ids_at + id_bytes
        if len(self._map) != named.bytes or records < 1 or self._payloads_at > named.bytes:
            raise StateError(
                f"{path}: expected {named.bytes} bytes as in the checkpoint, got {len(self._map)}"
            )
        self._columns = np.frombuffer(self._map, "<i8", COLUMNS * records, 16).reshape(COLUMNS, records)
        self._hashes = self._columns[HASH].view("<u8")
        # Nearly every id is new; the filter shows that for most segments without a search.
        bits = 8 << int(2 * records - 1).bit_length()
        present = np.zeros(bits, np.bool_)
        present[self._hashes & np.uint64(bits - 1)] = True
        self._filter, self._mask = np.packbits(present, bitorder="little").tobytes(), bits - 1

    def __len__(self) -> int:
        return self._columns.shape[1]

    def places(self, event_id: str, hashed: int) -> list[int]:
        """Places of the records with this id whose hash is ``hashed``, oldest first."""
        bit = hashed & self._mask
        if not self._filter[bit >> 3] & (1 << (bit & 7)):
            return []
        low = int(self._hashes.searchsorted(np.uint64(hashed), "left"))
        found = []
        while low < len(self) and int(self._hashes[low]) == hashed:
            place = int(self._columns[OF_HASH, low])
            if self._id(place) == event_id:
                found.append(place)
            low += 1
        return sorted(found)

    def held(self, place: int) -> Held:
        """A copy of one record as it was written."""
        number, ts_ms, time_ms, status, _, end = self._columns[NUMBER:, place].tolist()
        begin = int(self._columns[PAYLOAD_END, place - 1]) if place else 0
        payload = self._map[self._payloads_at + begin : self._payloads_at + end] if end > begin else None
        held = Held(self._id(place), number, ts_ms, time_ms, payload, status)
        held.position = self.start + place
        return held

    def time_ms(self, place: int) -> int:
        """Place time of a record in the order."""
        return int(self._columns[TIME_MS, place])

    def status(self, place: int) -> int:
        """Status of a record as it was written."""
        return int(self._columns[STATUS, place])

    def _id(self, place: int) -> str:
        begin = int(self._columns[ID_END, place - 1]) if place else 0
        end = int(self._columns[ID_END, place])
        return self._map[self._ids_at + begin : self._ids_at + end].decode()


class SegmentFolder:
    """The folder of the segments. Each is durable before a checkpoint names it."""

    def __init__(self, folder: Path, files: Files | None = None) -> None:
        self.folder = folder
        self._files = files or Files()

    def write(self, number: int, start: int, records: Sequence[Held]) -> Segment:
        """Write segment ``number``: the records from position ``start`` on.

        Raises:
            StateError: the disk is full, or the file system refuses.
        """
        content = _content(records)
        digest = hashlib.blake2b(content, digest_size=16).hexdigest()
        named = SegmentName(f"{number:010d}-{digest}", len(content), digest)
        path = self.folder / named.name
        try:
            if not self.folder.is_dir():
                self._files.make_folder(self.folder)
                self._files.sync_folder(self.folder.parent)
            self._files.write(path, content)
            self._files.sync_file(path)
            self._files.sync_folder(self.folder)
        except OSError as error:
            hint = "free disk space" if error.errno == errno.ENOSPC else "check the folder"
            raise StateError(
                f"{path}: the joiner's memory budget is used up and this file cannot be written "
                f"({error.strerror}); {hint} or raise join.memory_bytes, then restart: nothing is lost"
            ) from None
        return Segment(path, named, start)

    def open(self, named: SegmentName, start: int) -> Segment:
        """Open a segment that a checkpoint names.

        Raises:
            StateError: it is missing or truncated.
        """
        return Segment(self.folder / named.name, named, start)


def hash_of(event_id: str) -> int:
    """64-bit hash by which an event id is looked up."""
    return int.from_bytes(hashlib.blake2b(event_id.encode(), digest_size=8).digest(), "little")


def damage_of(folder: Path, named: SegmentName) -> str:
    """Describes the damage to a segment's file; empty if there is none."""
    path, digest = folder / named.name, hashlib.blake2b(digest_size=16)
    try:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as error:
        return f"{path}: {error.strerror}"
    return "" if digest.hexdigest() == named.blake2b else f"{path}: damaged, its digest is not the manifest's"


def names_in(folder: Path) -> list[str]:
    """Names of all segments in a folder, in ascending order."""
    found = (path.name for path in folder.iterdir()) if folder.is_dir() else ()
    return sorted(name for name in found if NAME.fullmatch(name))


def remove_others(folder: Path, found: Collection[str], named: Collection[str], files: Files) -> None:
    """Delete the segments in ``found`` that are not in ``named``."""
    for name in found:
        if name not in named and (folder / name).exists():
            files.remove_file(folder / name)


def _content(records: Sequence[Held]) -> bytes:
    count = len(records)
    ids = [held.event_id.encode() for held in records]
    payloads = [held.payload or b"" for held in records]
    hashes = np.array([hash_of(held.event_id) for held in records], np.uint64)
    order = np.argsort(hashes, kind="stable")
    columns: NDArray[np.int64] = np.zeros((COLUMNS, count), "<i8")
    columns[HASH] = hashes[order].view(np.int64)
    columns[OF_HASH] = order
    for place, name in ((NUMBER, "number"), (TS_MS, "ts_ms"), (TIME_MS, "time_ms"), (STATUS, "status")):
        columns[place] = [getattr(held, name) for held in records]
    columns[ID_END] = np.cumsum([len(item) for item in ids])
    columns[PAYLOAD_END] = np.cumsum([len(item) for item in payloads])
    head = np.array([count, int(columns[ID_END, -1])], "<i8")
    return b"".join((head.tobytes(), columns.tobytes(), *ids, *payloads))
