"""How far a stage has applied the order: number of the last entry, offset of each partition, rejected
entries.

The digest of each partition's last entry reveals a log that was recreated or rewritten.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from stream_ctr.errors import StateError
from stream_ctr.events.log import Entry, TopicPartition
from stream_ctr.pipeline.ordering.entry import OrderedEntry, OrderState
from stream_ctr.state.state import Json


@dataclass(slots=True)
class _Partition:
    """How far one partition is applied."""

    position: int = 0
    time_ms: int = 0
    digest: str = ""
    last: Entry | None = None

    def current_digest(self) -> str:
        return self.digest if self.last is None else entry_digest(self.last)


class Progress:
    """Where a stage is in the order of its partitions, and which entries it rejected.

    >>> progress = Progress([TopicPartition("clicks", 0)])
    >>> entry = Entry("clicks", 0, 7, 0, b"a", b"b")
    >>> progress.note([OrderedEntry(0, 5, 5, 0, entry, None, "no record")])
    >>> progress.positions()
    {TopicPartition(topic='clicks', partition=0): 8}
    """

    def __init__(self, partitions: Iterable[TopicPartition]) -> None:
        self._partitions = {tp: _Partition() for tp in partitions}
        self.applied = 0
        """Entries applied, end marks included."""
        self.skipped = 0
        """Entries that the log had deleted before they were read."""
        self.rejected = 0
        """Entries that gave no usable record."""
        self._unreported: list[tuple[Entry, str]] = []
        self._time_ms = 0
        self._decisions = 0
        self._ahead = (0, 0)

    def positions(self) -> dict[TopicPartition, int]:
        """Offset of the next entry of each partition."""
        return {tp: item.position for tp, item in self._partitions.items()}

    def digests(self) -> dict[TopicPartition, str]:
        """Digest of the last applied entry of each partition that had one: that at position - 1."""
        return {tp: d for tp, item in self._partitions.items() if (d := item.current_digest())}

    def begin(self, positions: Mapping[TopicPartition, int]) -> None:
        """Start from these offsets instead of 0.

        Raises:
            StateError: entries were already applied, or a partition is not one of these.
        """
        if self.applied or positions.keys() - self._partitions.keys():
            raise StateError("a pipeline begins at given offsets of its own partitions, before any entry")
        for tp, position in positions.items():
            self._partitions[tp].position = position

    def skip(self, positions: Mapping[TopicPartition, int]) -> None:
        """Go on at later offsets of some partitions; the entries up to there are lost, and counted."""
        for tp, position in positions.items():
            before = self._partitions[tp]
            self.skipped += position - before.position
            self._partitions[tp] = _Partition(position, before.time_ms)

    def check_next(self, entries: Sequence[OrderedEntry]) -> None:
        """Raises StateError unless these are the entries that follow the ones applied so far."""
        if entries[0].number != self.applied or entries[-1].number != self.applied + len(entries) - 1:
            raise StateError(
                f"entry {self.applied} of the order must follow, not {entries[0].number}: order and "
                "pipeline were not restored from the same checkpoint"
            )

    def note(self, entries: Sequence[OrderedEntry]) -> None:
        """These were applied."""
        last = entries[-1]
        self.applied, self._time_ms, self._decisions = last.number + 1, last.time_ms, last.decisions
        self._ahead = last.ahead
        latest = {o.entry[:2]: o for o in entries if o.entry is not None}
        for ordered in latest.values():
            entry = ordered.entry
            if entry is not None:
                item = self._partitions[TopicPartition(entry.topic, entry.partition)]
                item.position = entry.offset + 1
                item.time_ms = ordered.partition_time_ms
                item.last = entry

    def reject(self, entry: Entry, reason: str) -> None:
        """Count an entry that gives no usable record, with the reason for its dead letter."""
        self.rejected += 1
        self._unreported.append((entry, reason))

    def take_rejected(self) -> list[tuple[Entry, str]]:
        """The entries rejected since the last call, each with its reason."""
        taken, self._unreported = self._unreported, []
        return taken

    def order_state(self) -> OrderState:
        """Where the order goes on after the entries applied so far."""
        return OrderState(
            self.applied,
            self._time_ms,
            self._decisions,
            {tp: item.time_ms for tp, item in self._partitions.items()},
            self.positions(),
            self._ahead,
        )

    def values(self) -> dict[str, Json]:
        """All of it, for a checkpoint."""
        partitions: list[Json] = [
            [tp.topic, tp.partition, item.position, item.time_ms, item.current_digest()]
            for tp, item in self._partitions.items()
        ]
        return {
            "applied": self.applied,
            "time_ms": self._time_ms,
            "decisions": self._decisions,
            "skipped": self.skipped,
            "ahead": list(self._ahead),
            "partitions": partitions,
            "rejected": self.rejected,
        }

    def loaded(self, values: Mapping[str, Json]) -> Progress:
        """The progress that handed out ``values``; this one stays as it is.

        Raises:
            StateError: they are damaged, or belong to other topics or partitions.
        """
        try:
            partitions = _read_partitions(values["partitions"])
            names = ("applied", "time_ms", "decisions", "rejected")
            read = [*(values[name] for name in names), values.get("skipped", 0)]
            applied, time_ms, decisions, rejected, skipped = (n for n in read if isinstance(n, int))
            ahead = _read_ahead(values.get("ahead", [0, 0]))
        except (KeyError, TypeError, ValueError):
            raise StateError("saved order is damaged: a number of it is missing") from None
        if partitions.keys() != self._partitions.keys():
            raise StateError(
                f"saved positions are of {_named(partitions)}, the configuration reads "
                f"{_named(self._partitions)}; topics and partition counts cannot change under a state"
            )
        progress = Progress(())
        progress._partitions = partitions
        progress.applied, progress.skipped, progress.rejected = applied, skipped, rejected
        progress._time_ms, progress._decisions, progress._ahead = time_ms, decisions, ahead
        return progress


def _read_partitions(table: Json) -> dict[TopicPartition, _Partition]:
    if not isinstance(table, list):
        raise TypeError("partitions are no list")
    partitions: dict[TopicPartition, _Partition] = {}
    for item in table:
        match item:
            # Checkpoints of version 0.1 hold two more numbers, which no longer decide anything.
            case [str(topic), int(number), int(position), int(time_ms), str(digest), *_]:
                name = TopicPartition(topic, number)
                partitions[name] = _Partition(position, time_ms, digest)
            case _:
                raise ValueError("a partition lacks a part")
    return partitions


def _read_ahead(pair: Json) -> tuple[int, int]:
    match pair:
        case [int(run), int(least_ms)]:
            return run, least_ms
    raise ValueError("ahead is not a pair of numbers")


def _named(partitions: Mapping[TopicPartition, _Partition]) -> str:
    return ", ".join(f"{tp.topic}[{tp.partition}]" for tp in sorted(partitions))


def entry_digest(entry: Entry) -> str:
    """64 bits of BLAKE2b over key and value, in hex.

    >>> entry_digest(Entry("clicks", 0, 7, 0, b"a", b"b"))
    '3f4fe1ae500f3df3'
    """
    digest = hashlib.blake2b(digest_size=8)
    for part in (entry.key, entry.value):
        # The length goes first, so that no other split of the same bytes is the same; null has none.
        digest.update(b"null;" if part is None else b"%d;" % len(part))
        digest.update(part or b"")
    return digest.hexdigest()
