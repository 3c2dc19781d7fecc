"""The part of kafka-python 3.0 that Stream CTR uses; the package itself carries no types."""

from collections.abc import Iterable, Mapping, Sequence
from ssl import SSLContext
from typing import Any, NamedTuple, TypedDict
from uuid import UUID

from kafka import admin as admin
from kafka import partitioner as partitioner
from kafka.admin import ConfigResource, UserScramCredentialUpsertion
from kafka.consumer.fetcher import Fetcher
from kafka.protocol.consumer import OffsetSpec

class TopicPartition(NamedTuple):
    topic: str
    partition: int

class OffsetAndTimestamp(NamedTuple):
    offset: int
    timestamp: int
    leader_epoch: int

class ConsumerRecord(NamedTuple):
    topic: str
    partition: int
    leader_epoch: int
    offset: int
    timestamp: int
    timestamp_type: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]]

class PartitionDescription(TypedDict):
    error_code: int
    partition_index: int
    leader_id: int

class TopicDescription(TypedDict):
    error_code: int
    name: str
    topic_id: str | None
    partitions: list[PartitionDescription]

class ClusterDescription(TypedDict):
    cluster_id: str

class KafkaAdminClient:
    def __init__(
        self,
        *,
        bootstrap_servers: Sequence[str],
        bootstrap_timeout_ms: int = ...,
        request_timeout_ms: int = ...,
        reconnect_backoff_max_ms: int = ...,
        security_protocol: str = ...,
        ssl_context: SSLContext | None = ...,
        sasl_mechanism: str = ...,
        sasl_plain_username: str = ...,
        sasl_plain_password: str = ...,
    ) -> None: ...
    def describe_cluster(self) -> ClusterDescription: ...
    def describe_topics(self, topics: Sequence[str] | None = None) -> list[TopicDescription]: ...
    def create_topics(
        self, new_topics: Mapping[str, Mapping[str, object]], *, wait_for_metadata: bool = False
    ) -> dict[str, object]: ...
    def wait_for_topics(self, topic_names: Sequence[str], timeout_ms: float = 10000) -> None: ...
    def create_partitions(self, topic_partitions: Mapping[str, int]) -> object: ...
    def describe_configs(
        self, config_resources: Sequence[ConfigResource], *, config_filter: str = ...
    ) -> dict[str, dict[str, dict[str, dict[str, str | None]]]]: ...
    def delete_topics(self, topics: Sequence[str]) -> dict[str, object]: ...
    def list_partition_offsets(
        self, topic_partition_specs: Mapping[TopicPartition, OffsetSpec], *, timeout_ms: float | None = None
    ) -> dict[TopicPartition, OffsetAndTimestamp]: ...
    def alter_user_scram_credentials(
        self, alterations: Sequence[UserScramCredentialUpsertion]
    ) -> dict[str, str | None]: ...
    def delete_records(
        self, records_to_delete: Mapping[TopicPartition, int]
    ) -> dict[TopicPartition, Mapping[str, int]]: ...
    def close(self) -> None: ...

class RecordFuture:
    exception: BaseException | None
    def succeeded(self) -> bool: ...

class Sender:
    def force_close(self) -> None: ...
    def join(self, timeout: float | None = None) -> None: ...

class KafkaProducer:
    _sender: Sender
    def __init__(
        self,
        *,
        bootstrap_servers: Sequence[str],
        bootstrap_timeout_ms: int = ...,
        acks: int | str = ...,
        compression_type: str | None = ...,
        enable_idempotence: bool = ...,
        transactional_id: str | None = ...,
        delivery_timeout_ms: int = ...,
        request_timeout_ms: int = ...,
        max_block_ms: int = ...,
        linger_ms: int = ...,
        batch_size: int = ...,
        max_request_size: int = ...,
        reconnect_backoff_max_ms: int = ...,
        allow_auto_create_topics: bool = ...,
        metrics_enabled: bool = ...,
        security_protocol: str = ...,
        ssl_context: SSLContext | None = ...,
        sasl_mechanism: str = ...,
        sasl_plain_username: str = ...,
        sasl_plain_password: str = ...,
    ) -> None: ...
    def send(
        self,
        topic: str,
        value: bytes | None = None,
        key: bytes | None = None,
        headers: Sequence[tuple[str, bytes]] | None = None,
        partition: int | None = None,
        timestamp_ms: int | None = None,
    ) -> RecordFuture: ...
    def flush(self, timeout: float | None = None) -> None: ...
    def init_transactions(self) -> None: ...
    def begin_transaction(self) -> None: ...
    def commit_transaction(self) -> None: ...
    def abort_transaction(self) -> None: ...
    def close(self, timeout: float | None = None) -> None: ...

class ClusterMetadata:
    cluster_id: str | None
    def topic_id(self, topic_name: str) -> UUID | None: ...
    def partitions_for_topic(self, topic: str) -> set[int] | None: ...

class KafkaConsumer:
    _fetcher: Fetcher
    _cluster: ClusterMetadata
    def __init__(
        self,
        *,
        bootstrap_servers: Sequence[str],
        group_id: str | None = None,
        enable_auto_commit: bool = ...,
        auto_offset_reset: str = ...,
        isolation_level: str = ...,
        allow_auto_create_topics: bool = ...,
        request_timeout_ms: int = ...,
        reconnect_backoff_max_ms: int = ...,
        metadata_max_age_ms: int = ...,
        fetch_max_bytes: int = ...,
        max_partition_fetch_bytes: int = ...,
        metrics_enabled: bool = ...,
        security_protocol: str = ...,
        ssl_context: SSLContext | None = ...,
        sasl_mechanism: str = ...,
        sasl_plain_username: str = ...,
        sasl_plain_password: str = ...,
    ) -> None: ...
    def assign(self, partitions: Iterable[TopicPartition]) -> None: ...
    def seek(self, partition: TopicPartition, offset: int) -> None: ...
    def poll(
        self, timeout_ms: float = 0, max_records: int | None = None
    ) -> dict[TopicPartition, list[Any]]: ...
    def pause(self, *partitions: TopicPartition) -> None: ...
    def resume(self, *partitions: TopicPartition) -> None: ...
    def position(self, partition: TopicPartition) -> int | None: ...
    def highwater(self, partition: TopicPartition) -> int | None: ...
    def end_offsets(
        self, partitions: Iterable[TopicPartition], timeout_ms: float | None = None
    ) -> dict[TopicPartition, int]: ...
    def close(self) -> None: ...
