"""The event log: an append-only, partitioned log of impressions and clicks, addressed by URL.

Two implementations fulfil this contract: ``kafka://host:port[,host:port]`` and the embedded
``sqlite:///path``. Reading is always by explicit offsets; the log keeps no state about its readers.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple, Protocol

from stream_ctr.events.limits import DEFAULT_LIMITS, ReadLimits, Unread

Headers = tuple[tuple[str, bytes], ...]
"""Names and values of a record's headers, in order; a name may occur more than once."""


class TopicPartition(NamedTuple):
    """One partition of one topic."""

    topic: str
    partition: int


class Entry(NamedTuple):
    """One record at its place in the log; ``timestamp_ms`` was set by the log or the producer.

    An entry with ``unread`` has no key, value and headers: they were left in the log.
    """

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: Headers = ()
    unread: Unread | None = None


class Record(NamedTuple):
    """One record to append. Without ``partition`` it goes to murmur2(key) modulo the partition count."""

    key: bytes | None
    value: bytes | None
    timestamp_ms: int
    partition: int | None = None
    headers: Headers = ()


class LogReader(Protocol):
    """Reads assigned partitions, starting at explicit offsets."""

    @property
    def healthy(self) -> bool:
        """Whether the log answered the last request; a reader keeps retrying by itself."""
        ...

    def poll(
        self,
        max_entries: int,
        timeout_seconds: float,
        only: Collection[TopicPartition] | None = None,
        max_bytes: int | None = None,
    ) -> list[Entry]:
        """The next entries; per partition in offset order, without gaps other than those of the log itself.

        Args:
            max_entries: maximum number of entries to return.
            timeout_seconds: time to wait for the first entry; after it, the result is empty.
            only: read just these partitions; the positions of the others do not change.
            max_bytes: maximum size to return, in place of the reader's own limit; at least one entry comes.

        Raises:
            OffsetRangeError: a position lies before the log's first offset or beyond its end, or the topic
                was replaced after the reader was opened. Entries of the new topic are never returned.
            LogError: the log cannot be reached, and the reader cannot tell whether it will recover.
        """
        ...

    def taken_bytes(self) -> dict[TopicPartition, int]:
        """Memory of the last poll's entries in bytes, by partition; partitions without entries are absent."""
        ...

    def partition_counts(self) -> dict[str, int]:
        """Number of partitions of each topic, as of the last answer."""
        ...

    def topic_ids(self) -> dict[str, str]:
        """Id of each topic that is read, as of when the reader was opened."""
        ...

    def positions(self) -> dict[TopicPartition, int]:
        """The offset of the next entry of each assigned partition."""
        ...

    def end_offsets(self) -> dict[TopicPartition, int]:
        """Latest known end offset (one past the last entry) of each assigned partition."""
        ...

    def close(self) -> None: ...


class EventLog(Protocol):
    """One log, open for appending, reading and metadata requests."""

    url: str

    def log_id(self) -> str:
        """An id assigned when the log was created: Kafka's cluster id, or the file's own."""
        ...

    def create_topic(self, topic: str, partitions: int) -> None:
        """Create the topic; do nothing if it exists with that many partitions.

        Raises:
            LogError: it exists with another number of partitions, or cannot be created.
        """
        ...

    def ensure_topic(self, topic: str, partitions: int) -> int:
        """Create the topic unless it exists, with any number of partitions; returns its number of partitions.

        Raises:
            LogError: it cannot be created.
        """
        ...

    def is_compacted(self, topic: str) -> bool:
        """Whether the log drops older records of a key; also False if the log does not disclose it."""
        ...

    def topic_id(self, topic: str) -> str:
        """An id that changes when a topic is deleted and created again.

        Raises:
            LogError: the topic does not exist.
        """
        ...

    def partitions(self, topic: str) -> int:
        """Number of partitions of the topic. Raises LogError if the topic does not exist."""
        ...

    def start_offsets(self, topic: str) -> dict[int, int]:
        """First offset still held, by partition."""
        ...

    def end_offsets(self, topic: str) -> dict[int, int]:
        """One past the last offset, by partition."""
        ...

    def append(self, topic: str, records: Sequence[Record]) -> None:
        """Append in order; returns when the log has acknowledged every record as durable.

        At least once: records whose acknowledgement was lost with a broker are appended again. Readers
        of events drop duplicates by event id.

        Raises:
            LogError: not acknowledged; none, some or all of the records may be in the log.
        """
        ...

    def reader(self, offsets: Mapping[TopicPartition, int], limits: ReadLimits = DEFAULT_LIMITS) -> LogReader:
        """A reader at these offsets (the next entry to read). Raises OffsetRangeError like ``poll``."""
        ...

    def trim(self, topic: str, partition: int, before_offset: int) -> None:
        """Drop the entries before an offset; the log's first offset becomes ``before_offset``."""
        ...

    def close(self) -> None: ...
