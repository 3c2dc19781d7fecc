"""Admission control: how many requests are admitted, and in which order they are computed.

Requests are computed one at a time, in order of arrival. Between computations the event loop reads new
requests, so requests beyond ``max_waiting`` are rejected at once instead of being served late. Rejecting also
costs time: under overload, computing gets as much time as all other work, however many clients retry at once.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final, TypeVar

from stream_ctr.config.serve import ServeConfig
from stream_ctr.serving.api_error import RETRY_SECONDS, ApiError, unavailable
from stream_ctr.serving.http.asgi import Disconnected, Receive, Scope, check_content, read_body

logger = logging.getLogger("stream_ctr.serving")

T = TypeVar("T")
INITIAL_MEAN_SECONDS: Final = 0.0005
"""Assumed time to compute one request, until a running mean of measured times is available."""
MEAN_REQUESTS: Final = 50
"""Requests that the running mean covers."""


def overloaded(places: int) -> str:
    """Error text of a request that is rejected for overload."""
    return f"overloaded: {places} requests are in progress; retry after {RETRY_SECONDS} s"


class Admission:
    """Admission control of one worker, for every request that predicts."""

    def __init__(self, serve: ServeConfig) -> None:
        self.places = serve.max_waiting
        """Requests that may be in progress at once."""
        self._serve = serve
        self.under_way = 0
        """Requests in progress."""
        self._expected = 0
        """Requests that the protocol has admitted and that have not reached ``admit`` yet."""
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._scheduler: asyncio.Task[None] | None = None
        self._mean_seconds = INITIAL_MEAN_SECONDS
        self._computed = 0.0
        """Seconds spent computing in the current round of the scheduler."""

    def expect(self, places: int, loop: asyncio.AbstractEventLoop) -> bool:
        """Reserve one of ``places`` for a request; False if all are in use. The reservation lapses unless the
        request reaches ``admit`` in the next round of the event loop."""
        if self.under_way + self._expected >= places:
            return False
        if not self._expected:
            loop.call_soon(self._reset_expected)  # runs before the tasks of the expected requests
        self._expected += 1
        return True

    def _reset_expected(self) -> None:
        self._expected = 0

    async def admit(self, work: Callable[[], Awaitable[T]], refused: Callable[[int], None]) -> T:
        """Await the work and return its result. ``refused`` is called with the status of a failed request.

        Raises:
            ApiError: 503 if too many requests are in progress, 500 for a defect, or as raised by the work.
            Disconnected: the client closed the connection.
        """
        try:
            if self.under_way >= self.places:
                raise unavailable(overloaded(self.under_way))
            self.under_way += 1
            try:
                return await work()
            finally:
                self.under_way -= 1
        except ApiError as error:
            refused(error.status)
            raise
        except Disconnected:
            raise
        except Exception:
            logger.exception("a request failed")
            refused(500)
            raise ApiError(500, "internal error") from None

    async def read(self, scope: Scope, receive: Receive, *kinds: bytes) -> bytes:
        """Read the request's body: JSON, or one of the other content types ``kinds``.

        Raises:
            ApiError: 415, 413 or 408.
        """
        check_content(scope, *kinds)
        return await read_body(scope, receive, self._serve.max_body_bytes, self._serve.deadline_seconds)

    @asynccontextmanager
    async def turn(self, started: float) -> AsyncIterator[None]:
        """Wait for this request's turn to compute. The block must not await anything.

        Raises:
            ApiError: 504 if the deadline has passed by then.
        """
        if self.under_way <= 1:
            await asyncio.sleep(0)
        else:
            await self._wait_for_turn()
        self.check_deadline(started)
        began = time.perf_counter()
        try:
            yield
        finally:
            took = time.perf_counter() - began
            self._computed += took
            self._mean_seconds += (took - self._mean_seconds) / MEAN_REQUESTS

    async def _wait_for_turn(self) -> None:
        place = asyncio.get_running_loop().create_future()
        self._waiting.append(place)
        if self._scheduler is None:
            self._scheduler = asyncio.create_task(self._schedule())
        await place

    async def _schedule(self) -> None:
        """Admit waiting requests: in each round of the event loop, as much computing as other work took."""
        try:
            while self._waiting:
                began, self._computed = time.perf_counter(), 0.0
                # In this round the loop computes the requests admitted before, reads new ones, and rejects.
                await asyncio.sleep(0)
                other = time.perf_counter() - began - self._computed
                for _ in range(min(len(self._waiting), max(1, int(other / self._mean_seconds)))):
                    place = self._waiting.popleft()
                    if not place.done():
                        place.set_result(None)
        finally:
            self._scheduler = None

    def check_deadline(self, started: float) -> None:
        """Raises ApiError 504 if a request that started at ``started`` (time.perf_counter) is too late."""
        if time.perf_counter() - started > self._serve.deadline_seconds:
            raise ApiError(
                504, f"deadline exceeded: not answered within {self._serve.deadline_seconds:g} seconds"
            )
