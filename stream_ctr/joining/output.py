"""Output of the joining process: writes each sequence number to the labelled topic once, in order.

Each record carries its sequence number, so the last record of a partition shows which records the topic
already holds. These are not written again, whether they were written before a restart or by an append whose
acknowledgement was lost.
"""

from __future__ import annotations

from collections.abc import Iterable

from stream_ctr.errors import LogError
from stream_ctr.events.dead_letter_replay import REPLAYED_HEADER
from stream_ctr.events.log import Entry, EventLog, TopicPartition
from stream_ctr.joining.pipeline import SequencedRecord
from stream_ctr.pipeline.decoding.labelled import sequence_of

MAX_WAITING = 20_000
"""Maximum number of pending records while the log is unavailable; beyond it, reading pauses."""
_POLL_SECONDS = 10.0


class JoinOutput:
    """Appends labelled records to a topic of which this process is the only writer.

    Raises:
        LogError: the topic cannot be read, or its last record was not written by a joining process.
    """

    def __init__(self, log: EventLog, topic: str) -> None:
        self._log, self.topic = log, topic
        self._waiting: list[SequencedRecord] = []
        self._in_doubt = False
        self.last = self._read_back()
        """Sequence number of the last record of each partition; -1 for an empty one."""
        self.written = 0
        """Records that this run wrote."""
        self.there_before = 0
        """Records that were already in the topic."""

    @property
    def waiting(self) -> int:
        """Number of records that the log has not acknowledged."""
        return len(self._waiting)

    @property
    def due(self) -> bool:
        """Whether there are records to write."""
        return bool(self._waiting)

    @property
    def full(self) -> bool:
        """Whether reading must pause until records are written."""
        return len(self._waiting) >= MAX_WAITING

    def add(self, records: Iterable[SequencedRecord]) -> None:
        """Add the next records; the next :meth:`flush` writes them."""
        self._waiting += records

    def flush(self) -> None:
        """Append the pending records that are not in the topic yet.

        Raises:
            LogError: the log did not acknowledge them; they stay pending, and the next flush reads back what
                the topic holds.
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
                    f"{self._log.url}: {name} was emptied, so its last sequence number is unknown. Set "
                    "log.labelled to a new topic with longer retention and train.state to a new folder"
                )
            sequence = self._last_sequence(partition, starts[partition], end)
            if sequence is None:
                raise LogError(
                    f"{self._log.url}: the last record in {name} was not written by stream-ctr join. Set "
                    "log.labelled to a topic of its own"
                )
            last[partition] = sequence
        return last

    def _last_sequence(self, partition: int, start: int, end: int) -> int | None:
        """Sequence number of a partition's last record, ignoring replayed dead letters.

        None if that record has no sequence number; -1 if there is no such record.
        """
        first = end
        while first > start:
            before, first = first, max(start, end - 16 * (end - first + 1))
            entries = self._entries(partition, first, before)
            written = [entry for entry in entries if not any(n == REPLAYED_HEADER for n, _ in entry.headers)]
            if written:
                return sequence_of(written[-1].value)
        return -1

    def _entries(self, partition: int, first: int, end: int) -> list[Entry]:
        """The entries from offset ``first`` up to, but not including, ``end``."""
        place = TopicPartition(self.topic, partition)
        found: list[Entry] = []
        reader = self._log.reader({place: first})
        try:
            while reader.positions()[place] < end:
                entries = reader.poll(end - reader.positions()[place], _POLL_SECONDS)
                found += entries
                if not entries and reader.positions()[place] < end:
                    raise LogError(
                        f"{self._log.url}: topic {self.topic!r} partition {partition} did not return entry "
                        f"{reader.positions()[place]} within {_POLL_SECONDS:g} s; try again"
                    )
        finally:
            reader.close()
        return found
