"""The embedded event log: one SQLite file that several processes append to and read at once.

Write-ahead logging lets readers continue during a write; ``synchronous=FULL`` makes every acknowledged
append survive a power failure. Offsets are dense in each partition and never reused, because the end of
a partition is stored apart from its entries.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Collection, Mapping, Sequence
from contextlib import closing
from typing import Any, Final, NamedTuple

from stream_ctr.errors import LogError
from stream_ctr.events import validation
from stream_ctr.events.limits import DEFAULT_LIMITS, ENTRY_BYTES, ReadLimits, too_large
from stream_ctr.events.log import Entry, Record, TopicPartition
from stream_ctr.events.sqlite.file import SqliteFile, drop_headers, path_of, read_headers, write_headers

# An entry's row id combines its partition's id and its offset, so that reading a partition in order is a
# range scan of the table and needs no second index.
_OFFSET_BITS = 40

# Trimming in steps keeps writers from waiting while millions of entries are deleted.
_TRIM_STEP = 10_000

# Shortest and longest pause of an idle reader between checks for new entries.
_SHORTEST_PAUSE_SECONDS = 0.001
_LONGEST_PAUSE_SECONDS = 0.02

_PARTITIONS: Final = (
    "SELECT (SELECT id FROM log), topics.name, topics.uuid, partitions.id, start_offset, end_offset "
    "FROM topics JOIN partitions ON topics.id = partitions.topic"
)
_ENTRIES: Final = (
    "SELECT id - ?1, timestamp_ms, key, iif("
    "ifnull(length(key), 0) + ifnull(length(value), 0) > ?5, "
    "ifnull(length(key), 0) + ifnull(length(value), 0), value) "
    "FROM entries WHERE id >= ?2 AND id < ?3 ORDER BY id LIMIT ?4"
)
"""Rows; a record above the limit has its size in place of the value. SQLite knows the size without reading
the value."""
_PIECE_ROWS, _PIECE_BYTES = 64, 64 * 1024 * 1024
"""Largest number of rows fetched from SQLite at once, and their largest total size."""
_LEAST_PIECE_ROWS = 8


class _Topic(NamedTuple):
    """The immutable properties of a topic: its id and the row id of each partition."""

    uuid: str
    partition_ids: tuple[int, ...]


class SqliteLog:
    """An :class:`~stream_ctr.events.log.EventLog` in one file on a local disk.

    The threads of a process may share it. Each process must open its own; do not carry one over a
    fork. Without ``create`` a missing file is an error.

    Raises:
        LogError: the file is missing, is not an event log, or cannot be opened.
        UsageError: the URL is malformed.
    """

    def __init__(self, url: str, *, create: bool = False, busy_timeout_seconds: float = 30.0) -> None:
        self.url = url
        self._busy_timeout_seconds = busy_timeout_seconds
        self._topics: dict[str, _Topic] = {}
        self._file = SqliteFile(url, path_of(url), create=create, busy_timeout_seconds=busy_timeout_seconds)
        ((self._log_id,),) = self._file.execute("SELECT id FROM log")

    def log_id(self) -> str:
        """The id that was assigned when the file was created."""
        return str(self._log_id)

    def create_topic(self, topic: str, partitions: int) -> None:
        """Create the topic; do nothing if it exists with that many partitions."""
        there = self.ensure_topic(topic, partitions)
        if there != partitions:
            raise validation.other_partitions(self.url, topic, there, partitions)

    def is_compacted(self, topic: str) -> bool:
        """False: only :meth:`trim` drops entries."""
        return False

    def ensure_topic(self, topic: str, partitions: int) -> int:
        """Create the topic unless it exists; returns its number of partitions."""
        validation.check_topic(self.url, topic, partitions)
        self._file.check_in_place()
        with self._file.transaction("IMMEDIATE"):
            there = self._look_up(topic)
            if there is None:
                ((topic_row,),) = self._file.execute(
                    "INSERT INTO topics (name, uuid) VALUES (?, ?) RETURNING id", (topic, str(uuid.uuid4()))
                )
                self._file.execute_many(
                    "INSERT INTO partitions (topic, partition, start_offset, end_offset) VALUES (?, ?, 0, 0)",
                    [(topic_row, partition) for partition in range(partitions)],
                )
                return partitions
        return len(there.partition_ids)

    def _look_up(self, topic: str) -> _Topic | None:
        found = self._topics.get(topic)
        if found is None:
            rows = self._file.execute(
                "SELECT topics.uuid, partitions.id FROM topics "
                "JOIN partitions ON topics.id = partitions.topic "
                "WHERE topics.name = ? ORDER BY partitions.partition",
                (topic,),
            )
            if not rows:
                return None
            found = _Topic(rows[0][0], tuple(partition_id for _, partition_id in rows))
            self._topics[topic] = found
        return found

    def _topic(self, topic: str) -> _Topic:
        found = self._look_up(topic)
        if found is None:
            raise validation.no_such_topic(self.url, topic)
        return found

    def topic_id(self, topic: str) -> str:
        """The id that was assigned when the topic was created, read from the file again."""
        self._topics.pop(topic, None)
        return self._topic(topic).uuid

    def partitions(self, topic: str) -> int:
        """Number of partitions of the topic."""
        return len(self._topic(topic).partition_ids)

    def start_offsets(self, topic: str) -> dict[int, int]:
        """First offset still held, by partition."""
        return {partition: start for partition, (start, _) in self._ranges(topic).items()}

    def end_offsets(self, topic: str) -> dict[int, int]:
        """One past the last offset, by partition."""
        return {partition: end for partition, (_, end) in self._ranges(topic).items()}

    def _ranges(self, topic: str) -> dict[int, tuple[int, int]]:
        ids = self._topic(topic).partition_ids
        with self._file.transaction("DEFERRED"):
            return {partition: _range(self._file, ids[partition]) for partition in range(len(ids))}

    def append(self, topic: str, records: Sequence[Record]) -> None:
        """Append all of the records or none; they are durable when it returns."""
        self._file.check_in_place()
        ids = self._topic(topic).partition_ids
        places = [ids[place] for place in validation.place_records(self.url, topic, records, len(ids))]
        with self._file.transaction("IMMEDIATE"):
            ends = {place: _range(self._file, place)[1] for place in set(places)}
            rows = []
            for place, record in zip(places, records, strict=True):
                rows.append(
                    (place << _OFFSET_BITS | ends[place], record.timestamp_ms, record.key, record.value)
                )
                ends[place] += 1
            self._file.execute_many("INSERT INTO entries VALUES (?, ?, ?, ?)", rows)
            headers = [(row[0], r.headers) for row, r in zip(rows, records, strict=True) if r.headers]
            if headers:
                write_headers(self._file, headers)
            self._file.execute_many(
                "UPDATE partitions SET end_offset = ? WHERE id = ?",
                [(end, place) for place, end in ends.items()],
            )

    def reader(
        self, offsets: Mapping[TopicPartition, int], limits: ReadLimits = DEFAULT_LIMITS
    ) -> SqliteReader:
        """A reader at these offsets, with its own connection."""
        ids = {}
        for place in offsets:
            topic = self._topic(place.topic)
            if not 0 <= place.partition < len(topic.partition_ids):
                raise validation.no_such_partition(self.url, place, len(topic.partition_ids))
            ids[place] = topic.partition_ids[place.partition]
        self._file.check_in_place()
        file = SqliteFile(
            self.url, self._file.path, create=False, busy_timeout_seconds=self._busy_timeout_seconds
        )
        topics = {place.topic: self._topic(place.topic).uuid for place in offsets}
        return SqliteReader(file, self.log_id(), topics, ids, offsets, limits)

    def trim(self, topic: str, partition: int, before_offset: int) -> None:
        """Drop the entries before an offset; does nothing if they were dropped already.

        Raises:
            OffsetRangeError: the offset is beyond the end.
        """
        ids = self._topic(topic).partition_ids
        place = TopicPartition(topic, partition)
        if not 0 <= partition < len(ids):
            raise validation.no_such_partition(self.url, place, len(ids))
        self._file.check_in_place()
        base = ids[partition] << _OFFSET_BITS
        start = -1
        while start < before_offset:
            with self._file.transaction("IMMEDIATE"):
                start, end = _range(self._file, ids[partition])
                if before_offset > end:
                    raise validation.beyond_end(self.url, place, before_offset, end)
                start = max(start, min(start + _TRIM_STEP, before_offset))
                self._file.execute("DELETE FROM entries WHERE id >= ? AND id < ?", (base, base | start))
                drop_headers(self._file, base, base | start)
                self._file.execute(
                    "UPDATE partitions SET start_offset = ? WHERE id = ?", (start, ids[partition])
                )

    def close(self) -> None:
        """Close the file; readers stay open until they are closed."""
        self._file.close()


def _values_bytes(rows: list[tuple[Any, ...]]) -> tuple[int, bool]:
    """Size of the values, and whether all values are present; a size in place of a value counts 0."""
    try:
        return sum([len(row[3]) for row in rows]), True
    except TypeError:
        return sum([len(row[3]) for row in rows if type(row[3]) is bytes]), False


def _range(file: SqliteFile, partition_id: int) -> tuple[int, int]:
    """First held offset and end offset of one partition."""
    ((start, end),) = file.execute(
        "SELECT start_offset, end_offset FROM partitions WHERE id = ?", (partition_id,)
    )
    return start, end


class SqliteReader:
    """A :class:`~stream_ctr.events.log.LogReader` of the embedded log; one thread at a time."""

    healthy = True  # an unreadable file raises an error at once

    def __init__(
        self,
        file: SqliteFile,
        log_id: str,
        topics: Mapping[str, str],
        ids: Mapping[TopicPartition, int],
        offsets: Mapping[TopicPartition, int],
        limits: ReadLimits,
    ) -> None:
        """``topics`` holds the ids of the topics that are read, ``ids`` the row ids of their partitions."""
        self._file = file
        self._log_id = log_id
        self._topics = dict(topics)
        self._counts: dict[str, int] = {}
        self._ids = dict(ids)
        self._positions = dict(offsets)
        self._ends: dict[TopicPartition, int] = {}
        self._rotation = list(ids)
        self._limits = limits
        self._taken_bytes: dict[TopicPartition, int] = {}
        try:
            file.execute("PRAGMA query_only = ON")
            with file.transaction("DEFERRED"):
                self._refresh()
        except LogError:
            file.close()
            raise

    def _refresh(self) -> None:
        """Update the end offsets; check that every position is still held and belongs to the same topic.

        Runs in the transaction that reads the entries, so replaced content is never read as the old log.
        """
        rows = self._file.execute(_PARTITIONS)
        self._check_topics({name: (log, topic) for log, name, topic, *_ in rows})
        found: dict[str, int] = {}
        ranges: dict[int, tuple[int, int]] = {}
        for _, name, _, partition_id, start, end in rows:
            found[name] = found.get(name, 0) + 1
            ranges[partition_id] = start, end
        self._counts = found
        for place, partition_id in self._ids.items():
            start, end = ranges.get(partition_id, (0, 0))
            validation.check_offset(self._file.url, place, self._positions[place], start, end)
            self._ends[place] = end

    def _check_topics(self, found: Mapping[str, tuple[str, str]]) -> None:
        for topic, topic_id in self._topics.items():
            if topic not in found:
                raise validation.no_such_topic(self._file.url, topic)
            log, now = found[topic]
            if now != topic_id or log != self._log_id:
                raise validation.recreated(self._file.url, topic, topic_id, now, self._log_id, log)

    def poll(
        self,
        max_entries: int,
        timeout_seconds: float,
        only: Collection[TopicPartition] | None = None,
        max_bytes: int | None = None,
    ) -> list[Entry]:
        """The next entries; while idle, it checks for other connections' commits every few milliseconds."""
        deadline = time.monotonic() + timeout_seconds
        pause = _SHORTEST_PAUSE_SECONDS
        most_bytes = min(self._limits.poll, self._limits.poll if max_bytes is None else max_bytes)
        while True:
            self._file.check_in_place()
            # Queried before reading, so that a commit in between changes the next comparison.
            version = self._file.execute("PRAGMA data_version")
            entries = self._read(max_entries, most_bytes, only)
            if entries:
                return entries
            while self._file.execute("PRAGMA data_version") == version:
                left = deadline - time.monotonic()
                if left <= 0:
                    return []
                time.sleep(min(pause, left))
                pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
            if time.monotonic() >= deadline:
                return self._read(max_entries, most_bytes, only)

    def _read(
        self, max_entries: int, most_bytes: int, only: Collection[TopicPartition] | None
    ) -> list[Entry]:
        entries: list[Entry] = []
        taken_bytes: dict[TopicPartition, int] = {}
        following: dict[TopicPartition, int] = {}
        with self._file.transaction("DEFERRED"):
            self._refresh()
            for place in self._rotation:
                position, end = self._positions[place], self._ends[place]
                if position == end or len(entries) >= max_entries or (only is not None and place not in only):
                    continue
                left_bytes = most_bytes - sum(taken_bytes.values())
                if left_bytes <= 0:
                    break
                read, size_bytes = self._read_partition(place, max_entries - len(entries), left_bytes)
                if read:
                    taken_bytes[place], following[place] = size_bytes, read[-1].offset + 1
                entries += read
        self._positions.update(following)
        self._taken_bytes = taken_bytes
        # Rotate the partitions, so that one with many entries does not starve the others.
        self._rotation = self._rotation[1:] + self._rotation[:1]
        return entries

    def _read_partition(
        self, place: TopicPartition, max_entries: int, most_bytes: int
    ) -> tuple[list[Entry], int]:
        """The next entries of one partition, and their memory in bytes."""
        base, limit = self._ids[place] << _OFFSET_BITS, self._limits.record
        first, end = base | self._positions[place], base | self._ends[place]
        at_once = max(_LEAST_PIECE_ROWS, min(_PIECE_ROWS, _PIECE_BYTES // limit))
        rows: list[tuple[Any, ...]] = []
        size_bytes, complete = 0, True
        values = base, first, end, max_entries, limit
        with closing(self._file.pieces(_ENTRIES, values, at_once)) as pieces:
            for piece in pieces:
                rows += piece
                values_bytes, all_values = _values_bytes(piece)
                size_bytes += len(piece) * ENTRY_BYTES + values_bytes
                complete = complete and all_values
                if size_bytes >= most_bytes:
                    break
        topic, partition = place
        headers = read_headers(self._file, base, rows)
        if complete and not headers:
            return [Entry(topic, partition, *row) for row in rows], size_bytes
        entries = [
            Entry(topic, partition, offset, timestamp_ms, key, value, headers.get(offset, ()))
            if type(value) is not int
            else Entry(topic, partition, offset, timestamp_ms, None, None, (), too_large(value, limit))
            for offset, timestamp_ms, key, value in rows
        ]
        return entries, size_bytes

    def positions(self) -> dict[TopicPartition, int]:
        """The offset of the next entry of each partition."""
        return dict(self._positions)

    def taken_bytes(self) -> dict[TopicPartition, int]:
        """Memory of the last poll's entries in bytes, by partition."""
        return self._taken_bytes

    def topic_ids(self) -> dict[str, str]:
        """Id of each topic, as of when the reader was opened; no other topic is read."""
        return dict(self._topics)

    def partition_counts(self) -> dict[str, int]:
        """Number of partitions of each topic."""
        return {topic: self._counts[topic] for topic in self._topics}

    def end_offsets(self) -> dict[TopicPartition, int]:
        """End offsets as of the last poll."""
        return dict(self._ends)

    def close(self) -> None:
        """Close the reader's own connection."""
        self._file.close()
