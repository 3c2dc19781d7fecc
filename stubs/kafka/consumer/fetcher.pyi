from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol
from uuid import UUID

from kafka import TopicPartition
from kafka.record import MemoryRecords as MemoryRecords

class AbortedTransaction(Protocol):
    @property
    def producer_id(self) -> int: ...
    @property
    def first_offset(self) -> int: ...

class FetchTopic:
    topic: str
    topic_id: UUID

class FetchRequest:
    _max_version: int | None
    topics: Sequence[FetchTopic]
    forgotten_topics_data: Sequence[FetchTopic]

class FetchResponse:
    API_VERSION: int
    responses: Sequence[FetchTopic]

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

    def _create_fetch_requests(
        self,
    ) -> dict[int, tuple[FetchRequest, Mapping[TopicPartition, int]]]: ...
    def _handle_fetch_response(
        self,
        node_id: int,
        fetch_offsets: Mapping[TopicPartition, int],
        send_time: float,
        response: FetchResponse,
    ) -> None: ...
