"""The closed loop: visits sent to a prediction server, and clicks on the ads that it chose.

One thread iterates over the visits in order and writes the clicks. Worker threads send the requests, each
over its own connection. A visit is sent only when every visit more than ``connections`` before it is
answered, so visits lost in an interruption are close to the end.
"""

from __future__ import annotations

import heapq
import math
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from simulators.closed_loop.rank_client import RankAnswer, RankClient, ServerBusy, ServerUnavailable
from simulators.closed_loop.report import Summary
from simulators.closed_loop.visits import Visit, Visits
from stream_ctr.errors import StreamCTRError
from stream_ctr.events.log import Record
from stream_ctr.events.records import RECORD_VERSION, Click

TICK_SECONDS: Final = 0.05
"""Clicks due within one tick are appended together."""
WAKE_SECONDS: Final = 0.2
"""Longest sleep, which bounds the reaction time to a signal."""
PROGRESS_SECONDS: Final = 0.25
FAILURES: Final = 5
"""Responses with 408 or 5xx (except 503) after which a visit is abandoned."""
FIRST_PAUSE_SECONDS: Final = 0.1
LONGEST_PAUSE_SECONDS: Final = 2.0

Append = Callable[[Sequence[Record]], None]


class Clock:
    """Maps event time to the monotonic clock of a paced run."""

    def __init__(self, paced: bool, anchor_ms: int, began: float) -> None:
        """In a ``paced`` run, event time ``anchor_ms`` is at ``began`` on the monotonic clock, in seconds."""
        self._paced = paced
        self._anchor_ms = anchor_ms
        self._began = began

    def wait_seconds(self, time_ms: float) -> float:
        """Seconds until that event time, negative if it has passed; 0 in an unpaced run."""
        if not self._paced:
            return 0.0
        return self._began + (time_ms - self._anchor_ms) / 1000.0 - time.monotonic()

    def now_ms(self) -> float | None:
        """Current event time; None in an unpaced run, in which only visits advance it."""
        if not self._paced:
            return None
        return self._anchor_ms + 1000.0 * (time.monotonic() - self._began)


@dataclass(frozen=True, slots=True)
class _Result:
    """Result of one visit: a response, or none (``failed``, or cancelled at the end of the run)."""

    visit: Visit
    answer: RankAnswer | None = None
    seconds: float = 0.0
    behind_seconds: float = 0.0
    busy: int = 0
    failed: bool = False


class Traffic:
    """Sends visits to the server and writes their clicks.

    Args:
        visits: the source of the visits.
        numbers: the numbers of the visits to send, in order.
        clients: one per connection; closed at the end.
        append: writes clicks to the log.
        clock: schedules the visits.
        pending: pending clicks of an interrupted run: time in milliseconds, and number of the visit.
        stop: ends the run early.
        say: reports when the server is unavailable and when it recovers.
        progress: receives the summary periodically.
    """

    def __init__(
        self,
        visits: Visits,
        numbers: Iterator[int],
        clients: Sequence[RankClient],
        append: Append,
        clock: Clock,
        *,
        pending: Sequence[tuple[int, int]] = (),
        stop: threading.Event | None = None,
        say: Callable[..., None] = lambda event, **values: None,
        progress: Callable[[Summary], None] = lambda summary: None,
    ) -> None:
        self._visits, self._numbers, self._clients = visits, numbers, clients
        self._append, self._clock = append, clock
        self._pending = sorted(pending)
        self._stop = stop or threading.Event()
        self._say, self._progress = say, progress
        self._halt = threading.Event()
        self._requests: queue.SimpleQueue[Visit | None] = queue.SimpleQueue()
        self._results: queue.SimpleQueue[_Result | StreamCTRError | str] = queue.SimpleQueue()
        self._in_flight: set[int] = set()
        self._next: Visit | None = None
        self._last_problem = ""
        self._written = -math.inf
        self.summary = Summary()

    def run(self) -> Summary:
        """Run until the visits end and their clicks are written, or ``stop`` is set.

        Raises:
            StreamCTRError: the server rejects a request permanently.
            LogError: an append of clicks failed.
        """
        began = reported = time.monotonic()
        threads = [threading.Thread(target=self._work, args=(client,)) for client in self._clients]
        for thread in threads:
            thread.start()
        try:
            self._advance()
            while not self._stop.is_set() and (self._next or self._in_flight or self._pending):
                self._wait(min(self._submit(), self._write_clicks(), WAKE_SECONDS))
                if time.monotonic() >= reported + PROGRESS_SECONDS:
                    reported = time.monotonic()
                    self._progress(self.summary)
        finally:
            self._halt.set()
            for _ in threads:
                self._requests.put(None)
            for thread in threads:
                thread.join()
            self.summary.seconds = time.monotonic() - began
        self._finish()
        return self.summary

    def _advance(self) -> None:
        """Generate the next visit to send."""
        number = next(self._numbers, None)
        self._next = None if number is None else self._visits.visit(number)

    def _submit(self) -> float:
        """Send the visits that are due; returns the seconds until the next one is."""
        while self._next is not None:
            oldest = min(self._in_flight, default=self._next.number)
            room = len(self._clients)
            if len(self._in_flight) >= room or abs(self._next.number - oldest) >= room:
                return math.inf  # until a response arrives
            wait = self._clock.wait_seconds(self._next.time_ms)
            if wait > 0:
                return wait
            self._in_flight.add(self._next.number)
            self.summary.sent += 1
            self._requests.put(self._next)
            self._advance()
        return math.inf

    def _wait(self, seconds: float) -> None:
        """Handle the workers' results; wait up to ``seconds`` for the first one."""
        try:
            self._handle(self._results.get(timeout=max(0.0, seconds)))
            while True:
                self._handle(self._results.get_nowait())
        except queue.Empty:
            return

    def _handle(self, result: _Result | StreamCTRError | str) -> None:
        if isinstance(result, StreamCTRError):
            raise result
        if isinstance(result, str):
            if result != self._last_problem:
                self._last_problem = result
                self._say("waiting", reason=result)
            return
        summary, visit, answer = self.summary, result.visit, result.answer
        self._in_flight.discard(visit.number)
        summary.busy += result.busy
        summary.failed += result.failed
        if answer is None:
            return
        if not 0 <= answer.best < len(visit.truth):
            raise StreamCTRError(
                f"the server chose candidate {answer.best} of {len(visit.truth)} for {visit.event_id}"
            )
        if self._last_problem:
            self._last_problem = ""
            self._say("server available again")
        summary.answered += 1
        summary.latency.add(result.seconds)
        if self._clock.now_ms() is not None:
            summary.behind.add(result.behind_seconds)
        summary.outcome.add(answer.arm, visit, answer.best)
        if visit.clicks(answer.best):
            heapq.heappush(self._pending, (visit.time_ms + visit.delay_ms, visit.number))

    def _write_clicks(self) -> float:
        """Append the clicks that are due; returns the seconds until the next one may be written."""
        if not self._pending:
            return math.inf
        since = time.monotonic() - self._written
        if since < TICK_SECONDS:
            return TICK_SECONDS - since
        due_ms = self._due_ms()
        records = []
        # The log timestamp is the wall clock, as for the server's impressions, not the event time.
        appended_ms = time.time_ns() // 1_000_000
        while self._pending and self._pending[0][0] <= due_ms:
            time_ms, number = heapq.heappop(self._pending)
            event_id = f"{self._visits.prefix}{number}"
            click = Click(v=RECORD_VERSION, event_id=event_id, ts_ms=time_ms)
            records.append(Record(event_id.encode(), msgspec.json.encode(click), appended_ms))
        if records:
            self._append(records)
            self.summary.clicks += len(records)
            self._written = time.monotonic()
        if not self._pending:
            return math.inf
        return max(TICK_SECONDS, self._clock.wait_seconds(self._pending[0][0]))

    def _due_ms(self) -> float:
        """Event time up to which clicks are due."""
        now_ms = self._clock.now_ms()
        if now_ms is not None:
            return now_ms
        numbers = [*self._in_flight, *([self._next.number] if self._next else [])]
        config = self._visits.world.config
        return config.start_ms + config.elapsed_ms(min(numbers)) if numbers else math.inf

    def _finish(self) -> None:
        """Handle the last results and write the clicks that are due by now."""
        self._wait(0.0)
        self.summary.stopped = bool(self._next or self._in_flight or self._pending)
        self._written = -math.inf
        self._write_clicks()
        self.summary.clicks_pending = len(self._pending)

    def _work(self, client: RankClient) -> None:
        """Worker thread of one connection."""
        try:
            while not self._halt.is_set() and (visit := self._requests.get()) is not None:
                self._results.put(self._send(client, visit))
        except StreamCTRError as error:
            self._results.put(error)
        finally:
            client.close()

    def _send(self, client: RankClient, visit: Visit) -> _Result:
        """Retry until a response arrives, the server has failed too often, or the run ends."""
        behind = -self._clock.wait_seconds(visit.time_ms)
        busy = failures = 0
        pause = FIRST_PAUSE_SECONDS
        while not self._halt.is_set():
            began = time.perf_counter()
            try:
                answer = client.rank(visit.body)
            except ServerUnavailable as error:
                self._results.put(f"the server is unavailable: {error}; retrying")
                self._halt.wait(pause)
                pause = min(2.0 * pause, LONGEST_PAUSE_SECONDS)
            except ServerBusy as error:
                busy += 1
                failures += not error.overloaded
                if failures >= FAILURES:
                    self._results.put(f"{visit.event_id} abandoned: {error}")
                    return _Result(visit, busy=busy, failed=True)
                self._results.put(f"the server is busy: {error}; retrying in {error.retry_seconds:g} s")
                self._halt.wait(error.retry_seconds)
            else:
                return _Result(visit, answer, time.perf_counter() - began, behind, busy)
        return _Result(visit, busy=busy)
