"""The labelled topic as the joining process writes it: every sequence once, in order.

What is in the topic is told from the topic itself: each record carries its sequence, so the last record of
a partition says how far it goes. A record up to there is not written again, whether it was written before a
restart or by an append whose acknowledgement was lost.
"""

from __future__ import annotations

from collections.abc import Iterable

from stream_ctr.errors import LogError
from stream_ctr.events.dead_letter_replay import REPLAYED_HEADER
from stream_ctr.events.log import Entry, EventLog, TopicPartition
from stream_ctr.joining.pipeline import SequencedRecord
from stream_ctr.pipeline.decoding.labelled import sequence_of

MAX_WAITING = 20_000
"""Records that may wait while the log takes none; then reading waits, too."""
_POLL_SECONDS = 10.0


class JoinOutput:
    """Appends labelled records to a topic of which this process is the only writer.

    Raises:
        LogError: the topic cannot be read, or its last record is not one of a joining process.
    """

    def __init__(self, log: EventLog, topic: str) -> None:
        self._log, self.topic = log, topic
        self._waiting: list[SequencedRecord] = []
        self._in_doubt = False
        self.last = self._read_back()
        """Sequence of the last record in each partition; -1 in an empty one."""
        self.written = 0
        """Records that this process wrote."""
        self.there_before = 0
        """Records that were in the topic already."""

    @property
    def waiting(self) -> int:
        """Records that are not yet acknowledged."""
        return len(self._waiting)

    @property
    def due(self) -> bool:
        """Whether there are records to write."""
        return bool(self._waiting)

    @property
    def full(self) -> bool:
        """Whether so many wait that reading must wait, too."""
        return len(self._waiting) >= MAX_WAITING

    def add(self, records: Iterable[SequencedRecord]) -> None:
        """Take the next records; they are in the log after the next ``flush``."""
        self._waiting += records

    def flush(self) -> None:
        """Append what waits and is not in the topic; the log has acknowledged it when this returns.

        Raises:
            LogError: not acknowledged; what waits still waits, and the next flush looks what is there.
        """
        if not self._waiting:
            return
        if self._in_doubt:
            self.last = self._read_back()
        fresh = [item for item in self._waiting if item.sequence > self.last[item.partition]]
        self.there_before += len(self._waiting) - len(fresh)
        self._waiting = fresh
        self._in_doubt = True
        self._log.append(self.topic, [item.record for item in fresh])
        self._in_doubt = False
        for item in fresh:
            self.last[item.partition] = item.sequence
        self.written += len(fresh)
        self._waiting = []

    def _read_back(self) -> dict[int, int]:
        starts, ends = self._log.start_offsets(self.topic), self._log.end_offsets(self.topic)
        last = dict.fromkeys(ends, -1)
        for partition, end in ends.items():
            if end == 0:
                continue
            name = f"topic {self.topic!r} partition {partition}"
            if end == starts[partition]:
                raise LogError(
                    f"{self._log.url}: {name} was emptied: how far the labelled records go cannot be told. "
                    "Keep the last record, or name another topic in log.labelled and another state folder"
                )
            sequence = self._last_sequence(partition, starts[partition], end)
            if sequence is None:
                raise LogError(
                    f"{self._log.url}: the last record of {name} is none of stream-ctr join: something else "
                    "writes there. Name another topic in log.labelled"
                )
            last[partition] = sequence
        return last

    def _last_sequence(self, partition: int, start: int, end: int) -> int | None:
        """Sequence of a partition's last record, replayed dead letters apart; None where it has none."""
        first = end
        while first > start:
            before, first = first, max(start, end - 16 * (end - first + 1))
            entries = self._entries(partition, first, before)
            written = [entry for entry in entries if not any(n == REPLAYED_HEADER for n, _ in entry.headers)]
            if written:
                return sequence_of(written[-1].value)
        return -1

    def _entries(self, partition: int, first: int, end: int) -> list[Entry]:
        """The entries from one offset to before another."""
        place = TopicPartition(self.topic, partition)
        found: list[Entry] = []
        reader = self._log.reader({place: first})
        try:
            while reader.positions()[place] < end:
                entries = reader.poll(end - reader.positions()[place], _POLL_SECONDS)
                found += entries
                if not entries and reader.positions()[place] < end:
                    raise LogError(
                        f"{self._log.url}: topic {self.topic!r} partition {partition} did not give entry "
                        f"{reader.positions()[place]} in {_POLL_SECONDS:g} s; try again"
                    )
        finally:
            reader.close()
        return found
