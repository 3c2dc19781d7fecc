"""The event log: an append-only, partitioned record of what happened, addressed by URL.

Two implementations fulfil this contract: ``kafka://host:port[,host:port]`` and the embedded
``sqlite:///path``. Reading is always by explicit offsets; the log remembers nothing about a reader.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple, Protocol

from stream_ctr.events.limits import DEFAULT_LIMITS, ReadLimits, Unread

Headers = tuple[tuple[str, bytes], ...]
"""What a record says about itself beside its value, by name, in order; a name may come again."""


class TopicPartition(NamedTuple):
    """One partition of one topic."""

    topic: str
    partition: int


class Entry(NamedTuple):
    """One record at its place in the log; ``timestamp_ms`` is when the log or producer stamped it.

    An entry with ``unread`` has neither key, value nor headers: the log holds them.
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
    """One record to append. Without ``partition`` it goes to murmur2(key) modulo the partitions."""

    key: bytes | None
    value: bytes | None
    timestamp_ms: int
    partition: int | None = None
    headers: Headers = ()


class LogReader(Protocol):
    """Reads assigned partitions from explicit offsets on."""

    @property
    def healthy(self) -> bool:
        """Whether the log answered when it was last asked; a reader goes on asking by itself."""
        ...

    def poll(
        self,
        max_entries: int,
        timeout_seconds: float,
        only: Collection[TopicPartition] | None = None,
        max_bytes: int | None = None,
    ) -> list[Entry]:
        """The next entries; per partition in offset order, without gaps other than those the log itself has.

        Args:
            max_entries: most entries to return.
            timeout_seconds: how long to wait for the first one; the result is empty after that.
            only: read these partitions alone; the others stay where they are.
            max_bytes: most bytes to return, in place of the reader's own limit; at least one entry comes.

        Raises:
            OffsetRangeError: a position lies before the log's first offset or beyond its end, or the topic
                is no longer the one that the reader was opened on. Entries of another topic are never given.
            LogError: the log cannot be reached and the reader cannot say that it will recover.
        """
        ...

    def taken_bytes(self) -> dict[TopicPartition, int]:
        """What the entries of the last poll take in memory, by partition, where there were some."""
        ...

    def partition_counts(self) -> dict[str, int]:
        """How many partitions each topic has, as last heard."""
        ...

    def topic_ids(self) -> dict[str, str]:
        """Id of each topic that is read, as it was when the reader was opened."""
        ...

    def positions(self) -> dict[TopicPartition, int]:
        """The offset of the next entry of each assigned partition."""
        ...

    def end_offsets(self) -> dict[TopicPartition, int]:
        """Latest known end offset (one past the last entry) of each assigned partition."""
        ...

    def close(self) -> None: ...


class EventLog(Protocol):
    """One log, open for appending, reading and asking."""

    url: str

    def log_id(self) -> str:
        """An id made when the log was created: Kafka's cluster id, or the file's own."""
        ...

    def create_topic(self, topic: str, partitions: int) -> None:
        """Create the topic, or do nothing when it exists with that many partitions.

        Raises:
            LogError: it exists with another number of partitions, or cannot be created.
        """
        ...

    def ensure_topic(self, topic: str, partitions: int) -> int:
        """Create the topic unless it exists, with whatever number of partitions; how many it has.

        Raises:
            LogError: it cannot be created.
        """
        ...

    def is_compacted(self, topic: str) -> bool:
        """Whether the log drops older records of a key. False as well where the log does not say."""
        ...

    def topic_id(self, topic: str) -> str:
        """An id that changes when a topic is deleted and created again.

        Raises:
            LogError: there is no such topic.
        """
        ...

    def partitions(self, topic: str) -> int:
        """How many partitions the topic has. Raises LogError when there is no such topic."""
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
        of events drop what they have seen, by event id.

        Raises:
            LogError: not acknowledged; none, some or all of the records may be in the log.
        """
        ...

    def reader(self, offsets: Mapping[TopicPartition, int], limits: ReadLimits = DEFAULT_LIMITS) -> LogReader:
        """A reader at these offsets (next entry to read). Raises OffsetRangeError as ``poll``."""
        ...

    def trim(self, topic: str, partition: int, before_offset: int) -> None:
        """Drop the entries before an offset; the log's first offset becomes ``before_offset``."""
        ...

    def close(self) -> None: ...
