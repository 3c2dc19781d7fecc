"""Asynchronous logging of impressions: the response never waits for the log."""

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
"""Maximum number of impressions in one append."""
BATCH_BYTES = 8_388_608
"""Size in bytes beyond which no more are added: a client of the log copies what it appends."""
LINGER_SECONDS = 0.005
"""Time to wait for more impressions after the first of a batch: one durable append serves them all."""
FIRST_RETRY_SECONDS = 0.1
LONGEST_RETRY_SECONDS = 2.0
MAX_RECORD_BYTES = 524_288
"""Maximum size in bytes of a logged impression: a record that the log rejects would block later ones."""


def encode_impression(impression: Impression, received_ms: int) -> Record:
    """The impression as a record, keyed by its event id. The record's timestamp is the server's clock, so
    that the client's ``ts_ms`` can be compared with it."""
    return Record(impression.event_id.encode(), msgspec.json.encode(impression), received_ms)


class ImpressionLog:
    """A queue, bounded in records and bytes, and one thread that appends its records to the event log.

    A batch is appended again until the log acknowledges it. An impression may therefore be logged twice,
    which its event id reveals, but none is lost while the queue has room. When the queue is full, impressions
    are dropped and counted.
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
        """``gaps`` records the periods in which the log is unavailable."""
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
        """Open the log. If it is unavailable, keep retrying while the server runs.

        Raises:
            UsageError: the address is wrong, so that retrying cannot succeed.
        """
        self._thread.start()
        self._opened.wait(timeout_seconds)
        if self._start_error is not None:
            raise self._start_error

    def put(self, record: Record) -> None:
        """Queue one record; if the queue is full, the record is dropped and counted."""
        try:
            self._queue.put_nowait(record)
        except queue.Full:
            self._drop(1)

    def close(self, timeout_seconds: float = 5.0) -> None:
        """Append the queued records for at most about ``timeout_seconds``; drop and count the rest."""
        self._deadline = time.monotonic() + timeout_seconds
        self._stopping.set()
        self._thread.join(timeout_seconds + LONGEST_RETRY_SECONDS)
        left = self._queue.qsize() + (self._batch_size if self._thread.is_alive() else 0)
        if left:
            self._drop(left)
            logger.warning("dropped %d impressions: the log did not accept them before the exit", left)
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
                    logger.warning("dropped %d impressions: the log did not accept them", len(batch))
                    return
                for record in batch:
                    self._queue.release(record)
        except Exception:
            # A defect. Without this the queue would fill silently while log_up stays 1.
            self._metrics.log_up.set(0)
            logger.exception("logging of impressions failed; all further impressions will be dropped")
        finally:
            self._opened.set()
            self._close_log()

    def _open_first(self) -> None:
        """Open the log before the first impression, so that a wrong address is reported at startup."""
        try:
            self._try_append([])
        except UsageError as error:
            self._start_error = error
        self._opened.set()

    def _next_batch(self) -> list[Record]:
        """Wait for a record, and return up to BATCH records or about BATCH_BYTES; empty when the server stops
        and the queue is empty."""
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
        """Append until the log acknowledges the batch; False if the server stops first."""
        wait = FIRST_RETRY_SECONDS
        while not self._try_append(batch):
            if not self._pause(wait):
                return False
            wait = min(2 * wait, LONGEST_RETRY_SECONDS)
        return True

    def _try_append(self, batch: list[Record]) -> bool:
        """Open the log if necessary, and append the batch. An empty batch only opens the log."""
        try:
            if self._log is None:
                self._log = self._open_log(self._config.url)
                self._ensure_topic(self._log)
            if batch:
                self._log.append(self._config.impressions, batch)
        except LogError as error:
            self._fail(error)
            self._close_log()  # the next try opens it again: the connection itself may be at fault
            return False
        self._recover()
        self._metrics.impressions_logged.inc(len(batch))
        return True

    def _ensure_topic(self, log: EventLog) -> None:
        """Create the topic of impressions if it does not exist; an existing one keeps its partitions."""
        config = self._config
        there = log.ensure_topic(config.impressions, config.partitions)
        if there != config.partitions:
            logger.warning(
                "topic %s has %d partitions, log.partitions = %d: using the topic's number",
                *(config.impressions, there, config.partitions),
            )
        with suppress(LogError):  # the topic may not exist before the first click
            clicks = log.partitions(config.clicks)
            if clicks != there:
                logger.warning(
                    "topic %s has %d partitions, topic %s has %d: trainers reject this; add partitions "
                    "to the smaller topic until both have %d",
                    *(config.impressions, there, config.clicks, clicks, max(there, clicks)),
                )

    def _close_log(self) -> None:
        log, self._log = self._log, None
        if log is not None:
            with suppress(LogError):
                log.close()

    def _pause(self, seconds: float) -> bool:
        """Wait before the next try; False if the server is stopping and the deadline has passed."""
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
            logger.warning("log unavailable, impressions are queued: %s", error)

    def _recover(self) -> None:
        self._metrics.log_up.set(1)
        if self._gaps is not None:
            self._gaps.recovered()
        if self._failing:
            self._failing = ""
            logger.warning("log available again")
