"""Where an interrupted writer stopped, found from the log itself.

What a writer writes is deterministic, and so is the partition of every record. Each partition therefore
holds a beginning of its own sequence, and to resume is to make the sequence again and leave out what is
there. A kill may leave the partitions at different places; each is continued at its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from stream_ctr.errors import LogError
from stream_ctr.events.log import Entry, EventLog, TopicPartition

READ_TIMEOUT_SECONDS: Final = 30.0
"""Time for the log to give an entry that its end offset says is there."""


@dataclass
class Held:
    """What one partition holds already."""

    remaining: int | None
    """Records still to leave out; None: up to the one with ``last``'s key."""
    last: Entry | None
    """The partition's last entry; None where it has been trimmed away."""


class Position:
    """What the topics hold already, by topic and partition."""

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
        """Whether everything that the log holds has been passed."""
        return not self._held

    @property
    def records(self) -> int:
        """Records that the log held at the start and that have not been passed."""
        return sum(held.remaining or 0 for held in self._held.values())

    def last_entries(self) -> list[Entry] | None:
        """The last entry of every partition that ever had one; None where one is trimmed away."""
        entries = [held.last for held in self._held.values()]
        return None if None in entries else [entry for entry in entries if entry is not None]

    def count_by_key(self) -> None:
        """Recognise the position by each partition's last key: for a source that starts in between."""
        for held in self._held.values():
            held.remaining = None

    def passes(self, topic: str, partition: int) -> Held | None:
        """The part that still stands in front of this record, or None when the record is new."""
        return self._held.get((topic, partition))

    def check(self, topic: str, partition: int, held: Held, key: bytes, value: bytes) -> None:
        """Pass the partition's last record, which must be the very one that is there.

        Raises:
            LogError: it is another: the log was written by something else, or with other options.
        """
        if held.last is not None and (held.last.key, held.last.value) != (key, value):
            other = "with other content" if held.last.key == key else f"not {_shown(key)} as written here"
            raise LogError(
                f"{self._url}: cannot resume: the last record of topic {topic!r} partition {partition} is "
                f"{_shown(held.last.key)}, {other}. Resume with the same data, seed, rate, start and "
                "delays, or write to other topics"
            )
        del self._held[topic, partition]

    def unreached(self) -> LogError:
        """The error when the source gives less than the log holds."""
        (topic, partition), held = next(iter(self._held.items()))
        key = held.last.key if held.last else None
        return LogError(
            f"{self._url}: cannot resume: topic {topic!r} partition {partition} goes on to {_shown(key)}, "
            "which this command does not write. Resume with the same data, limit, seed, rate, start and "
            "delays, or write to other topics"
        )


def read_entry(log: EventLog, topic: str, partition: int, offset: int) -> Entry:
    """One entry by its offset.

    Raises:
        LogError: the log does not give it in time.
    """
    reader = log.reader({TopicPartition(topic, partition): offset})
    try:
        entries = reader.poll(1, READ_TIMEOUT_SECONDS)
    finally:
        reader.close()
    if not entries:
        raise LogError(
            f"{log.url}: no answer within {READ_TIMEOUT_SECONDS:g} s for topic {topic!r} "
            f"partition {partition} offset {offset}; try again when the log is reachable"
        )
    return entries[0]


def _shown(key: bytes | None) -> str:
    return "a record without key" if key is None else repr(key.decode(errors="replace"))
