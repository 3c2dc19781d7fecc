"""The position at which an interrupted writer stopped, derived from the log itself.

A writer's records and their partitions are deterministic, so each partition holds a prefix of its own
sequence. To resume, the writer generates the sequence again and skips the records that are already there.
A kill may stop the partitions at different positions; each is continued at its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from stream_ctr.errors import LogError
from stream_ctr.events.log import Entry, EventLog, TopicPartition

READ_TIMEOUT_SECONDS: Final = 30.0
"""Time for the log to return an entry below its end offset."""


@dataclass
class Held:
    """The records that one partition already holds."""

    remaining: int | None
    """Records still to skip; None: skip up to the record with the key of ``last``."""
    last: Entry | None
    """The partition's last entry; None if retention has deleted it."""


class Position:
    """The records that the topics already hold, by topic and partition."""

    def __init__(self, log: EventLog, topics: tuple[str, str]) -> None:
        self._url = log.url
        self._held: dict[tuple[str, int], Held] = {}
        self.empty_partitions = False
        for topic in topics:
            starts = log.start_offsets(topic)
            for partition, end in log.end_offsets(topic).items():
                if end == 0:
                    self.empty_partitions = True
                    continue
                last = read_entry(log, topic, partition, end - 1) if end > starts[partition] else None
                self._held[topic, partition] = Held(end, last)

    @property
    def complete(self) -> bool:
        """Whether every record that the log holds has been passed."""
        return not self._held

    @property
    def records(self) -> int:
        """Number of records that the log held at the start and that have not been passed."""
        return sum(held.remaining or 0 for held in self._held.values())

    def last_entries(self) -> list[Entry] | None:
        """The last entry of every partition that ever had one; None if retention has deleted any of them."""
        entries = [held.last for held in self._held.values()]
        return None if None in entries else [entry for entry in entries if entry is not None]

    def count_by_key(self) -> None:
        """Find the position by each partition's last key, for a source that starts after the first record."""
        for held in self._held.values():
            held.remaining = None

    def passes(self, topic: str, partition: int) -> Held | None:
        """The held records of this partition that are not passed yet; None if the next record is new."""
        return self._held.get((topic, partition))

    def check(self, topic: str, partition: int, held: Held, key: bytes, value: bytes) -> None:
        """Pass the partition's last record, which must equal the record in the log.

        Raises:
            LogError: they differ: the log was written by another program or with other options.
        """
        if held.last is not None and (held.last.key, held.last.value) != (key, value):
            difference = "its content differs" if held.last.key == key else f"expected {_describe(key)}"
            raise LogError(
                f"{self._url}: cannot resume: the last record of topic {topic!r} partition {partition} is "
                f"{_describe(held.last.key)}, {difference}. Resume with the same data, seed, rate, start and "
                "delays, or write to other topics"
            )
        del self._held[topic, partition]

    def unreached(self) -> LogError:
        """The error for a source that yields less than the log holds."""
        (topic, partition), held = next(iter(self._held.items()))
        key = held.last.key if held.last else None
        return LogError(
            f"{self._url}: cannot resume: topic {topic!r} partition {partition} ends with {_describe(key)}, "
            "which this command does not write. Resume with the same data, limit, seed, rate, start and "
            "delays, or write to other topics"
        )


def read_entry(log: EventLog, topic: str, partition: int, offset: int) -> Entry:
    """One entry by its offset.

    Raises:
        LogError: the log does not return it in time.
    """
    reader = log.reader({TopicPartition(topic, partition): offset})
    try:
        entries = reader.poll(1, READ_TIMEOUT_SECONDS)
    finally:
        reader.close()
    if not entries:
        raise LogError(
            f"{log.url}: no response within {READ_TIMEOUT_SECONDS:g} s for topic {topic!r} "
            f"partition {partition} offset {offset}; retry when the log is reachable"
        )
    return entries[0]


def _describe(key: bytes | None) -> str:
    return "a record without a key" if key is None else repr(key.decode(errors="replace"))
