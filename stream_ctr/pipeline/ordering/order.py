"""One order for the entries of all partitions of both topics.

Entries merge by (event time, topic rank, partition, offset). The rank of a topic is its place in the
list the order was made with: impressions come before clicks, so that at equal times an impression comes
before its click. Within a partition time never descends: an entry that is behind its partition, or that is
no record, takes the time that the partition has reached. The order's time never descends either.

The next entry is known only when every partition that is not idle has an entry whose place is known. Which
partitions are idle, and that a partition has ended for now, is decided with the wall clock by the caller and
takes effect through the journal; so the order is a function of the log's contents and the journal.

A head of a partition is *far ahead* when its event time exceeds both what its partition and what the order
have reached by more than ``max_lead_seconds``. Rare events and silences look like that, and so does a wrong
clock. Rules, so that neither loses a label:

1. It waits in the merge until the other partitions have reached its time. So a click that comes hours after
   the click before it is ordered by the impressions around it.
2. If one of the next LOOKAHEAD entries of its partition contradicts it (is earlier by more than the lead),
   its place is the least time among them.
3. If it is later than the wall clock by more than the lead, it takes the time that its partition has reached.
4. If its turn comes and it is still far ahead of the order, all partitions agree on a silence, and time moves
   on: at once if AGREEING entries of its partition agree or the wall clock has just passed it. Otherwise it
   is emitted without moving the order's time, until AGREEING entries in a row were.

An entry that is emitted before its time is harmless: the joiner counts windows and horizons from an event's
own time if that is later than the order's. An entry that comes too late for its time (its partition was idle)
is emitted next, at the time of the order.
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
"""Entries that must agree on a time far ahead of the order before it moves there without the wall clock."""
RECENT_MS: Final = 600_000
"""A time at most this long before the wall clock's belongs to a stream that is being written now."""
_NEVER: Final = 2**62


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
        max_lead_seconds: an entry further ahead than this of its partition and of the order is far ahead.
        scanner: of the schema that the impressions are for; with it, reading takes a third of the time.
        decoder: reads the entries instead of the one for impressions and clicks.
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
                f"checkpoint rests on {start.decisions}: they are not of the same run. Restore the journal "
                "that was saved with this checkpoint"
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
            raise StateError(f"{journal}: names {tp.topic}[{tp.partition}], which is not read here")
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
        """Partitions that hold up the next entry: not idle, and without an entry whose place is known."""
        self._place_heads(may_decide=False)
        return sorted(self._unplaced)

    def undecided(self) -> list[TopicPartition]:
        """Those of :meth:`waiting_for` that have entries: what follows their head decides its place."""
        return [tp for tp in self.waiting_for() if self._lines[tp].waiting]

    def idle_partitions(self) -> list[TopicPartition]:
        """Partitions that are not waited for."""
        return sorted(line.name for line in self._lines.values() if line.idle)

    def add(self, entries: Iterable[Entry]) -> None:
        """Put entries in line; those of one partition come in the order of their offsets.

        Raises:
            LogError: an entry comes twice, out of order, or of a partition that is not read here.
            StateError: an idle partition's return cannot be journalled.
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
        self._welcome()

    def emit(self, max_entries: int) -> list[OrderedEntry]:
        """The next entries of the order, as far as they are certain.

        Raises:
            StateError: a decision that the next entry needs cannot be journalled.
        """
        self._journal.settle()
        emitted: list[OrderedEntry] = []
        while len(emitted) < max_entries:
            if self._pending and self._repeat(emitted):
                continue
            # A decision that cannot be journalled must not take with it what was emitted before.
            may_decide = not emitted
            if may_decide:
                self._welcome()
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

        One without an entry is not waited for from here on until it has one; of one whose head needs a longer
        look-ahead than there is, what has been read is all there is. Does nothing while the journal is
        repeated, and nothing for a partition that is not waited for. Returns the partitions concerned.

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
        """Decide that the log ends here: all entries that wait, then the end mark, which closes windows.

        Call it when every partition has been read to its end. Entries that come later are taken, at the
        time of the order. While the journal is repeated, only what is certain is emitted and no end mark
        made: call it again.

        Raises:
            StateError: a decision cannot be journalled. What was emitted is lost to the caller: stop.
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
        # The first three are distinct among the heads, so lines are never compared.
        return line.place_ms, line.rank, line.name.partition, line

    def _jump(self, line: Line) -> None:
        """All partitions are past a silence, if this head is right: move there if that is certain enough."""
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
        """Consult the wall clock about a head that is far ahead, where it may say that the stream is being
        written now; False if that has to wait for another call."""
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
        """The wall clock, unless it may not be consulted here; what the journal says then."""
        return self._now_ms if self._clock is None or self._pending else max(self._clock(), self._now_ms)

    def _place(self, line: Line, may_decide: bool) -> bool:
        """Find the place of a line's head; False if more has to be read, or decided, first."""
        ts_ms, reached_ms = line.waiting[0].ts_ms, line.time_ms
        if ts_ms == NO_TIME:
            line.place_ms, line.support = reached_ms, IGNORED
            return True
        # A partition has reached no more than the order.
        if ts_ms - self._time_ms <= self._max_lead_ms:
            line.place_ms = ts_ms if ts_ms > reached_ms else reached_ms
            line.support = PLAUSIBLE
            return True
        now_ms = self._read_clock()
        # What the clock says counts once the journal holds it: when it is first needed, and when it shows
        # that a record is no longer of the future.
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
        """Find the places that are not known yet; whether all are known now."""
        if self._pending and self._pending[0].at == self._emitted:
            return False  # what the journal decided here may decide about them
        for line in list(self._unplaced.values()):
            if line.waiting and self._place(line, may_decide):
                heapq.heappush(self._heads, self._key(line))
                del self._unplaced[line.name]
        return not self._unplaced

    def _end(self) -> OrderedEntry:
        self._emitted += 1
        time_ms, ahead = self._time_ms, self._ahead
        return OrderedEntry(self._emitted - 1, time_ms, time_ms, self._decisions, None, None, "", ahead)

    def _repeat(self, emitted: list[OrderedEntry]) -> bool:
        """Apply the journal's next decision if its place is here; True if there was one."""
        if self._pending[0].at != self._emitted:
            return False
        decision = self._pending.popleft()
        if decision.change == "end":
            self._decisions += 1
            emitted.append(self._end())
        else:
            self._apply([decision])
        return True

    def _welcome(self) -> None:
        """Decide what new entries call for, unless the journal is yet to say when: idle partitions that have
        an entry are waited for again, and a head that is contradicted has its place found again."""
        if self._pending or not (self._arrived or self._contradicted):
            return
        # A head that has left its queue since then needs no decision.
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
            return LogError(f"{name} is not read here: the topics have other partitions than at the start")
        return LogError(f"{name} gave offset {entry.offset} where {line.position} or later must follow")
