"""When a partition has been silent for so long that the order stops waiting for it.

Only the daemon looks at the clock, and only here. A decision takes effect through the order's journal.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping

from stream_ctr.events.log import TopicPartition

Offsets = Mapping[TopicPartition, int]


class IdleClock:
    """Measures silence on the monotonic clock.

    >>> tick = iter([0.0, 0.0, 0.5, 1.5])
    >>> clock = IdleClock(1.0, lambda: next(tick))
    >>> tp = TopicPartition("clicks", 0)
    >>> [clock.quiet([tp], {tp: 7}, {tp: 7}) for _ in range(3)]
    [[], [], [TopicPartition(topic='clicks', partition=0)]]
    """

    def __init__(self, idle_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._idle_seconds = idle_seconds
        self._clock = clock
        self._waiting: dict[TopicPartition, float] = {}
        self._ended: dict[TopicPartition, tuple[int, float]] = {}
        self._news = clock()

    def quiet(
        self, waiting: Iterable[TopicPartition], positions: Offsets, ends: Offsets
    ) -> list[TopicPartition]:
        """Those of the partitions waited for that have been read to their end, and for the whole idle time
        either got no entry or were waited for."""
        now = self._clock()
        ended: dict[TopicPartition, tuple[int, float]] = {}
        for tp, position in positions.items():
            if position >= ends[tp]:
                before = self._ended.get(tp)
                ended[tp] = before if before is not None and before[0] == position else (position, now)
        self._ended = ended
        self._waiting = {tp: self._waiting.get(tp, now) for tp in waiting if tp in ended}
        return [
            tp for tp, since in self._waiting.items() if now - min(since, ended[tp][1]) >= self._idle_seconds
        ]

    def heard(self) -> None:
        """Something was read."""
        self._news = self._clock()

    def silent_seconds(self, positions: Offsets, ends: Offsets) -> float:
        """How long nothing was read while every partition was at its end; -1 when one is not."""
        if any(positions[tp] < ends[tp] for tp in positions):
            return -1.0
        return self._clock() - self._news
