from collections.abc import Callable, Sequence
from typing import Any, Protocol

from kafka import ConsumerRecord as ConsumerRecord
from kafka import TopicPartition

class MemoryRecords:
    _buffer: bytes | bytearray | memoryview
    def __init__(self, bytes_data: bytes) -> None: ...

class AbortedTransaction(Protocol):
    @property
    def producer_id(self) -> int: ...
    @property
    def first_offset(self) -> int: ...

class Fetcher:
    class PartitionRecords:
        fetch_offset: int
        topic_partition: TopicPartition
        leader_epoch: int
        next_fetch_offset: int
        bytes_read: int
        records_read: int
        aborted_transactions: Sequence[AbortedTransaction]
        def __init__(
            self,
            fetch_offset: int,
            tp: TopicPartition,
            records: MemoryRecords,
            key_deserializer: object = None,
            value_deserializer: object = None,
            check_crcs: bool = True,
            isolation_level: int = ...,
            aborted_transactions: Sequence[AbortedTransaction] | None = None,
            metric_aggregator: object = None,
            on_drain: Callable[[Fetcher.PartitionRecords], None] = ...,
        ) -> None: ...
        def __bool__(self) -> bool: ...
        def drain(self) -> None: ...
        def take(self, n: int | None = None) -> list[Any]: ...
