"""One partition's queue of entries that were read but not emitted, and the place of its head in the order.

The head of a queue is *plausible* when its event time is at most the lead ahead of its partition's or the
order's time. A time further ahead is a silence or a wrong clock, and the next entries of the partition show
which: the earliest time among the next LOOKAHEAD entries bounds the head's place. So a wrong clock has no
effect as long as one of them has a correct time, and after a silence time advances immediately.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from itertools import islice
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stream_ctr.events.log import Entry, TopicPartition
from stream_ctr.events.records import Click, Impression, LabelledImpression, ScannedImpression

LOOKAHEAD: Final = 1024
"""Entries of the partition that are examined behind a head that is far ahead."""
NO_TIME: Final = -1
"""Event time of an entry without a record."""
_FAR: Final = 2**62


class Waiting(NamedTuple):
    """An entry in a partition's queue."""

    ts_ms: int
    """Its own event time; NO_TIME where there is no record."""
    entry: Entry
    record: Impression | ScannedImpression | Click | LabelledImpression | None
    reason: str
    row: NDArray[np.uint64] | None


PLAUSIBLE: Final = 2**62
"""Support of a head that is not far ahead."""
IGNORED: Final = -1
"""Support of a head whose own time is ignored."""
UNPLACED: Final = -2
"""Support of a head whose place is not known."""


@dataclass(slots=True)
class Line:
    """One partition's queue."""

    rank: int
    """Index of its topic among the topics that are read."""
    name: TopicPartition
    time_ms: int
    """Event time that the partition's emitted entries have reached."""
    position: int
    """Offset of the next entry to be added."""
    waiting: deque[Waiting]
    idle: bool = False
    bound: int = -1
    """Last offset that the look-ahead may use for heads up to it: where the partition ended when that was
    decided."""
    place_ms: int = 0
    """Time of the head in the merge, once it is placed."""
    support: int = UNPLACED
    """Entries of the partition behind the head that agree with its place; or PLAUSIBLE, IGNORED, UNPLACED."""
    _least: deque[tuple[int, int]] = field(default_factory=deque)
    """Offsets and times of those examined entries that are earlier than all behind them."""
    _looked: int = 0
    """Entries of ``waiting`` that were examined, the head included."""

    @property
    def outlook_ms(self) -> int:
        """The head's place, if an entry beyond the bound may still change it; else 0."""
        if not 0 <= self.support < LOOKAHEAD:
            return 0
        return self.place_ms if self.waiting[0].entry.offset <= self.bound else 0

    def pop(self) -> Waiting:
        """Remove the head."""
        if self._looked:
            self._looked -= 1
        self.support = UNPLACED
        return self.waiting.popleft()

    def look_ahead(self) -> tuple[int, int] | None:
        """The earliest event time behind the head (a very large one if there is none) and the number of
        entries
        examined; None while more entries must be read first."""
        waiting, least = self.waiting, self._least
        head = waiting[0].entry.offset
        bounded = head <= self.bound
        limit = min(LOOKAHEAD + 1, len(waiting))
        self._looked = max(self._looked, 1)
        while self._looked < limit:
            following = waiting[self._looked]
            offset = following.entry.offset
            if bounded and offset > self.bound:
                break
            self._looked += 1
            if following.ts_ms != NO_TIME:
                while least and least[-1][1] >= following.ts_ms:
                    least.pop()
                least.append((offset, following.ts_ms))
        # After a restart, the entries up to the bound must be read again first.
        if self._looked <= LOOKAHEAD and not (bounded and self.bound < self.position):
            return None
        while least and least[0][0] <= head:
            least.popleft()
        return (least[0][1] if least else _FAR), self._looked - 1

    def least_beyond_bound(self) -> int:
        """The earliest event time among the entries of the look-ahead that lie beyond the bound."""
        following = islice(self.waiting, 1, LOOKAHEAD + 1)
        times = (item.ts_ms for item in following if item.entry.offset > self.bound)
        return min((ts_ms for ts_ms in times if ts_ms != NO_TIME), default=_FAR)
