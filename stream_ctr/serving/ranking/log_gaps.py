"""Spans in which impressions could not be logged, told to the experiment's watcher.

Counters say how much was lost, and are lost themselves with the process; a span in the experiment's folder
says when, so that a report over that time can say so.
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
"""Time without trouble after which a span is over; a queue that is full now and then is one span."""


class LogGaps:
    """The spans of one server process.

    ``dropped`` may be called from any thread and waits for nothing. The others write, and belong to the
    thread that appends to the log.
    """

    def __init__(self, folder: Path, metrics: RoutingMetrics, clock: Callable[[], float] = time.time) -> None:
        """``clock`` tells Unix time in seconds."""
        self._folder = folder
        self._metrics = metrics
        self._clock = clock
        self._worker = f"{socket.gethostname()}-{os.getpid()}"
        self._lock = threading.Lock()
        self._start = 0.0
        """Of the open span; 0 when there is none."""
        self._end: float | None = None
        """When the log took impressions again; None while it does not."""
        self._dropped = 0
        self._reason = ""
        self._recorded = False
        """Whether the open span stands in the file."""
        self._failing = ""

    def dropped(self, count: int) -> None:
        """So many impressions were lost."""
        with self._lock:
            self._open_span("the queue of impressions was full")
            self._dropped += count

    def failed(self, reason: str) -> None:
        """The log did not take an append."""
        with self._lock:
            self._open_span(reason)
        self._record_start()

    def recovered(self) -> None:
        """The log took an append."""
        if not self._start:
            return
        with self._lock:
            if self._end is None:
                self._end = self._clock()
        self._record_start()
        self.settle()

    def settle(self) -> None:
        """Write the span down, if it is over."""
        if self._start and self._end is not None and self._clock() - self._end >= QUIET_SECONDS:
            self._finish(self._end)

    def close(self) -> None:
        """Write down what is open: the server ends."""
        if self._start:
            self._finish(self._end or self._clock())

    def _open_span(self, reason: str) -> None:
        if not self._start:
            self._start, self._reason, self._dropped = self._clock(), reason, 0
            self._recorded = False
            self._metrics.log_gaps.inc()
        self._end = None

    def _record_start(self) -> None:
        """Before it is known how it ends: a process that is killed meanwhile leaves a trace."""
        if not self._recorded:
            self._recorded = self._append(LogGap(self._worker, _ms(self._start), reason=self._reason))

    def _finish(self, end: float) -> None:
        with self._lock:
            gap = LogGap(self._worker, _ms(self._start), _ms(end), self._dropped, self._reason)
            before, self._start, self._end = self._start, 0.0, None
        if not self._append(gap):
            with self._lock:  # tried again with the next append; a span that began meanwhile joins it
                self._dropped = gap.dropped + (self._dropped if self._start else 0)
                self._end = None if self._start else end
                self._start = before

    def _append(self, gap: LogGap) -> bool:
        try:
            append_gap(self._folder, gap)
        except OSError as error:
            if str(error) != self._failing:
                logger.warning("a span without impressions cannot be written down: %s", error)
            self._failing = str(error)
            return False
        self._failing = ""
        return True


def _ms(seconds: float) -> int:
    return int(seconds * 1000)
