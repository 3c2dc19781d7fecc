"""Checks of topics, records and offsets that all logs share, and their errors."""

from __future__ import annotations

import re
from collections.abc import Sequence

from stream_ctr.errors import LogError, OffsetRangeError, PartitionsAddedError
from stream_ctr.events.log import Record, TopicPartition
from stream_ctr.events.partitioner import partition_of

MAX_RECORD_BYTES = 32 * 1024 * 1024
"""Largest total of key and value."""

MAX_PARTITIONS = 10_000

_TOPIC_NAME = re.compile(r"[A-Za-z0-9._-]{1,249}")


def check_topic(url: str, topic: str, partitions: int) -> None:
    """Reject a topic that Kafka would reject, so that a configuration works with either log.

    Raises:
        LogError: the name or the number of partitions is invalid.
    """
    if not _TOPIC_NAME.fullmatch(topic) or topic in {".", ".."}:
        raise LogError(f"{url}: invalid topic name {topic!r}; use 1 to 249 letters, digits, '.', '_' and '-'")
    if not 1 <= partitions <= MAX_PARTITIONS:
        raise LogError(f"{url}: topic {topic!r} must have 1 to {MAX_PARTITIONS} partitions, got {partitions}")


def no_such_topic(url: str, topic: str) -> LogError:
    """The error for a topic that the log does not have."""
    return LogError(
        f"{url}: topic {topic!r} does not exist; check the name, or create it by writing events first"
    )


def other_partitions(url: str, topic: str, there: int, wanted: int) -> LogError:
    """The error for a topic that exists with another number of partitions."""
    return LogError(
        f"{url}: topic {topic!r} has {there} partitions, not {wanted}; "
        f"set partitions = {there}, or use another topic"
    )


def recreated(
    url: str, topic: str, before: str, now: str, log_before: str, log_now: str | None
) -> OffsetRangeError:
    """The error for a topic that was replaced since reading began."""
    if log_now is not None and log_now != log_before:
        what = f"the log was replaced while it was read (id {log_before}, now {log_now})"
    else:
        what = f"topic {topic!r} was deleted and created again while it was read (id {before}, now {now})"
    return OffsetRangeError(
        f"{url}: {what}, so its offsets now denote other events. None of these was read; the last "
        "checkpoint holds the state before them. Restore the topic, or start with a new state folder"
    )


def partitions_added(url: str, topic: str, before: int, now: int) -> PartitionsAddedError:
    """The error for a topic that gained partitions while it was read."""
    return PartitionsAddedError(
        f"{url}: topic {topic!r} now has {now} partitions instead of {before}, and the order of events was "
        f"started without the new ones. The state is saved. Give every input topic {now} partitions, then "
        "start with a new state folder; train --start-from OLD_STATE --start-at last keeps the weights"
    )


def no_such_partition(url: str, place: TopicPartition, partitions: int) -> LogError:
    """The error for a partition number that the topic does not have."""
    return LogError(
        f"{url}: topic {place.topic!r} has no partition {place.partition}, only 0 to {partitions - 1}"
    )


def place_records(url: str, topic: str, records: Sequence[Record], partitions: int) -> list[int]:
    """Check all records and return the partition of each.

    Raises:
        LogError: a record cannot be appended; none of them has been.
    """
    places = []
    for record in records:
        key, value, timestamp_ms, partition, _ = record
        if partition is None:
            partition = partition_of(key, partitions)
        elif not 0 <= partition < partitions:
            raise no_such_partition(url, TopicPartition(topic, partition), partitions)
        if key is None and value is None:
            raise LogError(f"{url}: a record for topic {topic!r} has neither key nor value; give it one")
        if not 0 <= timestamp_ms < 2**63:
            raise LogError(
                f"{url}: a record for topic {topic!r} has timestamp {timestamp_ms} ms; "
                "it must be between 0 (the year 1970) and 2^63 - 1"
            )
        size_bytes = len(key or b"") + len(value or b"")
        if size_bytes > MAX_RECORD_BYTES:
            raise LogError(
                f"{url}: a record for topic {topic!r} has {size_bytes} bytes; the limit is {MAX_RECORD_BYTES}"
            )
        places.append(partition)
    return places


def check_offset(url: str, place: TopicPartition, offset: int, start: int, end: int) -> None:
    """Check that the log can be read from an offset.

    Raises:
        OffsetRangeError: the offset is out of range; the message names the missing offsets.
    """
    where = f"{url}: topic {place.topic!r} partition {place.partition}"
    if offset < start:
        raise OffsetRangeError(
            f"{where} begins at offset {start}, so the entries {offset} to {start - 1} are lost; "
            "skip them explicitly, or start from a state that does not need them"
        )
    if offset > end:
        raise OffsetRangeError(
            f"{where} ends at offset {end}, so the entries {end} to {offset - 1} do not exist; "
            "the offset belongs to another log, or this log was created again"
        )


def beyond_end(url: str, place: TopicPartition, before_offset: int, end: int) -> OffsetRangeError:
    """The error for dropping entries that do not exist yet."""
    return OffsetRangeError(
        f"{url}: topic {place.topic!r} partition {place.partition} ends at offset {end}; "
        f"the entries before offset {before_offset} cannot be dropped"
    )
