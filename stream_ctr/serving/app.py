"""The prediction server as an ASGI application.

One request is computed at a time, in the order of arrival. Between two of them the loop takes in what has
arrived, so requests beyond ``max_waiting`` are refused at once rather than served late.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

import msgspec

from stream_ctr.experiments.override import HEADER as OVERRIDE
from stream_ctr.serving.api import ApiError, decode_request
from stream_ctr.serving.asgi import (
    Disconnected,
    Receive,
    Scope,
    Send,
    check_content,
    header,
    read_body,
    respond,
    respond_error,
)
from stream_ctr.serving.config import ServeConfig
from stream_ctr.serving.impressions import MAX_RECORD_BYTES, encode_impression
from stream_ctr.serving.metrics import CONTENT_TYPE, NO_ARM, ServeMetrics
from stream_ctr.serving.ranking import Ranker, unavailable
from stream_ctr.serving.routing import Routing
from stream_ctr.serving.shadows import Shadows

logger = logging.getLogger("stream_ctr.serving")

Handler = Callable[[Scope, Receive, Send], Awaitable[None]]


class RankApp:
    """POST /v1/rank, GET /health/live, /health/ready and /metrics."""

    def __init__(
        self,
        serve: ServeConfig,
        routing: Routing,
        exposures: Shadows,
        metrics: ServeMetrics,
    ) -> None:
        self._serve = serve
        self._arms = routing.arms
        self._exposures = exposures
        self._metrics = metrics
        self._ranker = Ranker(routing, metrics)
        self._under_way = 0
        self._turn = asyncio.Lock()
        self._routes: dict[str, tuple[tuple[str, ...], Handler]] = {
            "/v1/rank": (("POST",), self._rank),
            "/health/live": (("GET", "HEAD"), self._live),
            "/health/ready": (("GET", "HEAD"), self._ready),
            "/metrics": (("GET", "HEAD"), self._show_metrics),
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        try:
            methods, handler = self._routes.get(scope["path"], ((), self._not_found))
            if methods and scope["method"] not in methods:
                allowed = ", ".join(methods)
                raise ApiError(
                    405,
                    f"{scope['path']} does not take {scope['method']}; use {allowed}",
                    ((b"allow", allowed.encode()),),
                )
            await handler(scope, receive, send)
        except ApiError as error:
            await respond_error(send, error)

    async def _rank(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        arm, body = NO_ARM, b""
        try:
            if self._under_way >= self._serve.max_waiting:
                raise unavailable(f"{self._under_way} requests are under way already; try again soon")
            self._under_way += 1
            try:
                arm, body = await self._answer(scope, receive, started)
            finally:
                self._under_way -= 1
        except Disconnected:
            return
        except ApiError as error:
            self._metrics.count_request(error.status, NO_ARM)
            raise
        except Exception:
            logger.exception("a rank request failed")
            self._metrics.count_request(500, NO_ARM)
            raise ApiError(500, "internal error") from None
        self._metrics.count_request(200, arm)
        self._metrics.observe_answer(arm, time.perf_counter() - started)
        await respond(send, 200, body)

    async def _answer(self, scope: Scope, receive: Receive, started: float) -> tuple[str, bytes]:
        """Arm and body of the answer; its impression is on its way to the log."""
        check_content(scope)
        serve = self._serve
        raw = await read_body(scope, receive, serve.max_body_bytes, serve.deadline_seconds)
        async with self._turn:
            # Requests that have arrived meanwhile are taken in, and refused if they are too many,
            # before this one is computed.
            await asyncio.sleep(0)
            self._check_deadline(started)
            request = decode_request(raw, serve.max_candidates)
            now_ms = time.time_ns() // 1_000_000
            ranking = self._ranker.rank(request, now_ms, header(scope, OVERRIDE))
            record = encode_impression(ranking.impression)
            if record.value is not None and len(record.value) > MAX_RECORD_BYTES:
                raise ApiError(
                    422,
                    f"user and features of the best candidate take {len(record.value)} bytes, "
                    f"more than the {MAX_RECORD_BYTES} of one impression",
                )
            body = msgspec.json.encode(ranking.answer)
            self._check_deadline(started)
            self._exposures.put(ranking, record)
            return ranking.answer.arm, body

    def _check_deadline(self, started: float) -> None:
        if time.perf_counter() - started > self._serve.deadline_seconds:
            raise ApiError(504, f"not answered within {self._serve.deadline_seconds:g} seconds")

    async def _live(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        await respond(send, 200, b'{"live":true}')

    async def _ready(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        """200 as soon as the control arm has a snapshot; each arm's version and trouble either way."""
        arms, current = self._arms, self._arms.current
        ready = arms.control in current
        shown = {}
        for name in arms.names:
            predictor = current.get(name)
            shown[name] = {
                "version": None if predictor is None else predictor.version,
                "model_version": None if predictor is None else predictor.model_version,
                "error": arms.error(name) or None,
            }
        status: dict[str, object] = {"ready": ready, "arms": shown}
        if not ready:
            status["error"] = f"arm {arms.control}: {arms.error(arms.control)}"
        await respond(send, 200 if ready else 503, msgspec.json.encode(status))

    async def _show_metrics(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        await respond(send, 200, self._metrics.render(), content_type=CONTENT_TYPE)

    async def _not_found(self, scope: Scope, _receive: Receive, _send: Send) -> None:
        raise ApiError(404, f"there is nothing at {scope['path'][:200]}; rankings are at POST /v1/rank")
