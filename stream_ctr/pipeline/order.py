"""One order for the entries of all partitions of both topics.

Entries merge by (event time, topic rank, partition, offset). The rank of a topic is its place in the
list the order was made with: impressions come before clicks, so that at equal times an impression comes
before its click. Within a partition event time counts as the largest seen so far: it never descends. An
entry that is no record takes its partition's latest time.

A record that is further ahead of its partition's time than ``max_lead_seconds`` does not move it, however
it was stamped: it takes its place at the partition's time. Only when AGREEING records in a row are that far
ahead, time moves on, to the least of them. So one producer with a wrong clock closes nobody's windows, and
after a true silence of the whole partition nothing is lost: its windows close some records later.

The next entry is known only when every partition that is not idle has an entry waiting. Which partitions
are idle is decided with the wall clock, by the caller, and takes effect through the journal; so the
order is a function of the log's contents and the journal. An entry that comes too late for its time
(its partition was idle) is emitted next, at the time of the order: the order's time never descends.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterable, Sequence

from stream_ctr.errors import LogError, StateError
from stream_ctr.events.log import Entry, TopicPartition
from stream_ctr.features.scanner import RecordScanner
from stream_ctr.pipeline.decode import EntryDecoder, RecordDecoder
from stream_ctr.pipeline.journal import Change, Decision, Journal
from stream_ctr.pipeline.line import Line, Waiting
from stream_ctr.pipeline.ordered import OrderedEntry, OrderState
from stream_ctr.pipeline.scanned import BatchDecoder


class Order:
    """Merges the entries of all partitions.

    The life of it: :meth:`add` what the log gave, :meth:`emit` what is certain; :meth:`idle` for those
    of :meth:`waiting_for` that have been silent for too long; :meth:`finish` at the end of a finite log.

    Args:
        topics: impressions, clicks; the sequence is their rank.
        start: where to begin, from the pipeline's state. Entries are added from its positions on.
        journal: the journal of that same run. Its decisions from ``start.emitted`` on are repeated
            first; until they are through no new ones are made.
        max_ahead_seconds: a record further ahead of its log timestamp than this is rejected.
        max_lead_seconds: a record further ahead of its partition than this does not move its time alone.
        scanner: of the schema that the impressions are for; with it, reading takes a third of the time.
        decoder: reads the entries instead of the one for impressions and clicks.

    Raises:
        StateError: the journal does not belong to that state.
    """

    def __init__(
        self,
        topics: Sequence[str],
        start: OrderState,
        journal: Journal,
        max_ahead_seconds: float = float("inf"),
        max_lead_seconds: float = float("inf"),
        scanner: RecordScanner | None = None,
        decoder: EntryDecoder | None = None,
    ) -> None:
        self._journal = journal
        self._max_lead_ms = max_lead_seconds * 1000.0
        self._decoder = BatchDecoder(decoder or RecordDecoder(topics[0], max_ahead_seconds), scanner)
        base = journal.base_at(start.emitted)
        if base.decisions != start.decisions:
            raise StateError(
                f"{journal}: holds {base.decisions} decisions before emission count {start.emitted}, the "
                f"checkpoint rests on {start.decisions}: they are not of the same run. Restore the journal "
                "that was saved with this checkpoint"
            )
        self._lines: dict[tuple[str, int], Line] = {
            tp: Line(topics.index(tp.topic), tp, time_ms, start.positions[tp], deque(), tp in base.idle)
            for tp, time_ms in start.partition_times.items()
        }
        for tp, lead in start.leads.items():
            self._lines[tp].lead = lead
        self._emitted = start.emitted
        self._time_ms = start.time_ms
        self._decisions = base.decisions
        self._pending = deque(d for d in journal.decisions() if d.at >= start.emitted)
        named = base.idle.union(d.partition for d in self._pending if d.partition is not None)
        for tp in sorted(named - self._lines.keys()):
            raise StateError(f"{journal}: names {tp.topic}[{tp.partition}], which is not read here")
        self._heads: list[Waiting] = []
        self._silent: set[TopicPartition] = set()
        self._arrived: set[TopicPartition] = set()
        self._buffered = 0
        self._rebuild()

    @property
    def emitted(self) -> int:
        """Entries emitted, the end marks included."""
        return self._emitted

    @property
    def time_ms(self) -> int:
        """Time of the order: event time of the last entry, as far as time goes forward."""
        return self._time_ms

    @property
    def buffered(self) -> int:
        """Entries added and not emitted."""
        return self._buffered

    @property
    def replaying(self) -> bool:
        """Whether decisions of the journal are still ahead."""
        return bool(self._pending)

    def waiting_for(self) -> list[TopicPartition]:
        """Partitions, neither idle nor with an entry waiting, that hold up the next entry."""
        return sorted(self._silent)

    def idle_partitions(self) -> list[TopicPartition]:
        """Partitions that are not waited for."""
        return sorted(line.name for line in self._lines.values() if line.idle)

    def add(self, entries: Iterable[Entry]) -> None:
        """Put entries in line; those of one partition come in the order of their offsets.

        Raises:
            LogError: an entry comes twice, out of order, or of a partition that is not read here.
            StateError: an idle partition's return cannot be journalled.
        """
        heads_change = False
        entries = list(entries)
        for entry, (record, reason, row) in zip(entries, self._decoder.decode(entries), strict=True):
            line = self._lines.get(entry[:2])
            if line is None or entry.offset < line.position:
                raise self._unexpected(entry)
            line.position = entry.offset + 1
            if record is not None:
                line.see(record.ts_ms, self._max_lead_ms)
            place = (line.read_time_ms, line.rank, entry.partition, entry.offset)
            line.waiting.append(Waiting(*place, entry, record, reason, line.lead, row))
            self._buffered += 1
            if len(line.waiting) == 1:
                heads_change = True
        if heads_change:
            self._rebuild()
            self._welcome()

    def emit(self, max_entries: int) -> list[OrderedEntry]:
        """The next entries of the order, as far as they are certain.

        Raises:
            StateError: an idle partition's return cannot be journalled.
        """
        self._journal.settle()
        emitted: list[OrderedEntry] = []
        while len(emitted) < max_entries:
            if self._pending and self._repeat(emitted):
                continue
            if self._arrived:
                self._welcome()
            if self._silent or not self._heads:
                break
            emitted.append(self._next())
        return emitted

    def idle(self, partitions: Iterable[TopicPartition]) -> list[TopicPartition]:
        """Decide that these partitions are not waited for, from here on until they have an entry.

        Does nothing while the journal is repeated, and nothing for a partition with an entry waiting.
        Returns the partitions that became idle.

        Raises:
            StateError: the decision cannot be journalled, and is not made.
        """
        if self._pending:
            return []
        silent = sorted(self._silent.intersection(partitions))
        self._decide("idle", silent)
        return silent

    def finish(self) -> list[OrderedEntry]:
        """Decide that the log ends here: all entries that wait, then the end mark, which closes windows.

        Call it when every partition has been read to its end. Entries that come later are taken, at the
        time of the order. While the journal is repeated, only what is certain is emitted and no end mark
        made: call it again.

        Raises:
            StateError: a decision cannot be journalled. What was emitted is lost to the caller: stop.
        """
        entries = self.emit(self._buffered + len(self._pending))
        while self._buffered and not self._pending:
            self.idle(self._silent)
            entries += self.emit(self._buffered)
        if not self._pending:
            self._journal.append([Decision(self._emitted, "end", None)])
            self._decisions += 1
            entries.append(self._end())
        return entries

    def _next(self) -> OrderedEntry:
        head = self._heads[0]
        line = self._lines[head.entry[:2]]
        line.waiting.popleft()
        if line.waiting:
            heapq.heapreplace(self._heads, line.waiting[0])
        else:
            heapq.heappop(self._heads)
            self._silent.add(line.name)
        self._buffered -= 1
        self._time_ms = max(self._time_ms, head.time_ms)
        self._emitted += 1
        return OrderedEntry(
            self._emitted - 1,
            self._time_ms,
            head.time_ms,
            self._decisions,
            head.entry,
            head.record,
            head.reason,
            head.lead,
            head.row,
        )

    def _end(self) -> OrderedEntry:
        self._emitted += 1
        return OrderedEntry(self._emitted - 1, self._time_ms, self._time_ms, self._decisions, None, None, "")

    def _repeat(self, emitted: list[OrderedEntry]) -> bool:
        """Apply the journal's next decision if its place is here; True if there was one."""
        if self._pending[0].at != self._emitted:
            return False
        decision = self._pending.popleft()
        self._decisions += 1
        if decision.partition is None:
            emitted.append(self._end())
        else:
            self._lines[decision.partition].idle = decision.change == "idle"
            self._rebuild()
        return True

    def _welcome(self) -> None:
        """End the idleness of partitions that have an entry, unless the journal is yet to say when."""
        if self._arrived and not self._pending:
            self._decide("active", sorted(self._arrived))

    def _decide(self, change: Change, partitions: Sequence[TopicPartition]) -> None:
        if partitions:
            self._journal.append([Decision(self._emitted, change, tp) for tp in partitions])
            self._decisions += len(partitions)
            for tp in partitions:
                self._lines[tp].idle = change == "idle"
            self._rebuild()

    def _rebuild(self) -> None:
        lines = self._lines.values()
        self._heads = [line.waiting[0] for line in lines if line.waiting and not line.idle]
        heapq.heapify(self._heads)
        self._silent = {line.name for line in lines if not line.waiting and not line.idle}
        self._arrived = {line.name for line in lines if line.waiting and line.idle}

    def _unexpected(self, entry: Entry) -> LogError:
        name = f"{entry.topic}[{entry.partition}]"
        line = self._lines.get(entry[:2])
        if line is None:
            return LogError(f"{name} is not read here: the topics have other partitions than at the start")
        return LogError(f"{name} gave offset {entry.offset} where {line.position} or later must follow")
