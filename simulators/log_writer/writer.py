"""Writes impressions and clicks to a log in order, at a chosen rate; resumable, with clean shutdown."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Final

from simulators.log_writer.resume import Position
from simulators.log_writer.timeline import Happening
from stream_ctr.errors import DataError, LogError
from stream_ctr.events.log import EventLog, Record
from stream_ctr.events.partitioner import partition_of
from stream_ctr.events.records import FeatureValue

BATCH: Final = 1000
"""Maximum number of records per append."""
TICK_SECONDS: Final = 0.02
"""Shortest sleep of a paced writer; records due within one are appended together."""
MAX_SKEW: Final = 100_000
"""Generous upper bound, in records, on how far the partitions of an interrupted writer can differ."""


@dataclass
class Summary:
    """Counts of one run."""

    impressions: int = 0
    clicks: int = 0
    already_there: int = 0
    """Records that the log already held, from an interrupted run."""
    out_of_order: int = 0
    """Impressions written with an earlier time than a previous one: the data is not sorted by time."""
    largest_step_back_ms: int = 0
    """Largest distance of such an impression from the newest previous one."""
    stopped: bool = False
    """Whether a signal ended the run before the end of the data."""
    seconds: float = 0.0

    def as_dict(self) -> dict[str, FeatureValue]:
        """For ``--json``."""
        rate = self.impressions / self.seconds if self.seconds else 0.0
        return {**asdict(self), "impressions_per_second": round(rate, 1)}


@dataclass(frozen=True)
class Topics:
    """The topics to write to."""

    impressions: str
    clicks: str
    partitions: int

    def create(self, log: EventLog) -> None:
        """Create the topics that do not exist.

        Raises:
            LogError: a topic exists with a different number of partitions.
        """
        if self.impressions == self.clicks:
            raise LogError(f"impressions and clicks need different topics; both are {self.clicks!r}")
        log.create_topic(self.impressions, self.partitions)
        log.create_topic(self.clicks, self.partitions)


class Pace:
    """Schedule of the impressions of a run; without a rate, each is due immediately."""

    def __init__(
        self,
        rate: float | None,
        live: bool,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._rate = rate
        self._live = live
        self._clock = clock
        self._wall = wall
        self._began: float | None = None
        self._count = 0

    def wait_seconds(self, time_ms: int) -> float:
        """Seconds until the next impression, with event time ``time_ms``, is due.

        A resumed live writer is behind by its downtime and writes at full speed until it has caught up.
        """
        if self._rate is None:
            return 0.0
        now = self._clock()
        if self._began is None:
            behind = max(0.0, self._wall() - time_ms / 1000.0) if self._live else 0.0
            self._began = now - behind
        due = self._began + self._count / self._rate
        self._count += 1
        return due - now


class Writer:
    """Appends impressions and clicks to a log."""

    def __init__(
        self,
        log: EventLog,
        topics: Topics,
        *,
        position: Position | None = None,
        pace: Pace | None = None,
        stop: threading.Event | None = None,
        progress: Callable[[Summary], None] = lambda summary: None,
    ) -> None:
        self._log = log
        self._topics = topics
        self._position = position
        self._pace = pace or Pace(None, False)
        self._stop = stop or threading.Event()
        self._progress = progress
        self._waiting: tuple[list[Record], list[Record]] = ([], [])
        self._newest_ms = 0
        self.summary = Summary()

    def write(self, happenings: Iterable[Happening]) -> Summary:
        """Write all impressions and clicks, or those before ``stop`` is set.

        Raises:
            LogError: an append failed, or the log does not hold the run to be resumed.
            DataError: the data is invalid; everything before it has been written.
        """
        began = time.monotonic()
        try:
            for happening in happenings:
                if self._stop.is_set():
                    self.summary.stopped = True
                    break
                self._add(happening)
        except DataError:
            self._flush()
            raise
        finally:
            self.summary.seconds = time.monotonic() - began
        # A source that was still sorting when the signal came yields nothing.
        self.summary.stopped |= self._stop.is_set()
        if self._position is not None and not self.summary.stopped:
            raise self._position.unreached()
        self._flush()
        return self.summary

    def _add(self, happening: Happening) -> None:
        click = happening.example is None
        topic = self._topics.clicks if click else self._topics.impressions
        key = happening.event_id.encode()
        partition = partition_of(key, self._topics.partitions)
        if self._position is not None and self._already_written(happening, topic, partition, key):
            return
        if not click:
            if self._position is None:
                self._wait(happening.time_ms)
            if (back_ms := self._newest_ms - happening.time_ms) > 0:
                self.summary.out_of_order += 1
                self.summary.largest_step_back_ms = max(self.summary.largest_step_back_ms, back_ms)
            else:
                self._newest_ms = happening.time_ms
        records = self._waiting[click]
        records.append(Record(key, happening.value(), happening.time_ms, partition))
        if self._position is not None:
            if len(records) > MAX_SKEW:
                raise self._position.unreached()
        elif len(records) >= BATCH:
            self._flush()

    def _already_written(self, happening: Happening, topic: str, partition: int, key: bytes) -> bool:
        """Whether the log already holds the record. Writing starts only after every partition is passed."""
        position = self._position
        if position is None or (held := position.passes(topic, partition)) is None:
            return False
        self.summary.already_there += 1
        if held.remaining is not None and held.remaining > 1:
            held.remaining -= 1
        elif held.remaining == 1 or held.last is None or held.last.key == key:
            position.check(topic, partition, held, key, happening.value())
            if position.complete:
                self._position = None
        return True

    def _wait(self, time_ms: int) -> None:
        wait_seconds = self._pace.wait_seconds(time_ms)
        if wait_seconds > 0:
            self._flush()
            self._stop.wait(min(max(wait_seconds, TICK_SECONDS), threading.TIMEOUT_MAX))

    def _flush(self) -> None:
        """Append clicks before impressions: a reader holds a click back until the impressions reach its time,
        but it cannot know of a click that is not yet in the log."""
        if self._position is not None:
            return
        impressions, clicks = self._waiting
        if clicks:
            self._log.append(self._topics.clicks, clicks)
            self.summary.clicks += len(clicks)
        if impressions:
            self._log.append(self._topics.impressions, impressions)
            self.summary.impressions += len(impressions)
        self._waiting = ([], [])
        self._progress(self.summary)
