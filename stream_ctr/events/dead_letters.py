"""Dead letters: every unusable record, kept with its place in the log and the reason.

A record may be reported again after a restart, because its offset enters a checkpoint only after its
dead letter is acknowledged; a listing shows each place once. The topic also holds notes of the letters that
were replayed, which a header distinguishes from letters.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping

import msgspec

from stream_ctr.errors import LogError
from stream_ctr.events.log import Entry, EventLog, LogReader, Record, TopicPartition
from stream_ctr.events.validation import MAX_RECORD_BYTES

DEAD_LETTER_VERSION = 1

MAX_KEPT_BYTES = 1024 * 1024 + 64 * 1024
"""Largest total of key and value that a letter holds whole; base64 adds a third. The decoder never accepts a
value beyond 1 MiB, so every record that a replay could rescue is held whole."""

PREFIX_BYTES = 4096
"""Bytes kept of a larger record: enough to recognise it."""

MAX_WAITING = 1000
"""Letters that may wait for a flush."""

MAX_WAITING_BYTES = 16 * 1024 * 1024
"""Bytes that may wait for a flush. Both limits bound the memory while the log accepts no letters."""

_APPEND_BYTES = 4 * 1024 * 1024
"""Bytes of encoded letters that one append sends."""

NOTE_HEADER = "stream-ctr-replay-note"
"""Header that marks a record of the topic as a note about a letter; its value is the kind of note."""

Place = tuple[str, int, int]
"""Topic, partition and offset of an unusable record."""

_CUT_SHORT = "bytes are kept here)"
_POLL_ENTRIES = 1000
_IDLE_TIMEOUT_SECONDS = 30.0


class DeadLetter(msgspec.Struct, kw_only=True, frozen=True):
    """One unusable record; ``key`` and ``value`` are its bytes, base64 in JSON.

    ``topic``, ``partition`` and ``offset`` are its place in the log, ``timestamp_ms`` is its timestamp.
    """

    v: int = DEAD_LETTER_VERSION
    reason: str
    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None = None
    value: bytes | None = None
    size_bytes: int | msgspec.UnsetType = msgspec.UNSET
    """Size of the record in the log; set only if the letter does not hold the whole record."""

    @classmethod
    def of(cls, entry: Entry, reason: str) -> DeadLetter:
        """The dead letter of one entry. It holds the beginning of a large record, and only place, reason and
        size of an unread one. The log holds the whole record until it is trimmed.
        """
        key, value = entry.key, entry.value
        size_bytes = len(key or b"") + len(value or b"")
        whole = size_bytes <= MAX_KEPT_BYTES
        if entry.unread is not None:
            reason, size_bytes, whole = entry.unread.reason, entry.unread.size_bytes, False
        elif not whole:
            reason = f"{reason} (the first {PREFIX_BYTES} of {size_bytes} {_CUT_SHORT}"
            key = key if key is None else key[:PREFIX_BYTES]
            value = value if value is None else value[: PREFIX_BYTES - len(key or b"")]
        return cls(
            reason=reason,
            topic=entry.topic,
            partition=entry.partition,
            offset=entry.offset,
            timestamp_ms=entry.timestamp_ms,
            key=key,
            value=value,
            size_bytes=msgspec.UNSET if whole else size_bytes,
        )

    @property
    def place(self) -> Place:
        """Topic, partition and offset of the unusable record."""
        return self.topic, self.partition, self.offset

    @property
    def cut_short(self) -> bool:
        """Whether the letter lacks part of the record, or all of it."""
        if self.size_bytes is not msgspec.UNSET:
            return True
        # Earlier versions wrote no size.
        kept_bytes = len(self.key or b"") + len(self.value or b"")
        return kept_bytes == MAX_RECORD_BYTES // 2 and self.reason.endswith(_CUT_SHORT)

    def record(self) -> Record:
        """The record to append, keyed by the place of the unusable record."""
        return Record(
            key=place_key(self.place),
            value=msgspec.json.encode(self),
            timestamp_ms=max(self.timestamp_ms, 0),
        )


def place_key(place: Place) -> bytes:
    """A place as a record key, so that the letter and the notes about one record share a partition."""
    return "{}/{}/{}".format(*place).encode()


class DeadLetters:
    """Writes dead letters to one topic of a log; the topic must exist.

    >>> from stream_ctr.events.log import Entry
    >>> bad = Entry("clicks", 0, 17, 0, b"e1", b"{oops")
    >>> DeadLetter.of(bad, "not JSON").record().key
    b'clicks/0/17'
    """

    def __init__(self, log: EventLog, topic: str) -> None:
        self._log = log
        self.topic = topic
        self._waiting: list[DeadLetter] = []
        self._waiting_bytes = 0

    @property
    def waiting(self) -> int:
        """Number of letters that are not yet acknowledged."""
        return len(self._waiting)

    @property
    def due(self) -> bool:
        """Whether letters should be written now: they are collected until they are :attr:`full`."""
        return self.full

    @property
    def full(self) -> bool:
        """Whether the waiting letters must be flushed before more entries are read."""
        return len(self._waiting) >= MAX_WAITING or self._waiting_bytes >= MAX_WAITING_BYTES

    def add(self, entry: Entry, reason: str) -> None:
        """Add one unusable record; it is durable only after the next ``flush``."""
        letter = DeadLetter.of(entry, reason)
        self._waiting.append(letter)
        self._waiting_bytes += _kept_bytes(letter)

    def flush(self) -> None:
        """Append all waiting letters; the log has acknowledged them when this returns.

        Raises:
            LogError: not acknowledged; the letters without acknowledgement keep waiting for the next flush.
        """
        while self._waiting:
            records: list[Record] = []
            left = _APPEND_BYTES
            for letter in self._waiting:
                records.append(letter.record())
                left -= len(records[-1].value or b"")
                if left <= 0:
                    break
            self._log.append(self.topic, records)
            for letter in self._waiting[: len(records)]:
                self._waiting_bytes -= _kept_bytes(letter)
            del self._waiting[: len(records)]


def _kept_bytes(letter: DeadLetter) -> int:
    return len(letter.key or b"") + len(letter.value or b"")


def list_dead_letters(log: EventLog, topic: str) -> Iterator[DeadLetter]:
    """The dead letters that the topic holds now, one for each unusable record.

    A record that is not a dead letter is itself listed as one, with its fault as the reason.

    Raises:
        LogError: the topic does not exist, or the log stopped answering.
    """
    seen: set[Place] = set()
    for entry in held_entries(log, topic):
        if any(name == NOTE_HEADER for name, _ in entry.headers):
            continue
        letter = _letter_in(entry)
        if letter.place not in seen:
            seen.add(letter.place)
            yield letter


def held_entries(log: EventLog, topic: str, offsets: Mapping[int, int] | None = None) -> Iterator[Entry]:
    """The entries that a topic holds now, from the given offset of each partition, or all of them.

    Raises:
        LogError: the topic does not exist, or the log stopped answering.
    """
    starts, ends = log.start_offsets(topic), log.end_offsets(topic)
    wanted = starts if offsets is None else {p: max(offset, starts[p]) for p, offset in offsets.items()}
    reader = log.reader({TopicPartition(topic, partition): start for partition, start in wanted.items()})
    try:
        yield from _entries_until(reader, ends)
    finally:
        reader.close()


def _letter_in(entry: Entry) -> DeadLetter:
    try:
        return msgspec.json.decode(entry.value or b"", type=DeadLetter)
    except msgspec.MsgspecError as error:
        return DeadLetter.of(entry, f"not a dead letter: {error}")


def _entries_until(reader: LogReader, ends: dict[int, int]) -> Iterator[Entry]:
    """Entries up to the given end of each partition."""
    idle_polls = 0
    deadline = time.monotonic() + _IDLE_TIMEOUT_SECONDS
    while any(position < ends[place.partition] for place, position in reader.positions().items()):
        entries = reader.poll(_POLL_ENTRIES, 1.0)
        yield from (entry for entry in entries if entry.offset < ends[entry.partition])
        if entries:
            idle_polls, deadline = 0, time.monotonic() + _IDLE_TIMEOUT_SECONDS
        elif time.monotonic() >= deadline:
            raise LogError("the log stopped answering during the read; try again")
        elif reader.healthy:
            idle_polls += 1
            if idle_polls == 3:  # the rest of the range holds no records, as after compaction
                return
