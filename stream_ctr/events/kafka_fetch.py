"""Where compiled reading takes the place of kafka-python's: the part of its fetcher that reads one
partition's bytes, and nothing else of it.
"""

from __future__ import annotations

from typing import Any

from stream_ctr.events.kafka_batches import Read, read_batches
from stream_ctr.events.kafka_client import errors, fetcher, kafka
from stream_ctr.events.log import Entry, TopicPartition


class FetchedEntries(fetcher.Fetcher.PartitionRecords):
    """One partition's part of a fetch; gives out entries where kafka-python gives its own records.

    Formats before magic 2, and fetches in which transactions were aborted, are left to kafka-python.
    """

    def __init__(
        self,
        fetch_offset: int,
        tp: kafka.TopicPartition,
        records: fetcher.MemoryRecords,
        **options: Any,
    ) -> None:
        super().__init__(fetch_offset, tp, records, **options)
        self._data = b"" if self.aborted_transactions else bytes(records._buffer)
        self._read: Read | None = None
        self._next = 0
        self._failure: errors.KafkaError | None = None

    def take(self, n: int | None = None) -> list[Any]:
        """The next entries, at most ``n``; what ends them too early is raised by the call after.

        Raises:
            KafkaError: the batches cannot be read.
        """
        if self._data:
            self._begin(self._data)
            self._data = b""
        if self._read is None:
            return super().take(n)
        if self._failure is not None and self._next == len(self._read.entries):
            self.drain()
            raise self._failure
        given = self._read.entries[self._next : None if n is None else self._next + n]
        self._next += len(given)
        if given:
            self.next_fetch_offset = given[-1].offset + 1
        if self._next == len(self._read.entries) and self._failure is None:
            if self._read.next_offset is not None:
                self.next_fetch_offset = self._read.next_offset
            self.drain()
        return given

    def _begin(self, data: bytes) -> None:
        """Read all of it, but for what lies before the place that was asked for."""
        read = read_batches(data, TopicPartition(*self.topic_partition))
        if read is None:
            return
        entries = read.entries
        self._next = next(
            (i for i, entry in enumerate(entries) if entry.offset >= self.fetch_offset), len(entries)
        )
        self._read, self._failure = read, read.failure
        self.leader_epoch = read.leader_epoch
        self.bytes_read, self.records_read = len(data), len(entries) - self._next


class _Fetcher(fetcher.Fetcher):
    class PartitionRecords(FetchedEntries):
        """What the fetcher makes of each partition's part of a fetch."""


def read_compiled(consumer: kafka.KafkaConsumer) -> None:
    """Have a consumer's ``poll`` give entries, where its fetcher is made as that of kafka-python 3.0."""
    if type(consumer._fetcher) is fetcher.Fetcher:
        consumer._fetcher.__class__ = _Fetcher


def entry_of(record: Entry | fetcher.ConsumerRecord) -> Entry:
    """What was fetched as an entry, whichever way it was read."""
    if isinstance(record, Entry):
        return record
    return Entry(
        record.topic,
        record.partition,
        record.offset,
        record.timestamp,
        record.key,
        record.value,
        tuple((name, value or b"") for name, value in record.headers),
    )
