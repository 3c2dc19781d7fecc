"""Requests beyond what may wait are refused before they cost what a request costs.

Refusing one the way that others are answered takes a good part of the time of computing one: a task, the
route, the error, its encoding. So a request for a computation is refused as soon as its headers are in, with
an answer that lies ready, and its body is thrown away. The connection is then not listened to for a moment:
a client that asks again at once, instead of after ``Retry-After`` seconds, waits in its own socket and takes
no time from those that were let in.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

from stream_ctr.serving.gate import RETRY_SECONDS, Gate, overloaded
from stream_ctr.serving.protocol import PatientProtocol, response

PAUSE_SECONDS: Final = 0.25
"""Time in which a connection is not listened to after a refusal, unless there is room before: well below
RETRY_SECONDS, since other requests of a proxy may come over the same connection."""
RANK: Final = b"/v1/rank"
MODELS, INFER = b"/v2/models/", b"/infer"


class Door:
    """One worker's door: who is turned away, and the connections that are not listened to."""

    def __init__(self, gate: Gate, refused: Callable[[bytes], None]) -> None:
        """``refused`` hears the path of each request that is turned away."""
        self._gate = gate
        self._refused = refused
        self._paused: deque[tuple[float, DoorProtocol]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        gate.when_free(self._let_in)

    def admits(self, path: bytes, loop: asyncio.AbstractEventLoop) -> bool:
        """Whether a request is let in; one that computes nothing always is."""
        computes = path == RANK or (path.startswith(MODELS) and path.endswith(INFER))
        if not computes or self._gate.expect(loop):
            return True
        self._refused(path)
        return False

    def answer(self, closing: bool) -> bytes:
        """What a request that is turned away gets."""
        headers = b"retry-after: %d\r\n" % RETRY_SECONDS
        return response(b"503 Service Unavailable", overloaded(self._gate.places), headers, closing=closing)

    def pause(self, connection: DoorProtocol, loop: asyncio.AbstractEventLoop) -> None:
        """Do not listen to a connection for a moment."""
        connection.flow.pause_reading()
        self._paused.append((loop.time() + PAUSE_SECONDS, connection))
        if self._timer is None:
            self._timer = loop.call_later(PAUSE_SECONDS, self._resume, loop)

    def _resume(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        now = loop.time()
        while self._paused and self._paused[0][0] <= now:
            self._listen()
        if self._paused:
            self._timer = loop.call_later(self._paused[0][0] - now, self._resume, loop)

    def _let_in(self, room: int) -> None:
        """Listen to as many as there is room for again."""
        for _ in range(min(room, len(self._paused))):
            self._listen()

    def _listen(self) -> None:
        _, connection = self._paused.popleft()
        if not connection.transport.is_closing():
            connection.flow.resume_reading()


class DoorProtocol(PatientProtocol):
    """The server's HTTP, with a door in front of the application."""

    door: Door
    _turned_away = False
    """Whether the request that is coming in is not let in: its body is thrown away."""
    _closing = False

    def on_headers_complete(self) -> None:
        self._turned_away = self._is_turned_away()
        if not self._turned_away:
            super().on_headers_complete()
            return
        self._in_headers = False
        self._closing = self.parser.get_http_version() == "1.0" or not self.parser.should_keep_alive()
        if self.expect_100_continue:  # no body will come, or it will: who is to say where the next one begins
            self._turn_away(closing=True)

    def on_body(self, body: bytes) -> None:
        if not self._turned_away:
            super().on_body(body)

    def on_message_complete(self) -> None:
        if self._turned_away:
            self._turned_away = False
            self._turn_away(self._closing)
        else:
            super().on_message_complete()

    def _is_turned_away(self) -> bool:
        # What waits behind another request of its connection is left to the gate, when its turn has come.
        if not self.idle or self.parser.get_method() != b"POST" or self.parser.should_upgrade():
            return False
        return not self.door.admits(self.url.partition(b"?")[0], self.loop)

    def _turn_away(self, closing: bool) -> None:
        if self.transport.is_closing():
            return
        self.transport.write(self.door.answer(closing))
        if closing:
            self.transport.close()
            return
        self.timeout_keep_alive_task = self.loop.call_later(
            self.timeout_keep_alive, self.timeout_keep_alive_handler
        )
        self.door.pause(self, self.loop)

    def _give_up(self) -> None:
        if self._turned_away:
            self._turn_away(closing=True)
        else:
            super()._give_up()
