"""Log gaps: periods in which impressions could not be logged, recorded for the experiment's watcher.

Counters show how many impressions were lost, but they reset when the process ends. A gap in the experiment's
folder also records when, so that a report over that period can mention it.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from stream_ctr.experiments.shared_files import LogGap, append_gap
from stream_ctr.serving.metrics import RoutingMetrics

logger = logging.getLogger("stream_ctr.serving")

QUIET_SECONDS: Final = 1.0
"""Time without failures after which a gap is over: a queue that is full repeatedly gives one gap."""


class LogGaps:
    """The log gaps of one server process.

    ``dropped`` may be called from any thread and never blocks on I/O. The other methods write to disk and
    must be called from the thread that appends to the log.
    """

    def __init__(self, folder: Path, metrics: RoutingMetrics, clock: Callable[[], float] = time.time) -> None:
        """``clock`` returns Unix time in seconds."""
        self._folder = folder
        self._metrics = metrics
        self._clock = clock
        self._worker = f"{socket.gethostname()}-{os.getpid()}"
        self._lock = threading.Lock()
        self._start = 0.0
        """Start of the open gap; 0 without one."""
        self._end: float | None = None
        """When the log recovered; None while it is unavailable."""
        self._dropped = 0
        self._reason = ""
        self._recorded = False
        """Whether the start of the open gap has been written to the file."""
        self._failing = ""

    def dropped(self, count: int) -> None:
        """Count lost impressions."""
        with self._lock:
            self._open_span("the impression queue was full")
            self._dropped += count

    def failed(self, reason: str) -> None:
        """Record a failed append."""
        with self._lock:
            self._open_span(reason)
        self._record_start()

    def recovered(self) -> None:
        """Record a successful append."""
        if not self._start:
            return
        with self._lock:
            if self._end is None:
                self._end = self._clock()
        self._record_start()
        self.settle()

    def settle(self) -> None:
        """Write the gap to the file if it is over."""
        if self._start and self._end is not None and self._clock() - self._end >= QUIET_SECONDS:
            self._finish(self._end)

    def close(self) -> None:
        """Write an open gap to the file, at exit."""
        if self._start:
            self._finish(self._end or self._clock())

    def _open_span(self, reason: str) -> None:
        if not self._start:
            self._start, self._reason, self._dropped = self._clock(), reason, 0
            self._recorded = False
            self._metrics.log_gaps.inc()
        self._end = None

    def _record_start(self) -> None:
        """Write the start of the gap at once, so that a killed process leaves a record."""
        if not self._recorded:
            self._recorded = self._append(LogGap(self._worker, _ms(self._start), reason=self._reason))

    def _finish(self, end: float) -> None:
        with self._lock:
            gap = LogGap(self._worker, _ms(self._start), _ms(end), self._dropped, self._reason)
            before, self._start, self._end = self._start, 0.0, None
        if not self._append(gap):
            with self._lock:  # retried with the next append; a gap that began meanwhile is merged into it
                self._dropped = gap.dropped + (self._dropped if self._start else 0)
                self._end = None if self._start else end
                self._start = before

    def _append(self, gap: LogGap) -> bool:
        try:
            append_gap(self._folder, gap)
        except OSError as error:
            if str(error) != self._failing:
                logger.warning("a log gap cannot be recorded: %s", error)
            self._failing = str(error)
            return False
        self._failing = ""
        return True


def _ms(seconds: float) -> int:
    return int(seconds * 1000)
