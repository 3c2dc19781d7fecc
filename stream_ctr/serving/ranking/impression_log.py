"""Impressions on their way to the log: the answer never waits for them."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from contextlib import suppress

import msgspec

from stream_ctr.config.log import LogConfig
from stream_ctr.errors import LogError, UsageError
from stream_ctr.events.log import EventLog, Record
from stream_ctr.events.records import Impression
from stream_ctr.serving.metrics import ServeMetrics
from stream_ctr.serving.ranking.byte_queue import ByteQueue, size_of
from stream_ctr.serving.ranking.log_gaps import LogGaps

logger = logging.getLogger("stream_ctr.serving")

BATCH = 500
"""Most impressions in one append."""
BATCH_BYTES = 8_388_608
"""Their size, beyond which no more are added: a client of the log copies what it appends."""
LINGER_SECONDS = 0.005
"""Time in which more impressions join the first of a batch: one durable append serves them all."""
FIRST_RETRY_SECONDS = 0.1
LONGEST_RETRY_SECONDS = 2.0
MAX_RECORD_BYTES = 524_288
"""Longest impression that is logged; a log that refuses one record would hold up all behind it."""


def encode_impression(impression: Impression, received_ms: int) -> Record:
    """The impression as a record, keyed by its event id and stamped with the server's clock: what a client
    says of its time (``ts_ms``) can then be compared with it."""
    return Record(impression.event_id.encode(), msgspec.json.encode(impression), received_ms)


class ImpressionLog:
    """A queue, bounded in records and bytes, and one thread that appends what is in it to the event log.

    A batch that was not acknowledged is appended again until it is: an impression may come twice, which
    its event id tells, but none is lost while there is room in the queue. What finds no room is dropped
    and counted.
    """

    def __init__(
        self,
        config: LogConfig,
        capacity: int,
        capacity_bytes: int,
        open_log: Callable[[str], EventLog],
        metrics: ServeMetrics,
        gaps: LogGaps | None = None,
    ) -> None:
        """``gaps`` is told of the spans in which the log takes nothing."""
        self._config = config
        self._open_log = open_log
        self._metrics = metrics
        self._gaps = gaps
        self._queue = ByteQueue[Record](capacity, capacity_bytes, size_of)
        self._stopping = threading.Event()
        self._opened = threading.Event()
        self._start_error: UsageError | None = None
        self._deadline = float("inf")
        self._failing = ""
        self._batch_size = 0
        self._log: EventLog | None = None
        self._thread = threading.Thread(target=self._run, name="impressions", daemon=True)
        metrics.watch_queue(self._queue.qsize, lambda: self._queue.bytes)

    def start(self, timeout_seconds: float = 5.0) -> None:
        """Open the log; when it cannot be reached now, go on trying while the server answers.

        Raises:
            UsageError: the address is wrong in a way that trying again does not mend.
        """
        self._thread.start()
        self._opened.wait(timeout_seconds)
        if self._start_error is not None:
            raise self._start_error

    def put(self, record: Record) -> None:
        """Queue one record; it is dropped and counted when the queue is full."""
        try:
            self._queue.put_nowait(record)
        except queue.Full:
            self._drop(1)

    def close(self, timeout_seconds: float = 5.0) -> None:
        """Append what is queued, for at most about ``timeout_seconds``; the rest is dropped and counted."""
        self._deadline = time.monotonic() + timeout_seconds
        self._stopping.set()
        self._thread.join(timeout_seconds + LONGEST_RETRY_SECONDS)
        left = self._queue.qsize() + (self._batch_size if self._thread.is_alive() else 0)
        if left:
            self._drop(left)
            logger.warning("%d impressions were dropped: the log did not take them before the exit", left)
        if self._gaps is not None:
            self._gaps.close()

    def _drop(self, count: int) -> None:
        self._metrics.impressions_dropped.inc(count)
        if self._gaps is not None:
            self._gaps.dropped(count)

    def _run(self) -> None:
        try:
            self._open_first()
            while self._start_error is None and (batch := self._next_batch()):
                self._batch_size = len(batch)
                if not self._append(batch):
                    self._drop(len(batch))
                    logger.warning("%d impressions were dropped: the log did not take them", len(batch))
                    return
                for record in batch:
                    self._queue.release(record)
        except Exception:
            # A defect: without this the queue would fill in silence while the log seems to be well.
            self._metrics.log_up.set(0)
            logger.exception("logging impressions ended; all further ones will be dropped")
        finally:
            self._opened.set()
            self._close_log()

    def _open_first(self) -> None:
        """Open the log before the first impression, so that a wrong address shows at the start."""
        try:
            self._try_append([])
        except UsageError as error:
            self._start_error = error
        self._opened.set()

    def _next_batch(self) -> list[Record]:
        """Up to BATCH records or about BATCH_BYTES, waiting for the first; empty when the server stops and
        none is left."""
        while True:
            try:
                batch = [self._queue.get(timeout=0.1)]
                break
            except queue.Empty:
                if self._gaps is not None:
                    self._gaps.settle()
                if self._stopping.is_set():
                    return []
        self._stopping.wait(LINGER_SECONDS)
        size = size_of(batch[0])
        while len(batch) < BATCH and size < BATCH_BYTES:
            try:
                batch.append(self._queue.get_nowait())
            except queue.Empty:
                break
            size += size_of(batch[-1])
        return batch

    def _append(self, batch: list[Record]) -> bool:
        """Append until it is acknowledged; False when the server stops before."""
        wait = FIRST_RETRY_SECONDS
        while not self._try_append(batch):
            if not self._pause(wait):
                return False
            wait = min(2 * wait, LONGEST_RETRY_SECONDS)
        return True

    def _try_append(self, batch: list[Record]) -> bool:
        """Open the log unless it is, and append the batch. An empty batch only opens."""
        try:
            if self._log is None:
                self._log = self._open_log(self._config.url)
                self._ensure_topic(self._log)
            if batch:
                self._log.append(self._config.impressions, batch)
        except LogError as error:
            self._fail(error)
            self._close_log()  # opened anew at the next try: what is wrong may be this connection
            return False
        self._recover()
        self._metrics.impressions_logged.inc(len(batch))
        return True

    def _ensure_topic(self, log: EventLog) -> None:
        """Make the topic of impressions where there is none; an existing one keeps its partitions."""
        config = self._config
        there = log.ensure_topic(config.impressions, config.partitions)
        if there != config.partitions:
            logger.warning(
                "topic %s has %d partitions, log.partitions = %d: the topic's number is used",
                *(config.impressions, there, config.partitions),
            )
        with suppress(LogError):  # before the first click there may be no such topic
            clicks = log.partitions(config.clicks)
            if clicks != there:
                logger.warning(
                    "topic %s has %d partitions, topic %s has %d: trainers refuse them; add partitions "
                    "to the smaller one until both have %d",
                    *(config.impressions, there, config.clicks, clicks, max(there, clicks)),
                )

    def _close_log(self) -> None:
        log, self._log = self._log, None
        if log is not None:
            with suppress(LogError):
                log.close()

    def _pause(self, seconds: float) -> bool:
        """Wait before the next try; False when the server stops and there is no time for one."""
        if not self._stopping.wait(seconds):
            return True
        left = self._deadline - time.monotonic()
        if left <= 0:
            return False
        time.sleep(min(FIRST_RETRY_SECONDS, left))
        return True

    def _fail(self, error: LogError) -> None:
        self._metrics.log_failures.inc()
        self._metrics.log_up.set(0)
        if self._gaps is not None:
            self._gaps.failed(str(error))
        if str(error) != self._failing:
            self._failing = str(error)
            logger.warning("impressions wait for the log: %s", error)

    def _recover(self) -> None:
        self._metrics.log_up.set(1)
        if self._gaps is not None:
            self._gaps.recovered()
        if self._failing:
            self._failing = ""
            logger.warning("the log takes impressions again")
