"""Load shedding: requests beyond the limit are rejected before they cost much.

Rejecting a request on the normal path (task, routing, error, encoding) takes a large part of the time of
computing one. So a request to predict is rejected as soon as its headers have arrived, with a prepared
response, and its body is discarded.

A client that ignores ``Retry-After`` is recognized by its connection. Its next 503 is delayed, so that it
retries less often, and it may use only half of the places, so that clients that waited find one free.
A proxy, whose connections are shared, loses little: admitted requests are never delayed.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from typing import Final

from stream_ctr.serving.api_error import RETRY_SECONDS, ApiError
from stream_ctr.serving.http.admission import Admission, overloaded
from stream_ctr.serving.http.asgi import Scope
from stream_ctr.serving.http.protocol import TimeoutProtocol, response
from stream_ctr.serving.http.tokens import Tokens
from stream_ctr.serving.metrics import NO_ARM, ServeMetrics

HOLD_SECONDS: Final = 0.25
"""Delay of the 503 response to a connection that retried too early."""
TICK_SECONDS: Final = 0.005
RANK: Final = b"/v1/rank"
MODELS, INFER = b"/v2/models/", b"/infer"


class LoadShedder:
    """Load shedding of one worker: which requests are rejected, and which rejections are delayed."""

    def __init__(self, admission: Admission, tokens: Tokens, metrics: ServeMetrics) -> None:
        self._admission = admission
        self._tokens = tokens
        self._metrics = metrics
        self._held: deque[tuple[float, SheddingProtocol]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        text = overloaded(admission.places)
        self._answers = {
            closing: response(
                b"503 Service Unavailable", text, b"retry-after: %d\r\n" % RETRY_SECONDS, closing=closing
            )
            for closing in (False, True)
        }

    def admits(self, path: bytes, scope: Scope, early: bool, loop: asyncio.AbstractEventLoop) -> bool:
        """Whether a request is admitted. Requests that do not predict always are."""
        if path != RANK and not (path.startswith(MODELS) and path.endswith(INFER)):
            return True
        try:
            self._tokens.check(scope)
        except ApiError:
            return True  # the application responds with 401; the request occupies no place
        if self._admission.expect(
            max(1, self._admission.places // 2) if early else self._admission.places, loop
        ):
            return True
        if path == RANK:
            self._metrics.count_request(503, NO_ARM)
        else:
            self._metrics.count_inference(503, NO_ARM)
        return False

    def answer(self, closing: bool) -> bytes:
        """The prepared 503 response."""
        return self._answers[closing]

    def hold(self, connection: SheddingProtocol, loop: asyncio.AbstractEventLoop) -> None:
        """Send the delayed 503 of this connection after HOLD_SECONDS."""
        self._held.append((loop.time() + HOLD_SECONDS, connection))
        if self._timer is None:
            self._timer = loop.call_later(HOLD_SECONDS, self._release, loop)

    def _release(self, loop: asyncio.AbstractEventLoop) -> None:
        """Send the delayed responses that are due, a few at a time, to spread the retries."""
        now = loop.time()
        for _ in range(math.ceil(len(self._held) * TICK_SECONDS / HOLD_SECONDS)):
            if self._held[0][0] > now:
                break
            self._held.popleft()[1].release()
        self._timer = loop.call_later(TICK_SECONDS, self._release, loop) if self._held else None


class SheddingProtocol(TimeoutProtocol):
    """HTTP with load shedding in front of the application."""

    load_shedder: LoadShedder
    _shedding = False
    """Whether the request being received is rejected; its body is discarded."""
    _closing = False
    _held = False
    """Whether the 503 response to a rejected request is still to be sent."""
    _shed_at = float("-inf")

    def on_message_begin(self) -> None:
        self.release()  # a pipelined request: responses must keep the order of requests
        super().on_message_begin()

    def headers_complete(self) -> None:
        self._shedding = self._must_shed()
        if not self._shedding:
            super().headers_complete()
            return
        self._closing = self.parser.get_http_version() == "1.0" or not self.parser.should_keep_alive()
        if self.expect_100_continue:  # the body may not come, so the start of the next request is unknown
            self._shed(closing=True)

    def on_body(self, body: bytes) -> None:
        if not self._shedding:
            super().on_body(body)

    def message_complete(self) -> None:
        if not self._shedding:
            super().message_complete()
            return
        self._end_message()
        self._shedding = False
        self._shed(self._closing)

    def shutdown(self) -> None:
        self.release()
        super().shutdown()

    def release(self) -> None:
        """Send the delayed 503 response, if there is one."""
        if self._held:
            self._held = False
            if not self.transport.is_closing():
                self._answer()
                self.flow.resume_reading()

    @property
    def _unfinished(self) -> bool:
        return not self._held and super()._unfinished

    def _must_shed(self) -> bool:
        # A request queued behind another one of its connection is checked by ``admit`` when its turn comes.
        if not self.idle or self.parser.get_method() != b"POST":
            return False
        early = self.loop.time() - self._shed_at < RETRY_SECONDS
        return not self.load_shedder.admits(
            self.url.partition(b"?")[0], {"headers": self.headers}, early, self.loop
        )

    def _shed(self, closing: bool) -> None:
        if self.transport.is_closing():
            return
        if self.flow.write_paused:
            self.transport.abort()  # the client keeps sending requests and never reads a response
            return
        if closing:
            self.transport.write(self.load_shedder.answer(closing=True))
            self.transport.close()
            return
        before, self._shed_at = self._shed_at, self.loop.time()
        if self._shed_at - before < RETRY_SECONDS:
            self._held = True
            self.flow.pause_reading()
            self.load_shedder.hold(self, self.loop)
        else:
            self._answer()

    def _answer(self) -> None:
        self.transport.write(self.load_shedder.answer(closing=False))
        self._unset_keepalive_if_required()
        self.timeout_keep_alive_task = self.loop.call_later(
            self.timeout_keep_alive, self.timeout_keep_alive_handler
        )

    def _time_out(self) -> None:
        if self._shedding:
            self._shed(closing=True)
        else:
            super()._time_out()
