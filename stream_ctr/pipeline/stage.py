"""What the two stages have in common: the join stage, and the stage over a topic of labelled impressions."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, Protocol

from stream_ctr.events.log import TopicPartition
from stream_ctr.pipeline.joining.delays import DelayCounts
from stream_ctr.pipeline.joining.segments import SegmentName
from stream_ctr.pipeline.ordering.progress import Progress
from stream_ctr.state.state import State


class JoinNumbers(NamedTuple):
    """Figures of a joiner, for Prometheus. They are all 0 where another process joins."""

    memory_bytes: int = 0
    segment_bytes: int = 0
    joined_value: float = 0.0
    """Sum of the values of the clicks that made positives."""
    delay_counts: tuple[int, ...] = tuple(DelayCounts().counts)
    """Joined clicks by their delay after the impression; the buckets are those of
    :class:`~stream_ctr.pipeline.joining.delays.DelayCounts`."""
    delay_sum_seconds: float = 0.0


class Stage(Protocol):
    """Where the entries of the order become impressions and labels."""

    progress: Progress
    """How far the order is applied."""

    @property
    def watermark_ms(self) -> int:
        """Time of the order, in event time."""
        ...

    @property
    def open_impressions(self) -> int:
        """Impressions that wait for their label."""
        ...

    @property
    def outcomes(self) -> dict[str, int]:
        """Counters of entries, impressions and clicks."""
        ...

    def segments(self) -> list[SegmentName]:
        """Files that a checkpoint must keep."""
        ...

    def numbers(self) -> JoinNumbers:
        """Figures of the joiner."""
        ...

    def parts(self) -> dict[str, State]:
        """Everything that decides what comes next, by part."""
        ...

    def load_parts(self, state: State) -> None:
        """Become the stage whose :meth:`parts` were gathered into ``state``."""
        ...


def topic_partitions(topics: Iterable[str], partitions: int) -> list[TopicPartition]:
    """All partitions of topics that have ``partitions`` each.

    >>> topic_partitions(["clicks"], 2)
    [TopicPartition(topic='clicks', partition=0), TopicPartition(topic='clicks', partition=1)]
    """
    return [TopicPartition(topic, number) for topic in topics for number in range(partitions)]
