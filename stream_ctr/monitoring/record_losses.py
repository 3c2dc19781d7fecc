"""Record losses: the share of records that were read and not used, and when a share is a warning.

This module only computes on counters: no clock, no log, no persistent state. While a job runs, shares cover
the most recent records, so that a long history without losses does not hide a new problem.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

from stream_ctr.config.losses import LossesConfig

Base = Literal["impressions", "clicks"]
"""Denominator of a share: impressions read (or labelled records), or clicks read."""


class Loss(NamedTuple):
    """One kind of record loss."""

    name: str
    """Name in metrics and JSON; if it is one of the joiner's outcomes, the name of that outcome."""
    base: Base
    title: str
    """Row title in the outcome table."""
    what: str
    """What happened to the records, as a predicate."""
    remedy: str
    """What to do about it; placeholders in braces are replaced by values."""
    warns: bool = True
    """False for records that are dropped by design, such as duplicates."""


LOSSES: Final = (
    Loss(
        "dead_impressions",
        "impressions",
        "dead letters",
        "became dead letters",
        "the most frequent reason is: {impression_reason}; {listing}",
    ),
    Loss(
        "impressions_late",
        "impressions",
        "late",
        "were dropped because they were more than join.horizon_seconds = {horizon} behind the stream",
        "the log is out of order by up to {behind} s; write it in order (a file: `stream-ctr replay --sort`) "
        "or raise join.horizon_seconds",
    ),
    Loss(
        "impressions_ahead",
        "impressions",
        "ahead",
        "were dropped because they were ahead of the stream and the memory for such records was full",
        "check the producers' clocks, or raise join.memory_bytes",
    ),
    Loss("impressions_repeated", "impressions", "repeated", "repeat an event id", "", warns=False),
    Loss(
        "labelled_missing",
        "impressions",
        "missing numbers",
        "are missing from the labelled topic, according to its sequence numbers",
        "the topic lost records; join again into a new topic",
    ),
    Loss("labelled_repeated", "impressions", "repeated", "repeat a sequence number", "", warns=False),
    Loss(
        "dead_clicks",
        "clicks",
        "dead letters",
        "became dead letters",
        "the most frequent reason is: {click_reason}; {listing}",
    ),
    Loss(
        "clicks_after_window",
        "clicks",
        "after the window",
        "came more than join.window_seconds = {window} after their impression, which keeps label 0",
        "raise join.window_seconds if they should count",
    ),
    Loss(
        "clicks_too_late",
        "clicks",
        "delivered too late",
        "reached the log after the window of their impression had closed",
        "raise join.grace_seconds to the longest delay between the two topics",
    ),
    Loss(
        "clicks_orphaned",
        "clicks",
        "orphaned",
        "found no impression within join.horizon_seconds = {horizon}",
        "check that impressions and clicks carry the same event_id, that both have ts_ms in milliseconds, "
        "and that every impression is logged",
    ),
    Loss(
        "clicks_late",
        "clicks",
        "late",
        "found no impression and were more than join.horizon_seconds = {horizon} behind the stream",
        "the log is out of order by up to {behind} s; write it in order (a file: `stream-ctr replay --sort`) "
        "or raise join.horizon_seconds",
    ),
    Loss(
        "clicks_ahead",
        "clicks",
        "ahead",
        "were so far ahead of their impression that the memory for such records was full",
        "check the clocks that set ts_ms, or raise join.memory_bytes",
    ),
    Loss(
        "clicks_waiting",
        "clicks",
        "no impression so far",
        "had found no impression at the end of the log",
        "check that impressions and clicks carry the same event_id, and that every impression is logged",
    ),
    Loss("clicks_repeated", "clicks", "repeated", "repeat a click of the same event id", "", warns=False),
)
"""All losses, in the order of the outcome table."""

NOTHING_LEARNED: Final = "nothing_learned"
"""Warning of a job that reads impressions and learns from none of them."""
TIME_UNIT: Final = "time_unit"
"""Warning about timestamps that look like seconds."""
OTHER_WARNINGS: Final = (NOTHING_LEARNED, TIME_UNIT)
"""Warnings that are not based on a share."""


@dataclass(frozen=True, slots=True)
class LossCounts:
    """Records that a run has read and lost so far."""

    read: Mapping[Base, int]
    """Records read, by kind."""
    lost: Mapping[str, int]
    """Records lost, by the name of the loss."""


class RecentShare:
    """Share of lost records among the most recent ones, computed from running totals.

    It keeps about 16 earlier totals, so the window is accurate to a sixteenth of its length.

    >>> share = RecentShare(1000)
    >>> for read in range(0, 20_001, 50):
    ...     share.update(read, 0 if read < 19_500 else read - 19_500)
    >>> round(share.value, 1), share.lost
    (0.5, 500)
    """

    def __init__(self, window_records: int) -> None:
        self._window = window_records
        self._step = max(1, window_records // 16)
        self._totals: deque[tuple[int, int]] = deque([(0, 0)])
        self._now = (0, 0)

    def update(self, read: int, lost: int) -> None:
        """Set the present totals; both only grow."""
        self._now = (read, lost)
        totals = self._totals
        while len(totals) > 1 and totals[1][0] <= read - self._window:
            totals.popleft()
        if read - totals[-1][0] >= self._step:
            totals.append(self._now)

    @property
    def read(self) -> int:
        """Records in the window."""
        return self._now[0] - self._totals[0][0]

    @property
    def lost(self) -> int:
        """Lost records in the window."""
        return self._now[1] - self._totals[0][1]

    @property
    def value(self) -> float:
        """Lost over read, capped at 1: a loss can become known after further records were read."""
        return min(1.0, self.lost / max(self.read, 1))


class LossMonitor:
    """Decides which losses are a warning.

    A warning begins when the share of the recent records is above ``warn_share`` and at least
    ``minimum_records`` were lost. It ends when the share falls below half of ``warn_share``, so that a share
    near the limit gives only one warning.
    """

    def __init__(self, config: LossesConfig) -> None:
        self._config = config
        self.recent = {loss.name: RecentShare(config.window_records) for loss in LOSSES if loss.warns}
        """Share of each loss among the most recent records."""
        self.active: set[str] = set()
        """Losses that are currently a warning."""

    def update(self, counts: LossCounts) -> tuple[list[str], list[str]]:
        """Update the totals; returns the losses that became a warning, and those that ceased to be one."""
        began, ended = [], []
        limit = self._config.warn_share
        for loss in LOSSES:
            if not loss.warns:
                continue
            recent = self.recent[loss.name]
            recent.update(counts.read[loss.base], counts.lost.get(loss.name, 0))
            if loss.name not in self.active:
                if recent.value > limit and recent.lost >= self._config.minimum_records:
                    self.active.add(loss.name)
                    began.append(loss.name)
            elif recent.value < limit / 2:
                self.active.discard(loss.name)
                ended.append(loss.name)
        return began, ended

    def shares(self) -> dict[str, float]:
        """Share of each loss among the most recent records."""
        return {name: recent.value for name, recent in self.recent.items()}
