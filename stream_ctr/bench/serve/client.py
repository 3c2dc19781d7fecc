"""HTTP load generator in its own process.

Open loop: requests are due at fixed times, independent of the server, and latency counts from the due time. A
server that stalls for a second is charged for every request of that second instead of a single one, which
avoids coordinated omission. Closed loop: each connection sends its next request as soon as it has the
response to the last, which measures the maximum throughput.

``python -m stream_ctr.bench.serve.client`` reads lists of loads, one JSON list per line, runs the loads of a
list concurrently, and answers with a line of JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter, deque
from typing import Any, Final, cast

import httptools
import msgspec
import numpy as np

QUANTILES: Final = {"p50": 0.5, "p99": 0.99, "p999": 0.999}
END_SECONDS: Final = 10.0
"""Timeout for outstanding responses after the last request was due."""
LATE_SECONDS: Final = 0.001
"""A request sent this much after its due time counts as late because of the client."""
LAG_SECONDS: Final = 0.01
"""Interval between measurements of the client's own lag, which may be part of a latency."""


class Load(msgspec.Struct):
    """Requests to send, and their schedule."""

    port: int
    path: str
    bodies: list[str]
    """JSON bodies, sent in turn."""
    seconds: float
    connections: int
    rate: float = 0.0
    """Requests per second; 0: closed loop."""
    method: str = "POST"


class Connection(asyncio.Protocol):
    """One connection with at most one request in flight."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._due = 0.0
        self._busy = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's transport is not a subclass

    def send(self, message: bytes, due: float) -> None:
        """Send a request that was due at ``due``."""
        assert self._transport is not None
        self._due, self._busy = due, True
        self._transport.write(message)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        status, due = self._parser.get_status_code(), self._due
        self._parser = httptools.HttpResponseParser(self)
        self._busy = False
        self._run.answered(self, status, due)

    def connection_lost(self, _error: Exception | None) -> None:
        self._run.lost(self, self._busy)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


class Run:
    """One load from its first request to its last response."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._messages = [_message(load, body.encode()) for body in load.bodies]
        self._sent = 0
        self._open: set[Connection] = set()
        self._free: deque[Connection] = deque()
        self._waiting: deque[float] = deque()
        self._latencies: list[float] = []
        self._lateness: list[float] = []
        self._lags: list[float] = []
        self._failed = 0
        self._statuses: Counter[int] = Counter()
        self._ending = False
        self._idle = asyncio.Event()

    async def play(self) -> dict[str, Any]:
        """Send the load; returns latency quantiles in milliseconds and counts of responses."""
        loop, load = asyncio.get_running_loop(), self._load
        for _ in range(load.connections):
            _, connection = await loop.create_connection(lambda: Connection(self), "127.0.0.1", load.port)
            self._open.add(connection)
            self._free.append(connection)
        began = time.perf_counter()
        lags = asyncio.create_task(self._watch_lag())
        if load.rate > 0.0:
            await self._send_on_time(began)
        else:
            while self._free:
                self._send(self._free.popleft(), time.perf_counter())
            await asyncio.sleep(load.seconds)
        self._ending = True
        lags.cancel()
        took = time.perf_counter() - began
        answered = len(self._latencies)
        while self._open and (self._sent > len(self._latencies) + self._failed or self._waiting):
            self._idle.clear()
            try:
                await asyncio.wait_for(self._idle.wait(), END_SECONDS)
            except TimeoutError:
                break
        if load.rate > 0.0:
            answered, took = len(self._latencies), time.perf_counter() - began
        # A missing response counts as a failure and adds no latency.
        self._failed += max(0, self._sent - len(self._latencies) - self._failed) + len(self._waiting)
        for connection in self._open:
            connection.close()
        return self._result(answered / took)

    async def _watch_lag(self) -> None:
        while True:
            due = time.perf_counter() + LAG_SECONDS
            await asyncio.sleep(LAG_SECONDS)
            self._lags.append(time.perf_counter() - due)

    async def _send_on_time(self, began: float) -> None:
        load = self._load
        for number in range(int(load.rate * load.seconds)):
            due = began + number / load.rate
            now = time.perf_counter()
            # Always yield to the event loop, so that even a lagging client reads responses.
            await asyncio.sleep(max(0.0, due - now))
            self._lateness.append(time.perf_counter() - due)
            if self._free:
                self._send(self._free.popleft(), due)
            else:
                self._waiting.append(due)

    def answered(self, connection: Connection, status: int, due: float) -> None:
        """Record a response and reuse the connection for a waiting request."""
        self._statuses[status] += 1
        if status == 200:
            self._latencies.append(time.perf_counter() - due)
        else:
            self._failed += 1
        if self._waiting:
            self._send(connection, self._waiting.popleft())
        elif self._load.rate <= 0.0 and not self._ending:
            self._send(connection, time.perf_counter())
        else:
            self._free.append(connection)
        self._idle.set()

    def lost(self, connection: Connection, busy: bool) -> None:
        """Record a closed connection; a request in flight on it has failed."""
        self._open.discard(connection)
        if connection in self._free:
            self._free.remove(connection)
        self._failed += busy
        self._idle.set()

    def _send(self, connection: Connection, due: float) -> None:
        message = self._messages[self._sent % len(self._messages)]
        self._sent += 1
        connection.send(message, due)

    def _result(self, per_second: float) -> dict[str, Any]:
        late = np.array(self._lateness)
        found = np.array(self._latencies) * 1e3
        quantiles = {
            name: float(np.quantile(found, q)) if len(found) else None for name, q in QUANTILES.items()
        }
        return {
            **quantiles,
            "answered": len(found),
            "failed": self._failed,
            "statuses": dict(self._statuses),
            "per_second": per_second,
            "client_late_share": float((late > LATE_SECONDS).mean()) if len(late) else None,
            "client_lag_p99": float(np.quantile(self._lags, 0.99)) * 1e3 if self._lags else None,
        }


def _message(load: Load, body: bytes) -> bytes:
    head = (
        f"{load.method} {load.path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def play(load: Load) -> dict[str, Any]:
    """Send one load; returns its results."""
    return play_all([load])[0]


def play_all(loads: list[Load]) -> list[dict[str, Any]]:
    """Send several loads concurrently; returns the results of each."""
    import uvloop

    async def together() -> list[dict[str, Any]]:
        return await asyncio.gather(*(Run(load).play() for load in loads))

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(together())


def main() -> int:
    """Run the loads of each JSON line on standard input; print their results as a JSON line."""
    for line in sys.stdin:
        print(json.dumps(play_all(msgspec.json.decode(line, type=list[Load]))), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
