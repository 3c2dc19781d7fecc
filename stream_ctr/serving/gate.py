"""How many requests are let in, and in which order they are computed.

One request is computed at a time, in the order of arrival. Between two of them the loop takes in what has
arrived, so requests beyond ``max_waiting`` are refused at once rather than served late.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final, TypeVar

from stream_ctr.serving.api import ApiError
from stream_ctr.serving.asgi import Disconnected, Receive, Scope, check_content, read_body
from stream_ctr.serving.config import ServeConfig

logger = logging.getLogger("stream_ctr.serving")

T = TypeVar("T")
RETRY_SECONDS: Final = 1
"""What Retry-After says."""


def unavailable(text: str) -> ApiError:
    """The answer 503, which asks to come again."""
    return ApiError(503, text, ((b"retry-after", str(RETRY_SECONDS).encode()),))


class Gate:
    """One worker's gate, for all requests that compute."""

    def __init__(self, serve: ServeConfig) -> None:
        self._serve = serve
        self._under_way = 0
        self._turn = asyncio.Lock()

    async def admit(self, work: Callable[[], Awaitable[T]], refused: Callable[[int], None]) -> T:
        """The work's result; ``refused`` hears the status of every request that ends without one.

        Raises:
            ApiError: 503 when too many are under way already, 500 for a defect, or as the work says.
            Disconnected: the client went away first.
        """
        try:
            if self._under_way >= self._serve.max_waiting:
                raise unavailable(f"{self._under_way} requests are under way already; try again soon")
            self._under_way += 1
            try:
                return await work()
            finally:
                self._under_way -= 1
        except ApiError as error:
            refused(error.status)
            raise
        except Disconnected:
            raise
        except Exception:
            logger.exception("a request failed")
            refused(500)
            raise ApiError(500, "internal error") from None

    async def read(self, scope: Scope, receive: Receive) -> bytes:
        """The request's body.

        Raises:
            ApiError: 415, 413 or 408.
        """
        check_content(scope)
        return await read_body(scope, receive, self._serve.max_body_bytes, self._serve.deadline_seconds)

    @asynccontextmanager
    async def turn(self, started: float) -> AsyncIterator[None]:
        """The time in which this request alone is computed.

        Raises:
            ApiError: 504 when the deadline has passed by then.
        """
        async with self._turn:
            # Requests that have arrived meanwhile are taken in, and refused if they are too many,
            # before this one is computed.
            await asyncio.sleep(0)
            self.check_deadline(started)
            yield

    def check_deadline(self, started: float) -> None:
        """Raises ApiError 504 when a request begun at ``started`` (of time.perf_counter) is late."""
        if time.perf_counter() - started > self._serve.deadline_seconds:
            raise ApiError(504, f"not answered within {self._serve.deadline_seconds:g} seconds")
