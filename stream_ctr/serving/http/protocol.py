"""The HTTP protocol of the server: uvicorn's, with limits on the time and size of headers."""

from __future__ import annotations

import asyncio
from array import array
from typing import Any, Final

import httptools
import msgspec
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEADER_BYTES: Final = 65_536


class UpgradeIgnoringParser(httptools.HttpRequestParser):
    """Parses every request as HTTP/1.1, whatever protocol its `Upgrade` header offers.

    A server may ignore the offer (RFC 9110, section 7.8), and the JDK's client offers h2c by default. The
    parser of httptools cannot ignore it: it stops after the headers, and the body is lost. So a new parser
    receives the same headers without `Upgrade` and takes over the connection. The protocol ignores the
    callbacks of the first pass, in which ``should_upgrade()`` is true.
    """

    def __init__(self, protocol: TimeoutProtocol) -> None:
        super().__init__(protocol)
        self._owner = protocol
        self.set_dangerous_leniencies(lenient_data_after_close=True)  # as in uvicorn's own parser

    def feed_data(self, data: bytes | bytearray | memoryview | array[int]) -> None:
        """Parse one piece of the connection's bytes."""
        feed, parser, left = httptools.HttpRequestParser.feed_data, self, memoryview(data)
        while True:
            try:
                feed(parser, left)
                return
            except httptools.HttpParserUpgrade as offer:
                if parser.get_method() == b"CONNECT":  # CONNECT requests a tunnel; there is nothing to ignore
                    raise
                left = left[offer.args[0] :]
            head = self._owner.head_without_upgrade()
            # A new parser, because after `Connection: close` the old one accepts no second request.
            parser = self._owner.parser = UpgradeIgnoringParser(self._owner)
            feed(parser, head)


class TimeoutProtocol(HttpToolsProtocol):
    """uvicorn's HTTP with limits on headers, JSON errors for malformed HTTP, and no upgrades.

    Without the limits, a client that sends one byte a minute keeps its connection open indefinitely, and one
    that sends endless headers exhausts memory.
    """

    timeout_seconds: float

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.parser = UpgradeIgnoringParser(self)
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
        """Whether no request is being processed or queued."""
        return (self.cycle is None or self.cycle.response_complete) and not self.pipeline

    @property
    def _unfinished(self) -> bool:
        """Whether the headers of the next request are incomplete."""
        return self._in_headers or (self.idle and self.timeout_keep_alive_task is None)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_headers = True

    def on_headers_complete(self) -> None:
        if not self._upgrade_offered:
            self._in_headers = False
            self.headers_complete()

    def on_message_complete(self) -> None:
        if not self._upgrade_offered:
            self.message_complete()

    def headers_complete(self) -> None:
        """A request's headers have arrived."""
        super().on_headers_complete()

    def message_complete(self) -> None:
        """A request has arrived completely."""
        self._end_message()
        super().on_message_complete()

    @property
    def _upgrade_offered(self) -> bool:
        """Whether the parser is about to parse these headers again, without `Upgrade`."""
        return self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT"

    def head_without_upgrade(self) -> bytes:
        """The request line and the headers as they were parsed, without `Upgrade`."""
        version = self.parser.get_http_version().encode()
        lines = [self.parser.get_method() + b" " + self.url + b" HTTP/" + version]
        lines += [name + b": " + value for name, value in self.headers if name != b"upgrade"]
        return b"\r\n".join(lines) + b"\r\n\r\n"

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        self._refuse(b"400 Bad Request", msg)

    def _end_message(self) -> None:
        """Exclude the piece that ends a request from the header size of the next request."""
        self._header_bytes = -self._piece_bytes

    def _wait(self) -> None:
        if self._due is None:
            self._due = self.loop.call_later(self.timeout_seconds, self._time_out)

    def _stop_waiting(self) -> None:
        if self._due is not None:
            self._due.cancel()
            self._due = None

    def _time_out(self) -> None:
        self._due = None
        if self.transport is None:
            return  # the TLS handshake failed
        if not self.idle:
            self._wait()  # an earlier request of the connection is still being processed
            return
        text = f"the headers did not arrive within {self.timeout_seconds:g} seconds"
        self._refuse(b"408 Request Timeout", text)

    def _refuse(self, status: bytes, text: str) -> None:
        """Send an error without processing the request, and close the connection."""
        if self.transport.is_closing():
            return
        self._stop_waiting()
        self.transport.write(response(status, text, closing=True))
        self.transport.close()


def response(status: bytes, text: str, headers: bytes = b"", *, closing: bool) -> bytes:
    """The bytes of a response with the body {"error": text}; ``status`` is code and phrase, ``headers`` end
    in CRLF."""
    body = msgspec.json.encode({"error": text})
    return (
        b"HTTP/1.1 " + status + b"\r\ncontent-type: application/json\r\n" + headers
        + b"content-length: " + str(len(body)).encode() + b"\r\n"
        + (b"connection: close\r\n" if closing else b"") + b"\r\n" + body
    )  # fmt: skip
