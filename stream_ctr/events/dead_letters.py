"""Dead letters: every record that cannot be used, kept with its place in the log and the reason.

A record may be reported again after a restart, because its offset enters a checkpoint only after its
dead letter is acknowledged. Listing them shows each place once. Beside the letters the topic holds notes of
which of them were replayed, told by their header.
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
"""Largest key and value together that are kept whole; base64 makes them a third longer. Values beyond 1 MiB
are never decoded, so that nothing is lost that could be replayed."""

PREFIX_BYTES = 4096
"""What is kept of a larger one: enough to see what it is."""

MAX_WAITING = 1000
"""Letters that may wait for a flush."""

MAX_WAITING_BYTES = 16 * 1024 * 1024
"""Bytes that may: together with the number, what a log that takes no letters costs in memory."""

_APPEND_BYTES = 4 * 1024 * 1024
"""Letters that are encoded and appended together."""

NOTE_HEADER = "stream-ctr-replay-note"
"""Header of the topic's records that are no letters but notes about one; its value is the note's kind."""

Place = tuple[str, int, int]
"""Topic, partition and offset of an unusable record."""

_CUT_SHORT = "bytes are kept here)"
_POLL_ENTRIES = 1000
_PATIENCE_SECONDS = 30.0


class DeadLetter(msgspec.Struct, kw_only=True, frozen=True):
    """One unusable record; ``key`` and ``value`` are its own bytes, base64 in JSON.

    ``topic``, ``partition`` and ``offset`` say where it lies, ``timestamp_ms`` what it was stamped.
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
    """Size of the record in the log, where the letter does not hold all of it; else left out."""

    @classmethod
    def of(cls, entry: Entry, reason: str) -> DeadLetter:
        """The dead letter of one entry. Of a large one, the beginning is kept; of one that was not read,
        its place, reason and size. The log holds the whole until it is trimmed.
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
        """Where the unusable record lies."""
        return self.topic, self.partition, self.offset

    @property
    def cut_short(self) -> bool:
        """Whether the letter holds only the beginning of the record, or nothing of it."""
        if self.size_bytes is not msgspec.UNSET:
            return True
        # Letters of versions that wrote no size.
        kept_bytes = len(self.key or b"") + len(self.value or b"")
        return kept_bytes == MAX_RECORD_BYTES // 2 and self.reason.endswith(_CUT_SHORT)

    def record(self) -> Record:
        """As it is appended: keyed by the place of the unusable record."""
        return Record(
            key=place_key(self.place),
            value=msgspec.json.encode(self),
            timestamp_ms=max(self.timestamp_ms, 0),
        )


def place_key(place: Place) -> bytes:
    """A place as text, by which letters and notes about one record meet in one partition."""
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
        """How many are not yet acknowledged."""
        return len(self._waiting)

    @property
    def due(self) -> bool:
        """Whether letters should be written now: they are collected until they are :attr:`full`."""
        return self.full

    @property
    def full(self) -> bool:
        """Whether so many wait that they must be written before more is read."""
        return len(self._waiting) >= MAX_WAITING or self._waiting_bytes >= MAX_WAITING_BYTES

    def add(self, entry: Entry, reason: str) -> None:
        """Take one unusable record; it is safe only after the next ``flush``."""
        letter = DeadLetter.of(entry, reason)
        self._waiting.append(letter)
        self._waiting_bytes += _kept_bytes(letter)

    def flush(self) -> None:
        """Append all that wait; the log has acknowledged them when this returns.

        Raises:
            LogError: not acknowledged; those that were not still wait, and another flush appends them.
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
    """The dead letters that the topic holds now, each place of an unusable record once.

    A record that is not a dead letter itself is listed as one, with what is wrong with it.

    Raises:
        LogError: there is no such topic, or the log stopped answering.
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
    """What a topic holds now, from these offsets by partition on; without them, all of it.

    Raises:
        LogError: there is no such topic, or the log stopped answering.
    """
    starts, ends = log.start_offsets(topic), log.end_offsets(topic)
    wanted = starts if offsets is None else {p: max(offset, starts[p]) for p, offset in offsets.items()}
    reader = log.reader({TopicPartition(topic, partition): start for partition, start in wanted.items()})
    try:
        yield from _until(reader, ends)
    finally:
        reader.close()


def _letter_in(entry: Entry) -> DeadLetter:
    try:
        return msgspec.json.decode(entry.value or b"", type=DeadLetter)
    except msgspec.MsgspecError as error:
        return DeadLetter.of(entry, f"not a dead letter itself: {error}")


def _until(reader: LogReader, ends: dict[int, int]) -> Iterator[Entry]:
    """Entries up to the given end of each partition."""
    idle_polls = 0
    patience = time.monotonic() + _PATIENCE_SECONDS
    while any(position < ends[place.partition] for place, position in reader.positions().items()):
        entries = reader.poll(_POLL_ENTRIES, 1.0)
        yield from (entry for entry in entries if entry.offset < ends[entry.partition])
        if entries:
            idle_polls, patience = 0, time.monotonic() + _PATIENCE_SECONDS
        elif time.monotonic() >= patience:
            raise LogError("the log stopped answering while a topic of it was read; try again")
        elif reader.healthy:
            idle_polls += 1
            if idle_polls == 3:  # what is left of the range holds no records, as after compaction
                return
