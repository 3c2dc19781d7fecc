"""The server's sockets, encryption and HTTP protocol."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
import ssl
from pathlib import Path
from typing import Any, Final

import msgspec
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from stream_ctr.errors import ConfigError, UsageError
from stream_ctr.serving.config import ServeConfig

GRACE_SECONDS: Final = 5
"""Time that requests under way have to finish after SIGTERM."""
BACKLOG: Final = 2048
MAX_HEADER_BYTES: Final = 65_536


def listen(host: str, port: int, key: str) -> socket.socket:
    """A listening socket; ``key`` (serve.port) is named when there is none.

    Raises:
        UsageError: the address cannot be listened on.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except (OSError, OverflowError, TypeError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(
            f"cannot listen on {host} port {port}: {reason}; choose another {key.replace('port', 'host')} "
            f"or {key}"
        ) from None


def address(listener: socket.socket, encrypted: bool) -> str:
    """The URL of a listening socket."""
    host, port = listener.getsockname()[:2]
    scheme = "https" if encrypted else "http"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches the address.

    >>> is_loopback("127.0.0.1"), is_loopback("::1"), is_loopback("localhost"), is_loopback("0.0.0.0")
    (True, True, True, False)
    """
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def tls_context(serve: ServeConfig) -> ssl.SSLContext | None:
    """How the server encrypts; None where it does not.

    Raises:
        ConfigError: a file is missing, unreadable or not what it should be, or has no effect.
    """
    if not serve.tls_certificate:
        for name in ("tls_key", "tls_client_ca"):
            if getattr(serve, name):
                raise ConfigError(f"serve.{name} has no effect without serve.tls_certificate; set both")
        return None
    for name in ("tls_certificate", "tls_key", "tls_client_ca"):
        _check_readable(name, getattr(serve, name))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    key = serve.tls_key or serve.tls_certificate
    try:
        # Without a passphrase of ours, OpenSSL would ask for one on the terminal and wait.
        context.load_cert_chain(serve.tls_certificate, key, password=lambda: b"")
    except ssl.SSLError:
        raise ConfigError(
            f"serve.tls_certificate = {serve.tls_certificate!r} is no certificate with the unencrypted "
            f"private key in {key}, both PEM"
        ) from None
    if serve.tls_client_ca:
        try:
            context.load_verify_locations(serve.tls_client_ca)
        except ssl.SSLError:
            raise ConfigError(
                f"serve.tls_client_ca = {serve.tls_client_ca!r} is no PEM file of certificates"
            ) from None
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _check_readable(name: str, path: str) -> None:
    if not path:
        return
    try:
        Path(path).open("rb").close()
    except OSError as error:
        raise ConfigError(f"serve.{name} = {path!r} is not readable: {error.strerror}") from None


def uvicorn_config(app: Any, tls: ssl.SSLContext | None, header_seconds: float) -> uvicorn.Config:
    """uvicorn's settings for one listener."""
    # What is no HTTP is answered; a line in the log for each would let any client fill the disk.
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)

    class Protocol(PatientProtocol):
        patience_seconds = header_seconds

    return uvicorn.Config(
        app,
        loop="auto",
        http=Protocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=GRACE_SECONDS,
        ssl_context_factory=None if tls is None else lambda config, default: tls,
    )


class PatientProtocol(HttpToolsProtocol):
    """uvicorn's HTTP, with an end to a request's headers, and JSON for what is not HTTP.

    Without it a client that sends one byte a minute holds its connection for ever, and one that sends
    headers without end fills the memory.
    """

    patience_seconds: float

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._headers_due: asyncio.TimerHandle | None = None
        self._header_bytes = 0
        self._wait_for_headers()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._headers_due is None:
            self._header_bytes = 0
            return
        self._header_bytes += len(data)
        if self._header_bytes > MAX_HEADER_BYTES:
            self._stop_waiting()
            text = f"the headers are longer than {MAX_HEADER_BYTES} bytes"
            self._refuse(b"431 Request Header Fields Too Large", text)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._wait_for_headers()

    def on_headers_complete(self) -> None:
        self._stop_waiting()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        self._refuse(b"400 Bad Request", msg)

    def _wait_for_headers(self) -> None:
        if self._headers_due is None:
            self._headers_due = self.loop.call_later(self.patience_seconds, self._give_up)

    def _stop_waiting(self) -> None:
        if self._headers_due is not None:
            self._headers_due.cancel()
            self._headers_due = None

    def _give_up(self) -> None:
        self._headers_due = None
        if self.transport is None:
            return  # the TLS handshake failed
        if self.cycle is not None and not self.cycle.response_complete:
            self._wait_for_headers()  # an earlier request of the connection is still being answered
            return
        text = f"the headers did not arrive within {self.patience_seconds:g} seconds"
        self._refuse(b"408 Request Timeout", text)

    def _refuse(self, status: bytes, text: str) -> None:
        if self.transport.is_closing():
            return
        body = msgspec.json.encode({"error": text})
        self.transport.write(
            b"HTTP/1.1 " + status + b"\r\ncontent-type: application/json\r\ncontent-length: "
            + str(len(body)).encode() + b"\r\nconnection: close\r\n\r\n" + body
        )  # fmt: skip
        self.transport.close()
