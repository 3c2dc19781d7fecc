"""The server's sockets and encryption."""

from __future__ import annotations

import ipaddress
import logging
import socket
import ssl
from pathlib import Path
from typing import Any, Final

import uvicorn

from stream_ctr.errors import ConfigError, UsageError
from stream_ctr.serving.config import ServeConfig
from stream_ctr.serving.door import Door, DoorProtocol
from stream_ctr.serving.protocol import PatientProtocol

GRACE_SECONDS: Final = 5
"""Time that requests under way have to finish after SIGTERM."""
BACKLOG: Final = 2048


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


def uvicorn_config(
    app: Any, tls: ssl.SSLContext | None, header_seconds: float, door: Door | None = None
) -> uvicorn.Config:
    """uvicorn's settings for one listener; with a door, requests may be turned away at it."""
    kept = {"patience_seconds": header_seconds, "door": door}
    protocol = type("Protocol", (PatientProtocol if door is None else DoorProtocol,), kept)
    # What is no HTTP is answered; a line in the log for each would let any client fill the disk.
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
    return uvicorn.Config(
        app,
        loop="auto",
        http=protocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=GRACE_SECONDS,
        ssl_context_factory=None if tls is None else lambda config, default: tls,
    )
