"""One order for the entries of all partitions of both topics.

Entries merge by (event time, topic rank, partition, offset). The rank of a topic is its index in the list of
topics: impressions come before clicks, so that at equal times an impression precedes its click. Within a
partition, time never descends: an entry that is earlier than its partition's time, or holds no record, takes
the time that the partition has reached. The order's time never descends either.

The next entry is known only when every partition that is not idle has an entry whose place is known. The
caller decides with the wall clock which partitions are idle and which have ended for now. These decisions
take effect through the journal, so the order is a function of the log's contents and the journal.

The head of a partition is *far ahead* when its event time exceeds the times of both its partition and the
order by more than ``max_lead_seconds``. That can be a rare event, a silence or a wrong clock. These rules
keep all labels in each case:

1. The head waits in the merge until the other partitions have reached its time. So a click that comes hours
   after the previous click is ordered by the impressions around it.
2. If one of the next LOOKAHEAD entries of its partition contradicts it (is earlier by more than the lead),
   its place is the earliest time among them.
3. If it is later than the wall clock by more than the lead, it takes the time that its partition has reached.
4. If its turn comes and it is still far ahead of the order, all partitions agree on a silence, and time
   advances: immediately if AGREEING entries of its partition agree or the wall clock has just passed it.
   Otherwise it is emitted without advancing the order's time, until AGREEING entries in a row have been.

Emitting an entry before its time is harmless: the joiner measures windows and horizons from an event's own
time
if that is later than the order's. An entry that arrives too late for its time (its partition was idle) is
emitted next, at the time of the order.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from stream_ctr.errors import LogError, StateError
from stream_ctr.events.log import Entry, TopicPartition
from stream_ctr.features.scan.scanner import RecordScanner
from stream_ctr.pipeline.decoding.batches import BatchDecoder
from stream_ctr.pipeline.decoding.records import EntryDecoder, RecordDecoder
from stream_ctr.pipeline.ordering.entry import OrderedEntry, OrderState
from stream_ctr.pipeline.ordering.journal import Decision, Journal
from stream_ctr.pipeline.ordering.partition_queue import IGNORED, NO_TIME, PLAUSIBLE, UNPLACED, Line, Waiting

AGREEING: Final = 16
"""Entries that must agree on a time far ahead of the order before it advances without the wall clock."""
RECENT_MS: Final = 600_000
"""A time this close to the wall clock belongs to a stream that is being written now."""
_NEVER: Final = 2**62


class Order:
    """Merges the entries of all partitions.

    Usage: :meth:`add` the entries read, :meth:`emit` those whose place is certain, pass partitions of
    :meth:`waiting_for` that have been silent for too long to :meth:`idle`, and call :meth:`finish` at the end
    of a finite log.

    Args:
        topics: impressions, clicks; the index is the rank.
        start: where to begin, from the stage's state. Entries are added from its positions on.
        journal: the journal of the same run. Its decisions from ``start.emitted`` on are replayed first;
            until then no new ones are made.
        max_ahead_seconds: a record further ahead of its log timestamp than this is rejected.
        max_lead_seconds: an entry further ahead of its partition and of the order than this is far ahead.
        scanner: scans impressions of the configured schema; reading then takes a third of the time.
        decoder: replaces the decoder of impressions and clicks.
        clock: the wall clock in milliseconds; without it, no event time counts as being in the future.

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
        clock: Callable[[], int] | None = None,
    ) -> None:
        self._journal = journal
        self._clock = clock
        self._max_lead_ms = max_lead_seconds * 1000.0
        self._decoder = BatchDecoder(decoder or RecordDecoder(topics[0], max_ahead_seconds), scanner)
        base = journal.base_at(start.emitted)
        if base.decisions != start.decisions:
            raise StateError(
                f"{journal}: holds {base.decisions} decisions before emission count {start.emitted}, the "
                f"checkpoint includes {start.decisions}: they are from different runs. Restore the "
                "journal that was saved with this checkpoint"
            )
        self._lines: dict[tuple[str, int], Line] = {
            tp: Line(
                topics.index(tp.topic),
                tp,
                time_ms,
                start.positions[tp],
                deque(),
                tp in base.idle,
                base.bounds.get(tp, -1),
            )
            for tp, time_ms in start.partition_times.items()
        }
        self._emitted = start.emitted
        self._time_ms = start.time_ms
        self._ahead = start.ahead
        self._decisions = base.decisions
        self._pending = deque(d for d in journal.decisions() if d.at >= start.emitted)
        # A journal that never consulted the clock was written without one.
        self._now_ms = base.clock_ms
        named = {*base.idle, *base.bounds, *(d.partition for d in self._pending if d.partition is not None)}
        for tp in sorted(named - self._lines.keys()):
            raise StateError(
                f"{journal}: names {tp.topic}[{tp.partition}], which is not a partition of the topics read"
            )
        self._heads: list[tuple[int, int, int, Line]] = []
        self._unplaced: dict[TopicPartition, Line] = {}
        self._arrived: set[TopicPartition] = set()
        self._contradicted: set[TopicPartition] = set()
        self._buffered = 0
        self._rebuild()

    @property
    def emitted(self) -> int:
        """Entries emitted, the end marks included."""
        return self._emitted

    @property
    def time_ms(self) -> int:
        """Time of the order: the latest event time that it has advanced to."""
        return self._time_ms

    @property
    def buffered(self) -> int:
        """Entries added and not emitted."""
        return self._buffered

    @property
    def replaying(self) -> bool:
        """Whether the journal holds decisions that have not been replayed yet."""
        return bool(self._pending)

    def waiting_for(self) -> list[TopicPartition]:
        """Partitions that hold up the next entry: not idle, and without an entry whose place is known."""
        self._place_heads(may_decide=False)
        return sorted(self._unplaced)

    def undecided(self) -> list[TopicPartition]:
        """Partitions of :meth:`waiting_for` that have entries: the place of their head depends on later
        ones."""
        return [tp for tp in self.waiting_for() if self._lines[tp].waiting]

    def idle_partitions(self) -> list[TopicPartition]:
        """Partitions that do not hold up the order."""
        return sorted(line.name for line in self._lines.values() if line.idle)

    def add(self, entries: Iterable[Entry]) -> None:
        """Queue entries; those of one partition must come in the order of their offsets.

        Raises:
            LogError: an entry is repeated, out of order, or of a partition that the order does not merge.
            StateError: the return of an idle partition cannot be journalled.
        """
        entries = list(entries)
        for entry, (record, reason, row) in zip(entries, self._decoder.decode(entries), strict=True):
            line = self._lines.get(entry[:2])
            if line is None or entry.offset < line.position:
                raise self._unexpected(entry)
            line.position = entry.offset + 1
            ts_ms = NO_TIME if record is None else record.ts_ms
            line.waiting.append(Waiting(ts_ms, entry, record, reason, row))
            self._buffered += 1
            if line.idle:
                self._arrived.add(line.name)
            elif 0 <= line.support < PLAUSIBLE and NO_TIME != ts_ms < line.outlook_ms - self._max_lead_ms:
                self._contradicted.add(line.name)
        self._react()

    def emit(self, max_entries: int) -> list[OrderedEntry]:
        """The next entries of the order whose place is certain, at most ``max_entries``.

        Raises:
            StateError: a decision that the next entry needs cannot be journalled.
        """
        self._journal.settle()
        emitted: list[OrderedEntry] = []
        while len(emitted) < max_entries:
            if self._pending and self._replay(emitted):
                continue
            # If a decision cannot be journalled, entries emitted in this call must not be lost with it.
            may_decide = not emitted
            if may_decide:
                self._react()
            if self._unplaced and not self._place_heads(may_decide):
                break
            if not self._heads:
                break
            if self._heads[0][0] - self._time_ms > self._max_lead_ms and not self._may_move(may_decide):
                break
            emitted.append(self._next())
        return emitted

    def idle(self, partitions: Iterable[TopicPartition]) -> list[TopicPartition]:
        """Decide that these partitions have ended for now.

        A partition without entries no longer holds up the order until it has one. The look-ahead of a
        partition whose head needs more entries than there are ends at the last one read. Nothing happens
        while the journal is replayed, and to a partition that does not hold up the order. Returns the
        partitions concerned.

        Raises:
            StateError: the decision cannot be journalled, and is not made.
        """
        if self._pending:
            return []
        ended = sorted(set(self.waiting_for()).intersection(partitions))
        self._decide(
            [
                Decision(self._emitted, "bound", tp, self._lines[tp].position - 1)
                if self._lines[tp].waiting
                else Decision(self._emitted, "idle", tp)
                for tp in ended
            ]
        )
        return ended

    def finish(self) -> list[OrderedEntry]:
        """Decide that the log ends here: all queued entries, then the end mark, which closes windows.

        Call it when every partition has been read to its end. Entries that come later are accepted, at the
        time of the order. While the journal is replayed, only certain entries are emitted, and no end mark:
        call it again.

        Raises:
            StateError: a decision cannot be journalled. The caller has lost the emitted entries and must
            stop.
        """
        entries = self.emit(self._buffered + len(self._pending))
        while self._buffered and not self._pending:
            self.idle(self.waiting_for())
            entries += self.emit(self._buffered)
        if not self._pending:
            self._journal.append([Decision(self._emitted, "end", None)])
            self._decisions += 1
            entries.append(self._end())
        return entries

    def _next(self) -> OrderedEntry:
        time_ms, _, _, line = self._heads[0]
        if time_ms - self._time_ms > self._max_lead_ms:
            self._jump(line)
        else:
            if time_ms > self._time_ms:
                self._time_ms = time_ms
            line.time_ms = time_ms
            if line.support != IGNORED:
                self._ahead = (0, 0)
        head = line.pop()
        self._buffered -= 1
        self._emitted += 1
        ordered = OrderedEntry(
            self._emitted - 1,
            self._time_ms,
            line.time_ms,
            self._decisions,
            head.entry,
            head.record,
            head.reason,
            self._ahead,
            head.row,
        )
        if line.waiting and not self._pending and self._place(line, may_decide=False):
            heapq.heapreplace(self._heads, self._key(line))
        else:
            heapq.heappop(self._heads)
            self._unplaced[line.name] = line
        return ordered

    @staticmethod
    def _key(line: Line) -> tuple[int, int, int, Line]:
        # The first three differ between any two heads, so lines are never compared.
        return line.place_ms, line.rank, line.name.partition, line

    def _jump(self, line: Line) -> None:
        """Advance to the time of a head that is far ahead, if enough evidence says that this is a silence."""
        time_ms, support = line.place_ms, line.support
        run, least_ms = self._ahead
        if self._time_ms == 0 or support >= AGREEING or self._is_recent(time_ms):
            least_ms = time_ms
        else:
            least_ms = min(least_ms, time_ms) if run else time_ms
            if run + 1 + support < AGREEING:
                self._ahead = (run + 1, least_ms)
                return
        self._time_ms = line.time_ms = least_ms
        self._ahead = (0, 0)

    def _may_move(self, may_decide: bool) -> bool:
        """Journal the wall clock if it may show that a head far ahead is being written now; False if that has
        to wait for another call."""
        time_ms, _, _, line = self._heads[0]
        if line.support >= AGREEING or not self._time_ms:
            return True
        now_ms = self._read_clock()
        if self._is_recent(time_ms) or not now_ms - RECENT_MS <= time_ms <= now_ms + self._max_lead_ms:
            return True
        if may_decide:
            self._decide([Decision(self._emitted, "clock", None, now_ms)])
        return may_decide

    def _is_recent(self, time_ms: int) -> bool:
        return self._now_ms > 0 and self._now_ms - RECENT_MS <= time_ms

    def _read_clock(self) -> int:
        """The wall clock; where it must not be consulted, the time in the journal."""
        return self._now_ms if self._clock is None or self._pending else max(self._clock(), self._now_ms)

    def _place(self, line: Line, may_decide: bool) -> bool:
        """Find the place of a line's head; False if entries must be read or a decision made first."""
        ts_ms, reached_ms = line.waiting[0].ts_ms, line.time_ms
        if ts_ms == NO_TIME:
            line.place_ms, line.support = reached_ms, IGNORED
            return True
        # A partition's time is never later than the order's.
        if ts_ms - self._time_ms <= self._max_lead_ms:
            line.place_ms = ts_ms if ts_ms > reached_ms else reached_ms
            line.support = PLAUSIBLE
            return True
        now_ms = self._read_clock()
        # The clock counts once the journal holds it: journalled when first needed, and when it shows that a
        # record no longer lies in the future.
        if now_ms and (not self._now_ms or self._now_ms < ts_ms - self._max_lead_ms <= now_ms):
            if not may_decide:
                return False
            self._decide([Decision(self._emitted, "clock", None, now_ms)])
        if self._now_ms and ts_ms - self._now_ms > self._max_lead_ms:
            line.place_ms, line.support = reached_ms, IGNORED
            return True
        looked = line.look_ahead()
        if looked is None:
            return False
        least_ms, line.support = looked
        contradicted = ts_ms - least_ms > self._max_lead_ms
        line.place_ms = max(reached_ms, least_ms if contradicted else ts_ms)
        if line.outlook_ms and line.outlook_ms - line.least_beyond_bound() > self._max_lead_ms:
            self._contradicted.add(line.name)
        return True

    def _place_heads(self, may_decide: bool) -> bool:
        """Find the places that are not known yet; returns whether all are known now."""
        if self._pending and self._pending[0].at == self._emitted:
            return False  # the decisions journalled for this entry may change them
        for line in list(self._unplaced.values()):
            if line.waiting and self._place(line, may_decide):
                heapq.heappush(self._heads, self._key(line))
                del self._unplaced[line.name]
        return not self._unplaced

    def _end(self) -> OrderedEntry:
        self._emitted += 1
        time_ms, ahead = self._time_ms, self._ahead
        return OrderedEntry(self._emitted - 1, time_ms, time_ms, self._decisions, None, None, "", ahead)

    def _replay(self, emitted: list[OrderedEntry]) -> bool:
        """Replay the journal's next decision if it belongs to this entry; True if there was one."""
        if self._pending[0].at != self._emitted:
            return False
        decision = self._pending.popleft()
        if decision.change == "end":
            self._decisions += 1
            emitted.append(self._end())
        else:
            self._apply([decision])
        return True

    def _react(self) -> None:
        """Make the decisions that new entries call for, unless the journal is being replayed: idle partitions
        with entries become active, and contradicted heads are placed again."""
        if self._pending or not (self._arrived or self._contradicted):
            return
        # A head that has been emitted since then needs no decision.
        contradicted = sorted(tp for tp in self._contradicted if self._lines[tp].outlook_ms)
        self._decide(
            [Decision(self._emitted, "active", tp) for tp in sorted(self._arrived)]
            + [Decision(self._emitted, "bound", tp, self._lines[tp].position - 1) for tp in contradicted]
        )
        self._contradicted.clear()

    def _decide(self, decisions: Sequence[Decision]) -> None:
        if decisions:
            self._journal.append(decisions)
            self._apply(decisions)

    def _apply(self, decisions: Sequence[Decision]) -> None:
        self._decisions += len(decisions)
        for _, change, tp, value in decisions:
            if change == "clock":
                self._now_ms = value
            elif tp is not None:
                line = self._lines[tp]
                if change == "bound":
                    line.bound = value
                    line.support = UNPLACED
                    self._contradicted.discard(tp)
                else:
                    line.idle = change == "idle"
        if any(decision.partition is not None for decision in decisions):
            self._rebuild()

    def _rebuild(self) -> None:
        active = [line for line in self._lines.values() if not line.idle]
        self._heads = [self._key(line) for line in active if line.support != UNPLACED]
        heapq.heapify(self._heads)
        self._unplaced = {line.name: line for line in active if line.support == UNPLACED}
        self._arrived = {line.name for line in self._lines.values() if line.waiting and line.idle}

    def _unexpected(self, entry: Entry) -> LogError:
        name = f"{entry.topic}[{entry.partition}]"
        line = self._lines.get(entry[:2])
        if line is None:
            return LogError(f"{name} is not among the partitions of the order: partitions were added")
        return LogError(f"{name}: expected offset {line.position} or later, got {entry.offset}")
