"""A server on loopback with scripted answers, for faults that a real server rarely has."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

GOOD = b'{"event_id":"x","arm":"a","model_version":"a-1","experiment":"e","candidates":[],"best":0}'


@dataclass
class Scripted:
    """Returns the answers in turn, then repeats the last one; status 0 closes the connection instead."""

    answers: Sequence[tuple[int, bytes, dict[str, str]]]
    url: str = ""
    asked: list[tuple[str, bytes, str | None]] = field(default_factory=list)
    """Path, body and Authorization of each POST."""
    connections: int = 0


@contextlib.contextmanager
def scripted(*answers: tuple[int, bytes, dict[str, str]]) -> Iterator[Scripted]:
    script = Scripted(answers)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 5

        def setup(self) -> None:
            super().setup()
            script.connections += 1

        def do_GET(self) -> None:
            self._answer(200, b"{}", {})

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            turn = min(len(script.asked), len(script.answers) - 1)
            script.asked.append((self.path, body, self.headers["Authorization"]))
            self._answer(*script.answers[turn])

        def _answer(self, status: int, text: bytes, headers: dict[str, str]) -> None:
            if status == 0:
                self.close_connection = True
                return
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    script.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield script
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
