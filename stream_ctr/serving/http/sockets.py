"""Listening sockets, and their uvicorn configuration."""

from __future__ import annotations

import ipaddress
import logging
import os
import socket
import ssl
from typing import Any, Final

import uvicorn

from stream_ctr.errors import UsageError
from stream_ctr.serving.http.load_shedding import LoadShedder, SheddingProtocol
from stream_ctr.serving.http.protocol import TimeoutProtocol

GRACE_SECONDS: Final = 5
"""Time for requests in progress to finish after SIGTERM."""
BACKLOG: Final = 2048


def listen(host: str, port: int, key: str) -> socket.socket:
    """A listening socket. ``key`` is the setting named in the error, such as serve.port.

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


def same_socket(listener: socket.socket) -> socket.socket:
    """Another handle on a listening socket.

    ``socket.dup`` would switch it to blocking mode, and with it the handles of all other workers: a worker
    that accepts a connection which another worker has already accepted would then block until the next one
    arrives.
    """
    return socket.socket(fileno=os.dup(listener.fileno()))


def address(listener: socket.socket, encrypted: bool) -> str:
    """The URL of a listening socket."""
    host, port = listener.getsockname()[:2]
    scheme = "https" if encrypted else "http"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def is_loopback(host: str) -> bool:
    """Whether the address is reachable from this machine only.

    >>> is_loopback("127.0.0.1"), is_loopback("::1"), is_loopback("localhost"), is_loopback("0.0.0.0")
    (True, True, True, False)
    """
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def uvicorn_config(
    app: Any, tls: ssl.SSLContext | None, header_seconds: float, load_shedder: LoadShedder | None = None
) -> uvicorn.Config:
    """uvicorn's settings for one listener, with load shedding if ``load_shedder`` is given."""
    kept = {"timeout_seconds": header_seconds, "load_shedder": load_shedder}
    protocol = type("Protocol", (TimeoutProtocol if load_shedder is None else SheddingProtocol,), kept)
    # Malformed HTTP gets a response. A log line for each would let any client fill the disk.
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
