"""How many requests are let in, and in which order they are computed.

Requests are computed one after another, in the order of arrival. Between them the loop takes in what has
arrived, so requests beyond ``max_waiting`` are refused at once rather than served late. Refusing costs time
as well: under an overload as much of it goes to computing as to refusing, however many ask again at once.
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
from stream_ctr.serving.api_error import ApiError, unavailable
from stream_ctr.serving.http.asgi import Disconnected, Receive, Scope, check_content, read_body

logger = logging.getLogger("stream_ctr.serving")

T = TypeVar("T")
INITIAL_MEAN_SECONDS: Final = 0.0005
"""Time to compute one request, before any was; then an average over the last ones."""
MEAN_REQUESTS: Final = 50
"""Requests over which that average runs."""


def overloaded(places: int) -> str:
    """Why a request is refused."""
    return f"{places} requests are under way already; try again soon"


class Admission:
    """One worker's gate, for all requests that compute."""

    def __init__(self, serve: ServeConfig) -> None:
        self.places = serve.max_waiting
        """Requests that may be under way at once."""
        self._serve = serve
        self.under_way = 0
        """Requests that are."""
        self._expected = 0
        """Requests that the protocol has let in and that have not come to ``admit`` yet."""
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._scheduler: asyncio.Task[None] | None = None
        self._mean_seconds = INITIAL_MEAN_SECONDS
        self._computed = 0.0
        """Seconds of computing since the usher last looked."""

    def expect(self, places: int, loop: asyncio.AbstractEventLoop) -> bool:
        """Whether a request finds one of so many places; it has to come to ``admit`` in the next round of
        the loop, or the place is another's."""
        if self.under_way + self._expected >= places:
            return False
        if not self._expected:
            loop.call_soon(
                self._reset_expected
            )  # before the tasks of those that are expected: they come later
        self._expected += 1
        return True

    def _reset_expected(self) -> None:
        self._expected = 0

    async def admit(self, work: Callable[[], Awaitable[T]], refused: Callable[[int], None]) -> T:
        """The work's result; ``refused`` hears the status of every request that ends without one.

        Raises:
            ApiError: 503 when too many are under way already, 500 for a defect, or as the work says.
            Disconnected: the client went away first.
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
        """The request's body: JSON, or one of the other ``kinds`` of content.

        Raises:
            ApiError: 415, 413 or 408.
        """
        check_content(scope, *kinds)
        return await read_body(scope, receive, self._serve.max_body_bytes, self._serve.deadline_seconds)

    @asynccontextmanager
    async def turn(self, started: float) -> AsyncIterator[None]:
        """The time in which this request is computed; the block must not wait for anything.

        Raises:
            ApiError: 504 when the deadline has passed by then.
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
        """Let in the requests that wait, in each round of the loop as many as it spent on all else."""
        try:
            while self._waiting:
                began, self._computed = time.perf_counter(), 0.0
                # In this round the loop computes those let in before, takes in what has arrived, and refuses.
                await asyncio.sleep(0)
                other = time.perf_counter() - began - self._computed
                for _ in range(min(len(self._waiting), max(1, int(other / self._mean_seconds)))):
                    place = self._waiting.popleft()
                    if not place.done():
                        place.set_result(None)
        finally:
            self._scheduler = None

    def check_deadline(self, started: float) -> None:
        """Raises ApiError 504 when a request begun at ``started`` (of time.perf_counter) is late."""
        if time.perf_counter() - started > self._serve.deadline_seconds:
            raise ApiError(504, f"not answered within {self._serve.deadline_seconds:g} seconds")
