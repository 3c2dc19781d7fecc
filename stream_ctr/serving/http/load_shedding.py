"""Requests beyond what may wait are refused before they cost what a request costs.

Refusing one the way that others are answered takes a good part of the time of computing one: a task, the
route, the error, its encoding. So a request for a computation is refused as soon as its headers are in, with
an answer that lies ready, and its body is thrown away.

Who does not wait for ``Retry-After`` is told by the connection. Its next refusal comes late, so that it asks
less often; and half of the places are kept from it, so that those who have waited find one. A proxy, whose
connections are shared, loses little by that: what is let in is never held up.
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
"""Time until a refusal is told to a connection that has come again too early."""
TICK_SECONDS: Final = 0.005
RANK: Final = b"/v1/rank"
MODELS, INFER = b"/v2/models/", b"/infer"


class LoadShedder:
    """One worker's door: who is turned away, and who has to wait to hear it."""

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
        """Whether a request is let in; one that computes nothing always is."""
        if path != RANK and not (path.startswith(MODELS) and path.endswith(INFER)):
            return True
        try:
            self._tokens.check(scope)
        except ApiError:
            return True  # the application says so; it takes no place
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
        """What a request that is turned away gets."""
        return self._answers[closing]

    def hold(self, connection: SheddingProtocol, loop: asyncio.AbstractEventLoop) -> None:
        """Release this connection a moment later."""
        self._held.append((loop.time() + HOLD_SECONDS, connection))
        if self._timer is None:
            self._timer = loop.call_later(HOLD_SECONDS, self._release, loop)

    def _release(self, loop: asyncio.AbstractEventLoop) -> None:
        """Release those whose time has come, a few at a time: what comes back does not come at once."""
        now = loop.time()
        for _ in range(math.ceil(len(self._held) * TICK_SECONDS / HOLD_SECONDS)):
            if self._held[0][0] > now:
                break
            self._held.popleft()[1].release()
        self._timer = loop.call_later(TICK_SECONDS, self._release, loop) if self._held else None


class SheddingProtocol(TimeoutProtocol):
    """The server's HTTP, with a door in front of the application."""

    load_shedder: LoadShedder
    _shedding = False
    """Whether the request that is coming in is not let in: its body is thrown away."""
    _closing = False
    _held = False
    """Whether a request was turned away and has not heard of it."""
    _shed_at = float("-inf")

    def on_message_begin(self) -> None:
        self.release()  # a pipelined request of the same piece: answers come in the order of requests
        super().on_message_begin()

    def headers_complete(self) -> None:
        self._shedding = self._must_shed()
        if not self._shedding:
            super().headers_complete()
            return
        self._closing = self.parser.get_http_version() == "1.0" or not self.parser.should_keep_alive()
        if self.expect_100_continue:  # a body will come or not: who is to say where the next request begins
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
        """Let a request that was turned away hear of it."""
        if self._held:
            self._held = False
            if not self.transport.is_closing():
                self._answer()
                self.flow.resume_reading()

    @property
    def _unfinished(self) -> bool:
        return not self._held and super()._unfinished

    def _must_shed(self) -> bool:
        # What waits behind another request of its connection is left to the gate, when its turn has come.
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
            self.transport.abort()  # it asks and asks and never reads an answer
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
