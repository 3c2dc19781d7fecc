"""HTTP as the server speaks it: uvicorn's, with an end to everybody's patience."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import msgspec
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEADER_BYTES: Final = 65_536


class PatientProtocol(HttpToolsProtocol):
    """uvicorn's HTTP, with an end to a request's headers, and JSON for what is not HTTP.

    Without it a client that sends one byte a minute holds its connection for ever, and one that sends
    headers without end fills the memory.
    """

    patience_seconds: float

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._piece_bytes = self._header_bytes = 0
        self._in_headers = False
        self._due: asyncio.TimerHandle | None = None
        self._wait()

    def data_received(self, data: bytes) -> None:
        self._piece_bytes = len(data)
        super().data_received(data)
        if not self._unfinished:
            self._stop_waiting()
            self._header_bytes = 0
            return
        self._wait()
        self._header_bytes += len(data)
        if self._in_headers and self._header_bytes > MAX_HEADER_BYTES:
            text = f"the headers are longer than {MAX_HEADER_BYTES} bytes"
            self._refuse(b"431 Request Header Fields Too Large", text)

    @property
    def idle(self) -> bool:
        """Whether no request is being answered, nor waits to be."""
        return (self.cycle is None or self.cycle.response_complete) and not self.pipeline

    @property
    def _unfinished(self) -> bool:
        """Whether what has arrived is less than a request's headers."""
        return self._in_headers or (self.idle and self.timeout_keep_alive_task is None)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_headers = True

    def on_headers_complete(self) -> None:
        self._in_headers = False
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._end_message()
        super().on_message_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        self._refuse(b"400 Bad Request", msg)

    def _end_message(self) -> None:
        """What came in the same piece as the end of a request is not counted to the next one's headers."""
        self._header_bytes = -self._piece_bytes

    def _wait(self) -> None:
        if self._due is None:
            self._due = self.loop.call_later(self.patience_seconds, self._give_up)

    def _stop_waiting(self) -> None:
        if self._due is not None:
            self._due.cancel()
            self._due = None

    def _give_up(self) -> None:
        self._due = None
        if self.transport is None:
            return  # the TLS handshake failed
        if not self.idle:
            self._wait()  # an earlier request of the connection is still being answered
            return
        text = f"the headers did not arrive within {self.patience_seconds:g} seconds"
        self._refuse(b"408 Request Timeout", text)

    def _refuse(self, status: bytes, text: str) -> None:
        """Answer without a look at the request, and close the connection."""
        if self.transport.is_closing():
            return
        self._stop_waiting()
        self.transport.write(response(status, text, closing=True))
        self.transport.close()


def response(status: bytes, text: str, headers: bytes = b"", *, closing: bool) -> bytes:
    """{"error": text} with its status line (code and phrase), ready to be sent; ``headers`` end in CRLF."""
    body = msgspec.json.encode({"error": text})
    return (
        b"HTTP/1.1 " + status + b"\r\ncontent-type: application/json\r\n" + headers
        + b"content-length: " + str(len(body)).encode() + b"\r\n"
        + (b"connection: close\r\n" if closing else b"") + b"\r\n" + body
    )  # fmt: skip
