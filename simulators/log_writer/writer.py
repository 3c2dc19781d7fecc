"""Writes impressions and clicks to a log: in order, at a chosen rate, resumable, stopped cleanly."""

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
"""Records that are appended together at most."""
TICK_SECONDS: Final = 0.02
"""Shortest sleep of a paced writer; what is due within one is appended together."""
MAX_SKEW: Final = 100_000
"""Records by which the partitions of an interrupted writer can differ, with much to spare."""


@dataclass
class Summary:
    """What was written."""

    impressions: int = 0
    clicks: int = 0
    already_there: int = 0
    """Records that the log held before, from an interrupted run."""
    out_of_order: int = 0
    """Impressions written that are earlier than one before them: the data is not sorted by time."""
    largest_step_back_ms: int = 0
    """How much earlier than the newest one before it such an impression is at most."""
    stopped: bool = False
    """Ended by a signal, before the end of the data."""
    seconds: float = 0.0

    def as_dict(self) -> dict[str, FeatureValue]:
        """For ``--json``."""
        rate = self.impressions / self.seconds if self.seconds else 0.0
        return {**asdict(self), "impressions_per_second": round(rate, 1)}


@dataclass(frozen=True)
class Topics:
    """Where to write."""

    impressions: str
    clicks: str
    partitions: int

    def create(self, log: EventLog) -> None:
        """Make the topics that do not exist.

        Raises:
            LogError: one exists with another number of partitions.
        """
        if self.impressions == self.clicks:
            raise LogError(f"impressions and clicks need a topic each; both are named {self.clicks!r}")
        log.create_topic(self.impressions, self.partitions)
        log.create_topic(self.clicks, self.partitions)


class Pace:
    """Tells when impression i of this run is due; without a rate, at once."""

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
        """Seconds until the next impression, which happens at ``time_ms``, is due.

        A live writer that was down is behind by that long; it writes at full speed until it is not.
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
    """Appends happenings to a log."""

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
        """Write everything, or what comes before ``stop`` is set.

        Raises:
            LogError: the log refuses, or holds something else than what is to be resumed.
            DataError: the data is bad; everything before it has been written.
        """
        began = time.monotonic()
        try:
            for happening in happenings:
                if self._stop.is_set():
                    self.summary.stopped = True
                    break
                self._one(happening)
        except DataError:
            self._flush()
            raise
        finally:
            self.summary.seconds = time.monotonic() - began
        # A source that was still preparing (sorting) when the signal came gives nothing.
        self.summary.stopped |= self._stop.is_set()
        if self._position is not None and not self.summary.stopped:
            raise self._position.unreached()
        self._flush()
        return self.summary

    def _one(self, happening: Happening) -> None:
        click = happening.example is None
        topic = self._topics.clicks if click else self._topics.impressions
        key = happening.event_id.encode()
        partition = partition_of(key, self._topics.partitions)
        if self._position is not None and self._is_there(happening, topic, partition, key):
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

    def _is_there(self, happening: Happening, topic: str, partition: int, key: bytes) -> bool:
        """Whether the log holds the record already. Nothing is written until every partition is passed."""
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
        """Clicks before impressions: a reader waits with a click until the impressions have reached its time,
        but it cannot know of a click that is still to come."""
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
