"""HTTP for operators: /metrics, /health/live, /health/ready and further pages on a port of their own."""

from __future__ import annotations

import errno
import hashlib
import socket
import socketserver
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from wsgiref.simple_server import WSGIRequestHandler, make_server

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import ThreadingWSGIServer, choose_encoder
from prometheus_client.registry import Collector

from stream_ctr.errors import StreamCTRError

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

RENDER_SECONDS: Final = 0.25
"""Shortest time between two renderings; scrapes in between get the last text."""
IDLE_SECONDS: Final = 10.0
"""A client that sends nothing for this long is let go: each holds a thread."""
MOST_CLIENTS: Final = 32
"""Connections served at once; one more is closed unanswered, so that no flood of them can grow memory."""
TEXT: Final = "text/plain; charset=utf-8"

Ready = Callable[[], str | None]
"""None when ready, else the reason why not."""


class Route(NamedTuple):
    """A further page of a :class:`MetricsServer`."""

    content_type: str
    body: Callable[[], bytes]
    """Makes the body, in the thread of the request; empty while there is none, which is answered 503."""
    headers: tuple[tuple[str, str], ...] = ()


class Page:
    """The text of a collector, rendered at most every RENDER_SECONDS for each format."""

    def __init__(self, collector: Collector, clock: Callable[[], float] = time.monotonic) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(collector)
        self._clock = clock
        self._lock = threading.Lock()
        self._texts: dict[str, tuple[float, bytes]] = {}

    def text(self, accept: str) -> tuple[str, bytes]:
        """Content type and body for an Accept header."""
        encoder, content_type = choose_encoder(accept)
        with self._lock:
            now = self._clock()
            made, body = self._texts.get(content_type, (-RENDER_SECONDS, b""))
            if now - made >= RENDER_SECONDS or not body:
                body = encoder(self._registry)
                # Few formats exist, but a client may ask for escapings of its own invention.
                self._texts = dict(list(self._texts.items())[-3:])
                self._texts[content_type] = now, body
        return content_type, body


class MetricsServer:
    """Serves a collector from a thread of its own until closed.

    >>> import urllib.request
    >>> from stream_ctr.monitoring.exposition import TrainerMetrics
    >>> server = MetricsServer("127.0.0.1", 0, TrainerMetrics())
    >>> urllib.request.urlopen(f"http://127.0.0.1:{server.port}/health/live").read()
    b'live\\n'
    >>> server.close()
    """

    def __init__(
        self,
        host: str,
        port: int,
        collector: Collector,
        ready: Ready = lambda: None,
        routes: Mapping[str, Route] | None = None,
        settings: tuple[str, str] = ("train.metrics_host", "train.metrics_port"),
    ) -> None:
        """Listen on ``host``:``port``; port 0 takes a free one.

        Args:
            host, port: the address.
            collector: what /metrics shows.
            ready: why not ready, for /health/ready.
            routes: further pages by path; a client that has one by its ETag is told that it has not changed.
            settings: names of the settings of host and port, for messages.

        Raises:
            StreamCTRError: the address cannot be listened on.
        """
        self._page = Page(collector)
        self._ready = ready
        self._routes = dict(routes or {})
        self._server = _listen(host, port, self._answer, settings)
        self.host = host
        self.port = int(self._server.server_address[1])
        """The port listened on."""
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, name="metrics", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Stop listening. May be called twice."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()

    def _answer(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        path, method = environ["PATH_INFO"], environ["REQUEST_METHOD"]
        content_type = TEXT
        headers: list[tuple[str, str]] = []
        if path not in (known := ("/metrics", "/health/live", "/health/ready", *self._routes)):
            status, body = "404 Not Found", f"no such page; there are {', '.join(known)}\n".encode()
        elif method not in ("GET", "HEAD"):
            status, body = "405 Method Not Allowed", b"use GET\n"
            headers.append(("Allow", "GET, HEAD"))
        elif path == "/metrics":
            status = "200 OK"
            content_type, body = self._page.text(environ.get("HTTP_ACCEPT", ""))
        elif path in self._routes:
            status, body, content_type, headers = _from(self._routes[path], environ)
        elif path == "/health/live":
            status, body = "200 OK", b"live\n"
        else:
            reason = self._ready()
            status = "200 OK" if reason is None else "503 Service Unavailable"
            body = f"{'ready' if reason is None else reason}\n".encode()
        headers.append(("Content-Type", content_type))
        if not status.startswith("304"):  # whose length is that of the body which it does not send
            headers.append(("Content-Length", str(len(body))))
        start_response(status, headers)
        return [b"" if method == "HEAD" else body]


def _from(route: Route, environ: WSGIEnvironment) -> tuple[str, bytes, str, list[tuple[str, str]]]:
    """Status, body, content type and headers of a further page."""
    body = route.body()
    if not body:
        return "503 Service Unavailable", b"not there yet\n", TEXT, [("Retry-After", "2")]
    tag = f'"{hashlib.blake2b(body, digest_size=12).hexdigest()}"'
    headers = [*route.headers, ("ETag", tag), ("Cache-Control", "no-cache")]
    known = [each.strip().removeprefix("W/") for each in environ.get("HTTP_IF_NONE_MATCH", "").split(",")]
    if tag in known or "*" in known:
        return "304 Not Modified", b"", route.content_type, headers
    return "200 OK", body, route.content_type, headers


class _Handler(WSGIRequestHandler):
    timeout = IDLE_SECONDS

    def log_message(self, format: str, *args: object) -> None:
        """Scrapes are no news."""


class _Server(ThreadingWSGIServer):
    """Threads that end with the process, as many as MOST_CLIENTS."""

    # Python's default of 5 drops connections that come at once, and their clients wait a second.
    request_queue_size = 128

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._places = threading.BoundedSemaphore(MOST_CLIENTS)
        super().__init__(*args, **kwargs)

    def server_bind(self) -> None:
        # HTTPServer asks the name service who it is, which may take seconds where there is none.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.setup_environ()

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._places.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up or falls silent is its own affair; anything else is told."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


class _ServerV6(_Server):
    address_family = socket.AF_INET6


def _listen(host: str, port: int, application: Any, settings: tuple[str, str]) -> _Server:
    host_name, port_name = settings
    kind = _ServerV6 if ":" in host else _Server
    try:
        return make_server(host, port, application, server_class=kind, handler_class=_Handler)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            why = f"the port is in use; choose another, or 0 for a free one ({port_name})"
        else:
            why = f"{error.strerror or error}; check {host_name} and {port_name}"
        raise StreamCTRError(f"cannot serve metrics on {host}:{port}: {why}") from None
    except (TypeError, UnicodeError):  # a name that no host can have
        raise StreamCTRError(
            f"cannot serve metrics on {host!r}: that is no host name; check {host_name}"
        ) from None
    except OverflowError:
        raise StreamCTRError(
            f"cannot serve metrics on {host}:{port}: a port is between 0 and 65535 ({port_name})"
        ) from None
