"""HTTP server for operators, on a separate port: /metrics, /health/live, /health/ready and other pages."""

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
"""Minimum time between two renderings; scrapes in between receive the last text."""
IDLE_SECONDS: Final = 10.0
"""Timeout of an idle client: each connection occupies a thread."""
MOST_CLIENTS: Final = 32
"""Maximum number of concurrent connections; further ones are closed at once, to bound memory."""
TEXT: Final = "text/plain; charset=utf-8"

Ready = Callable[[], str | None]
"""None when ready, else the reason why not."""


class Route(NamedTuple):
    """An additional page of a :class:`MetricsServer`."""

    content_type: str
    body: Callable[[], bytes]
    """Returns the body; called in the thread of the request. An empty body gives status 503."""
    headers: tuple[tuple[str, str], ...] = ()


class Page:
    """The text of a collector, rendered at most once per RENDER_SECONDS and format."""

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
                # Few formats exist, but a client may request arbitrary escaping schemes.
                self._texts = dict(list(self._texts.items())[-3:])
                self._texts[content_type] = now, body
        return content_type, body


class MetricsServer:
    """Serves a collector from a separate thread until closed.

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
        """Listen on ``host``:``port``; port 0 selects a free one.

        Args:
            host, port: the address.
            collector: the metrics of /metrics.
            ready: returns None, or the reason why /health/ready responds with 503.
            routes: additional pages by path; they support ETag and If-None-Match.
            settings: names of the settings of host and port, for error messages.

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
            status, body = "404 Not Found", f"not found; the pages are {', '.join(known)}\n".encode()
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
        if not status.startswith("304"):  # a 304 has no body
            headers.append(("Content-Length", str(len(body))))
        start_response(status, headers)
        return [b"" if method == "HEAD" else body]


def _from(route: Route, environ: WSGIEnvironment) -> tuple[str, bytes, str, list[tuple[str, str]]]:
    """Status, body, content type and headers of an additional page."""
    body = route.body()
    if not body:
        return "503 Service Unavailable", b"not available yet\n", TEXT, [("Retry-After", "2")]
    tag = f'"{hashlib.blake2b(body, digest_size=12).hexdigest()}"'
    headers = [*route.headers, ("ETag", tag), ("Cache-Control", "no-cache")]
    known = [each.strip().removeprefix("W/") for each in environ.get("HTTP_IF_NONE_MATCH", "").split(",")]
    if tag in known or "*" in known:
        return "304 Not Modified", b"", route.content_type, headers
    return "200 OK", body, route.content_type, headers


class _Handler(WSGIRequestHandler):
    timeout = IDLE_SECONDS

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing: scrapes are frequent."""


class _Server(ThreadingWSGIServer):
    """Daemon threads, at most MOST_CLIENTS of them."""

    # With Python's default of 5, simultaneous connections are dropped and their clients wait a second.
    request_queue_size = 128

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._places = threading.BoundedSemaphore(MOST_CLIENTS)
        super().__init__(*args, **kwargs)

    def server_bind(self) -> None:
        # HTTPServer looks up its own name in DNS, which may take seconds without a name server.
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
        """Ignore disconnects and timeouts of clients; log all other errors."""
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
    except (TypeError, UnicodeError):  # not a valid host name
        raise StreamCTRError(
            f"cannot serve metrics on {host!r}: not a valid host name; check {host_name}"
        ) from None
    except OverflowError:
        raise StreamCTRError(
            f"cannot serve metrics on {host}:{port}: the port must be between 0 and 65535 ({port_name})"
        ) from None
