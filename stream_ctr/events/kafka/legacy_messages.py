"""Messages of the formats before Kafka 0.11 (magic 0 and 1), which brokers of version 3 still send.

They are rare, so kafka-python parses them. Compressed messages are first decompressed here, up to the limit,
because kafka-python sets none.
"""

from __future__ import annotations

import struct

from stream_ctr.events.kafka.client import LegacyRecordBatch, MemoryRecords, errors
from stream_ctr.events.kafka.decompression import TooLargeError, codec_name, unpack
from stream_ctr.events.limits import ENTRY_BYTES, ReadLimits, Unread, too_large
from stream_ctr.events.log import Entry, TopicPartition


class LegacyMessages:
    """The messages of one partition in a fetch, up to the first record batch of magic 2.

    Has the interface of :class:`~stream_ctr.events.kafka.record_batches.FetchedBatches`.
    """

    leader_epoch = -1

    def __init__(self, data: bytes, place: TopicPartition, fetch_offset: int, limits: ReadLimits) -> None:
        self._data, self._place, self._fetch_offset, self._limits = data, place, fetch_offset, limits
        self._messages: list[LegacyRecordBatch] = []
        self._ready: list[Entry] = []
        self.failure: errors.KafkaError | None = None
        records = MemoryRecords(data)
        try:
            while (message := records.next_batch()) is not None and message.magic < 2:
                self._messages.append(message)
        except errors.CorruptRecordError as error:
            if not self._messages:  # otherwise the next fetch begins with it
                self.failure = error
        self.next_offset = fetch_offset
        if self._messages:
            self.next_offset = max(fetch_offset, self._messages[-1].base_offset + 1)
        self._messages.reverse()

    @property
    def done(self) -> bool:
        """Whether all entries were taken."""
        return not self._messages and not self._ready and self.failure is None

    @property
    def held_bytes(self) -> int:
        """Memory of the data and of the entries that were not taken."""
        return len(self._data) + sum(_size(entry) for entry in self._ready)

    def take(self, max_entries: int, max_bytes: int) -> tuple[list[Entry], int]:
        """The next entries and their memory in bytes; no entries if all were taken or a failure comes
        next."""
        entries: list[Entry] = []
        size_bytes = 0
        while len(entries) < max_entries and size_bytes < max_bytes:
            if not self._ready:
                if entries or not self._messages or self.failure is not None:
                    break
                self._ready = self._read(self._messages[-1])[::-1]
                if self.failure is None:
                    self._messages.pop()
                continue
            entries.append(self._ready.pop())
            size_bytes += _size(entries[-1])
        return entries, size_bytes

    def _read(self, message: LegacyRecordBatch) -> list[Entry]:
        where = f"{self._place.topic}[{self._place.partition}]"
        name = f"{where}: the message at offset {message.base_offset}"
        if not message.validate_crc():
            self.failure = errors.CorruptRecordError(f"{name} does not match its checksum")
            return []
        try:
            unread = self._too_large(message)
            if unread is not None:
                pointer = Entry(*self._place, message.base_offset, -1, None, None, (), unread)
                return [pointer] if pointer.offset >= self._fetch_offset else []
            records = list(message)
        except errors.UnsupportedCodecError as error:
            self.failure = errors.UnsupportedCodecError(f"{where} {error.args[0]}")
            return []
        except Exception as error:  # each library raises its own exceptions
            self.failure = errors.CorruptRecordError(f"{name} cannot be decompressed: {error}")
            return []
        entries = [
            Entry(*self._place, one.offset, _time(one.timestamp), one.key, one.value)
            for one in records
            if one.offset >= self._fetch_offset
        ]
        return [self._limited(entry) for entry in entries]

    def _too_large(self, message: LegacyRecordBatch) -> Unread | None:
        """The marker for a compressed message above the limit; None for any other message."""
        kind = message.compression_type
        if not kind:
            return None
        packed = _packed(message)
        try:
            unpack(packed, kind, self._limits.batch)
        except TooLargeError:
            return Unread(
                f"the messages up to offset {message.base_offset}, compressed by {codec_name(kind)} to "
                f"{len(packed)} bytes, exceed log.max_batch_bytes = {self._limits.batch} after "
                "decompression; they were not read",
                message.size_in_bytes,
            )
        return None

    def _limited(self, entry: Entry) -> Entry:
        size_bytes = _size(entry) - ENTRY_BYTES
        if size_bytes <= self._limits.record:
            return entry
        return entry._replace(key=None, value=None, unread=too_large(size_bytes, self._limits.record))


def _time(timestamp_ms: int | None) -> int:
    """The timestamp, -1 if there is none: messages of magic 0 have no timestamp."""
    return -1 if timestamp_ms is None else timestamp_ms


def _packed(message: LegacyRecordBatch) -> bytes:
    """The value of a message: its compressed content."""
    content = message._buffer
    at = message.KEY_OFFSET_V1 if message.magic else message.KEY_OFFSET_V0
    (key_length,) = struct.unpack_from(">i", content, at)
    at += 4 + max(key_length, 0)
    (length,) = struct.unpack_from(">i", content, at)
    return bytes(content[at + 4 : at + 4 + max(length, 0)])


def _size(entry: Entry) -> int:
    return len(entry.key or b"") + len(entry.value or b"") + ENTRY_BYTES
