"""A fetcher for kafka-python that returns raw record batches and requests topics by id.

A fetch by name would continue in a topic that was deleted and recreated in the meantime. A fetch by id
(version 13 of the request, Kafka 3.1) is rejected by the broker, so no entry of the new topic is ever read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, TypeAlias
from uuid import UUID

from stream_ctr.errors import LogError
from stream_ctr.events.kafka.client import fetcher, kafka
from stream_ctr.events.kafka.legacy_messages import LegacyMessages
from stream_ctr.events.kafka.record_batches import FetchedBatches, read_fetch
from stream_ctr.events.limits import DEFAULT_LIMITS, ReadLimits
from stream_ctr.events.log import TopicPartition

Batches: TypeAlias = FetchedBatches | LegacyMessages
"""The fetched batches of one partition."""

BY_ID: Final = 13
"""First version of the fetch request that names topics by id."""


class Fetched(fetcher.Fetcher.PartitionRecords):
    """One partition's part of a fetch; returns its batches in one piece, where kafka-python returns records.

    The position moves past all of it at once, so that the next part is requested in the meantime. The reader
    decides how much of a part is in memory, and when.
    """

    limits: ReadLimits = DEFAULT_LIMITS

    def __init__(
        self,
        fetch_offset: int,
        tp: kafka.TopicPartition,
        records: fetcher.MemoryRecords,
        **options: Any,
    ) -> None:
        super().__init__(fetch_offset, tp, records, **options)
        self._content = bytes(records._buffer)

    def take(self, n: int | None = None) -> list[Any]:
        """The batches, once; ignores ``n``."""
        content, self._content = self._content, b""
        if not content:
            self.drain()
            return []
        place, aborted = TopicPartition(*self.topic_partition), self.aborted_transactions
        batches = read_fetch(content, place, self.fetch_offset, self.limits, aborted)
        self.next_fetch_offset, self.leader_epoch = batches.next_offset, batches.leader_epoch
        self.bytes_read = len(content)  # a partition that returned data comes last next time
        self.drain()
        return [batches]


class Fetcher(fetcher.Fetcher):
    """kafka-python's fetcher, which requests topics by id and creates :class:`Fetched`."""

    ids: Mapping[str, UUID]
    """Ids of the topics that are read."""
    most_version: int
    """Highest version of the fetch request to use."""
    version: int
    """Version of the broker's last answer; 0 before the first."""

    def _create_fetch_requests(
        self,
    ) -> dict[int, tuple[fetcher.FetchRequest, Mapping[kafka.TopicPartition, int]]]:
        requests = super()._create_fetch_requests()
        for request, _ in requests.values():
            request._max_version = self.most_version
            for topic in (*request.topics, *request.forgotten_topics_data):
                topic.topic_id = self.ids[topic.topic]
        return requests

    def _handle_fetch_response(
        self,
        node_id: int,
        fetch_offsets: Mapping[kafka.TopicPartition, int],
        send_time: float,
        response: fetcher.FetchResponse,
    ) -> None:
        self.version = response.API_VERSION
        if response.API_VERSION >= BY_ID:
            names = {topic_id: name for name, topic_id in self.ids.items()}
            for topic in response.responses:
                topic.topic = names[topic.topic_id]
        super()._handle_fetch_response(node_id, fetch_offsets, send_time, response)


def _limited(limits: ReadLimits) -> type[Fetched]:
    """A class with the limits as an attribute, because kafka-python creates the instances."""

    class Limited(Fetched):
        pass

    Limited.limits = limits
    return Limited


def install_fetcher(
    consumer: kafka.KafkaConsumer, ids: Mapping[str, UUID], limits: ReadLimits, most_version: int = BY_ID
) -> Fetcher:
    """Make a consumer's ``poll`` return :data:`Batches` and request topics by these ids.

    Raises:
        LogError: the consumer's internals differ from those of kafka-python 3.0.
    """
    installed = consumer._fetcher
    if type(installed) is not fetcher.Fetcher:
        raise LogError("this version of kafka-python is not supported; install kafka-python 3.0")
    installed.__class__ = Fetcher
    assert isinstance(installed, Fetcher)
    installed.ids, installed.most_version, installed.version = ids, most_version, 0
    installed.PartitionRecords = _limited(limits)
    return installed
