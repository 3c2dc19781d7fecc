"""Shadow arms: they predict the shown candidate after the response, in a separate thread.

The impression waits for their predictions before it is logged, but only for TIMEOUT_SECONDS. Predictions that
are late, or skipped because the queue is full, are left out of the impression and counted.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from contextlib import suppress
from functools import partial
from typing import Final, NamedTuple, Protocol

import msgspec

from stream_ctr.errors import RecordError
from stream_ctr.events.log import Record
from stream_ctr.features.keys.tally import Tally
from stream_ctr.serving.metrics import ServeMetrics
from stream_ctr.serving.ranking.byte_queue import ByteQueue, size_of
from stream_ctr.serving.ranking.guarded_predict import GuardedPredictor
from stream_ctr.serving.ranking.impression_log import MAX_RECORD_BYTES, encode_impression
from stream_ctr.serving.ranking.ranker import Ranking
from stream_ctr.serving.routing.routing import Routing

logger = logging.getLogger("stream_ctr.serving")

CAPACITY: Final = 256
"""Maximum number of impressions that wait for the shadow arms."""
CAPACITY_BYTES: Final = 16_777_216
"""Maximum size of their records; further impressions are logged without the shadow arms."""
TIMEOUT_SECONDS: Final = 1.0
"""Longest time that an impression waits for the shadow arms: its delay reaches the trainers, too."""
LINGER_SECONDS: Final = 0.001
"""Head start of the response: the shadow arms share the interpreter with it."""


class Sink(Protocol):
    """Accepts impressions without blocking."""

    def put(self, record: Record) -> None: ...


class _Waiting(NamedTuple):
    ranking: Ranking
    record: Record
    """The impression without the predictions of shadow arms."""
    since: float


def _size_of(waiting: _Waiting | None) -> int:
    return 0 if waiting is None else size_of(waiting.record)


class Shadows:
    """Adds the predictions of shadow arms to impressions; without shadow arms, forwards them to the log."""

    def __init__(self, sink: Sink, routing: Routing, metrics: ServeMetrics) -> None:
        self._sink = sink
        self._guarded = GuardedPredictor(routing, metrics)
        self._metrics = metrics.routing
        self._queue = ByteQueue[_Waiting | None](CAPACITY, CAPACITY_BYTES, _size_of)
        self._left_out = Tally("refuse" if metrics.left_out.refuses else "ignore")
        self._thread: threading.Thread | None = None

    def put(self, ranking: Ranking, record: Record) -> None:
        """Log an impression, with the predictions of its shadow arms if they are in time."""
        if not ranking.shadows:
            self._sink.put(record)
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="shadows", daemon=True)
            self._thread.start()
        waiting = _Waiting(ranking, record, time.monotonic())
        try:
            self._queue.put_nowait(waiting)
        except queue.Full:
            self._skip(waiting)

    def close(self, timeout_seconds: float = 5.0) -> None:
        """Forward all waiting impressions, before the sink is closed. A hanging shadow is abandoned."""
        if self._thread is None:
            return
        end = time.monotonic() + timeout_seconds
        with suppress(queue.Full):
            self._queue.put(None, timeout=timeout_seconds)
        self._thread.join(max(0.0, end - time.monotonic()))
        with suppress(queue.Empty):
            while True:
                waiting = self._queue.get_nowait()
                if waiting is not None:
                    self._skip(waiting)

    def _run(self) -> None:
        while (waiting := self._queue.get()) is not None:
            time.sleep(max(0.0, waiting.since + LINGER_SECONDS - time.monotonic()))
            try:
                record = self._predict(waiting)
            except Exception:
                logger.exception("the shadow arms failed; the impression is logged without their predictions")
                record = waiting.record
            self._sink.put(record)
            self._queue.release(waiting)

    def _skip(self, waiting: _Waiting) -> None:
        for arm in waiting.ranking.shadows:
            self._metrics.shadow_skips.labels(arm).inc()
        self._sink.put(waiting.record)

    def _predict(self, waiting: _Waiting) -> Record:
        """The impression with the probabilities of the shadow arms that were in time."""
        ranking, impression = waiting.ranking, waiting.ranking.impression
        plan, predictors = ranking.view
        p_by_arm = dict(impression.p)
        for arm in ranking.shadows:
            if time.monotonic() - waiting.since > TIMEOUT_SECONDS:
                self._metrics.shadow_skips.labels(arm).inc()
                continue
            predictor = predictors[arm]
            try:
                found = self._guarded.predict(
                    plan, arm, predictor, partial(predictor.encode, [impression.features], self._left_out)
                )
            except RecordError:
                continue  # the shadow has another schema that does not accept these features
            if found is not None:
                p_by_arm[arm] = found.p[0]
                self._metrics.shadow_predictions.labels(arm).inc()
                self._guarded.compare(plan, arm, p_by_arm)
        record = encode_impression(msgspec.structs.replace(impression, p=p_by_arm), ranking.received_ms)
        fits = record.value is not None and len(record.value) <= MAX_RECORD_BYTES
        return record if fits else waiting.record
