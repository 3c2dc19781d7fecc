"""Overload over raw sockets: which requests are shed, their responses, and that HTTP stays in sync.

A request whose body does not arrive occupies a place, so that the server stays full as long as a test needs.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import uvicorn
import uvloop

from stream_ctr.config.serve import TOKENS_VARIABLE, ServeConfig
from stream_ctr.serving.http import load_shedding
from stream_ctr.serving.http.admission import Admission
from stream_ctr.serving.http.certificates import tls_context
from stream_ctr.serving.http.sockets import listen, uvicorn_config
from tests.serving.http.test_certificates import certificate
from tests.serving.ranking.test_impression_log import eventually
from tests.support.served_arms import USERS, Served, constant, publish, request, sample

BODY = json.dumps(request(USERS["control"])).encode()
HEAD = b"POST /v1/rank HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
WITH_LENGTH = HEAD + b"content-length: %d\r\n\r\n" % len(BODY)
POST = WITH_LENGTH + BODY
CHUNKED = HEAD + b"transfer-encoding: chunked\r\n\r\n"
LIVE = b"GET /health/live HTTP/1.1\r\nhost: x\r\n\r\n"
FOR_EVER = 3600.0
TOKEN = "test-token-0123456789"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    text: bytes


class Connection:
    """One connection to the server, and what it sends back."""

    def __init__(self, port: int, tls: ssl.SSLContext | None = None) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=20)
        if tls is not None:
            self.socket = tls.wrap_socket(self.socket, server_hostname="localhost")
        self._file = self.socket.makefile("rb")

    def send(self, *pieces: bytes) -> None:
        """Send pieces, so that the server can read one before the other has come."""
        for number, piece in enumerate(pieces):
            time.sleep(0.01 if number else 0.0)
            self.socket.sendall(piece)

    def answer(self, method: str = "POST") -> Answer:
        """The next answer."""
        status = int(self._file.readline().split()[1])
        headers: dict[str, str] = {}
        while line := self._file.readline().strip():
            name, _, value = line.decode().partition(": ")
            headers[name] = value
        text = b"" if method == "HEAD" else self._file.read(int(headers["content-length"]))
        return Answer(status, headers, text)

    def ask(self, *pieces: bytes) -> Answer:
        self.send(*pieces)
        return self.answer()

    def ended(self) -> bool:
        """Whether the server closes the connection and sends no more."""
        return self._file.read(1) == b""

    def silent(self) -> bool:
        """Whether nothing has come."""
        self.socket.setblocking(False)
        try:
            return not self.socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        finally:
            self.socket.settimeout(20)

    def close(self) -> None:
        self._file.close()
        self.socket.close()


class Listening:
    """The application behind a real listener, served by a thread."""

    def __init__(
        self, state: Path, max_waiting: int, tls: ssl.SSLContext | None, header_seconds: float
    ) -> None:
        publish(state, "control", constant(0.5))
        publish(state, "new", constant(0.25))
        serve = ServeConfig(max_waiting=max_waiting, deadline_seconds=FOR_EVER)
        self.served = Served(state, serve=serve)
        self._listener = listen("127.0.0.1", 0, "serve.port")
        self.port = self._listener.getsockname()[1]
        config = uvicorn_config(self.served.app, tls, header_seconds, self.served.app.load_shedder)
        self.server = uvicorn.Server(config)
        self._connections: list[Connection] = []
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        eventually(lambda: self.server.started)

    def _run(self) -> None:
        loop = uvloop.new_event_loop()
        loop.run_until_complete(self.server.serve(sockets=[self._listener]))
        loop.close()

    def connect(self, tls: ssl.SSLContext | None = None) -> Connection:
        self._connections.append(Connection(self.port, tls))
        return self._connections[-1]

    def occupy(self, tls: ssl.SSLContext | None = None) -> Connection:
        """A connection whose request is under way and waits for the last byte of its body."""
        before = self.under_way
        place = self.connect(tls)
        place.send(WITH_LENGTH + BODY[:-1])
        eventually(lambda: self.under_way == before + 1)
        return place

    @property
    def under_way(self) -> int:
        return self.served.app.admission.under_way

    def stop(self) -> None:
        self.server.should_exit = True
        self._thread.join(20)
        assert not self._thread.is_alive()

    def close(self) -> None:
        for connection in self._connections:
            connection.close()
        self.stop()


@contextmanager
def listening(
    state: Path,
    max_waiting: int = 1,
    tls: ssl.SSLContext | None = None,
    header_seconds: float = FOR_EVER,
) -> Iterator[Listening]:
    found = Listening(state, max_waiting, tls, header_seconds)
    try:
        yield found
    finally:
        found.close()


def check_refused(answer: Answer, closing: bool = False) -> None:
    assert (answer.status, answer.headers["retry-after"]) == (503, "1")
    assert json.loads(answer.text) == {"error": "overloaded: 1 requests are in progress; retry after 1 s"}
    assert answer.headers.get("connection") == ("close" if closing else None)


@pytest.mark.parametrize(
    "pieces",
    [
        [POST],
        [WITH_LENGTH + BODY[:7], BODY[7:]],
        [HEAD[:20], HEAD[20:] + b"content-length: 2\r\n\r", b"\n{", b"}"],
        [HEAD + b"content-length: 0\r\n\r\n"],
        [CHUNKED + chunk(BODY[:9]), chunk(BODY[9:]), b"0\r\n\r\n"],
        [CHUNKED, b"5", b"\r\nab", b"cde\r\n0\r\n", b"trailer: 1\r\n\r\n"],
        [HEAD + b"content-length: 300000\r\n\r\n", *([b"x" * 100_000] * 3)],
        [POST.replace(b"/v1/rank", b"/v1/rank?a=b")],
        [POST.replace(b"host: x", b"connection: upgrade\r\nupgrade: websocket")],
        [POST.replace(b"/v1/rank", b"/v2/models/new/infer")],
    ],
)
def test_a_shed_request_can_be_retried_on_the_same_connection(tmp_path: Path, pieces: list[bytes]) -> None:
    with listening(tmp_path) as server:
        place, other = server.occupy(), server.connect()
        check_refused(other.ask(*pieces))
        assert other.ask(LIVE).text == b'{"live":true}'
        check_refused(other.ask(*pieces))  # held for a moment, since it comes too early
        assert place.ask(BODY[-1:]).status == 200
        assert other.ask(POST).status == 200
        assert other.ask(LIVE).status == 200
        assert server.under_way == 0
        assert len(server.served.kept.records) == 2


def test_refusals_are_counted(tmp_path: Path) -> None:
    with listening(tmp_path) as server:
        place, other = server.occupy(), server.connect()
        check_refused(other.ask(POST))
        check_refused(server.connect().ask(POST.replace(b"/v1/rank", b"/v2/models/new/infer")))
        assert place.ask(BODY[-1:]).status == 200
        text = server.served.get("/metrics").text
    assert sample(text, "stream_ctr_serve_requests_total", code="503", arm="") == 1
    assert sample(text, "stream_ctr_serve_infer_requests_total", code="503", model="") == 1


@pytest.mark.parametrize(
    "asked",
    [
        POST.replace(b"HTTP/1.1", b"HTTP/1.0"),
        POST.replace(b"HTTP/1.1", b"HTTP/1.0").replace(b"host: x", b"connection: keep-alive"),
        POST.replace(b"host: x", b"connection: close"),
        WITH_LENGTH.replace(b"host: x", b"expect: 100-continue"),
        WITH_LENGTH.replace(b"host: x", b"expect: 100-continue") + BODY + POST,
    ],
)
def test_connections_that_cannot_be_kept_are_closed_with_the_503(tmp_path: Path, asked: bytes) -> None:
    with listening(tmp_path) as server:
        place, other = server.occupy(), server.connect()
        check_refused(other.ask(asked), closing=True)
        assert other.ended()
        assert place.ask(BODY[-1:]).status == 200


def test_requests_without_a_token_occupy_no_place_and_get_401(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(TOKENS_VARIABLE, TOKEN)
    known = POST.replace(b"host: x", b"authorization: Bearer " + TOKEN.encode())
    with listening(tmp_path) as server:
        stranger = server.connect()
        stranger.send(POST + known)
        assert stranger.answer().status == 401
        assert server.connect().ask(known).status == 200
        place = server.connect()
        place.send(known[:-1])
        eventually(lambda: server.under_way == 1)
        assert server.connect().ask(POST).status == 401
        check_refused(server.connect().ask(known))
        assert place.ask(known[-1:]).status == 200


def test_pipelined_requests_are_answered_in_their_order(tmp_path: Path) -> None:
    head = LIVE.replace(b"GET", b"HEAD")
    with listening(tmp_path) as server:
        place, other = server.occupy(), server.connect()
        other.send(POST + LIVE + POST + head + POST + POST, POST + LIVE)
        check_refused(other.answer())
        assert other.answer().text == b'{"live":true}'
        check_refused(other.answer())
        assert other.answer("HEAD").status == 200
        for _ in range(3):
            check_refused(other.answer())
        assert other.answer().text == b'{"live":true}'
        place.send(BODY[-1:] + POST + POST)
        assert [place.answer().status for _ in range(3)] == [200, 200, 200]
        other.send(POST * 3)
        assert [other.answer().status for _ in range(3)] == [200, 200, 200]


def test_health_responds_while_all_other_requests_are_shed(tmp_path: Path) -> None:
    with listening(tmp_path) as server:
        server.occupy()
        for method, path in (("GET", "/health/live"), ("HEAD", "/health/ready"), ("GET", "/v2/health/ready")):
            answer = httpx.request(method, f"http://127.0.0.1:{server.port}{path}", timeout=20)
            assert answer.status_code == 200
        wrong = httpx.get(f"http://127.0.0.1:{server.port}/v1/rank", timeout=20)
        assert wrong.status_code == 405


def test_early_retries_are_answered_late_and_get_half_of_the_places(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load_shedding, "HOLD_SECONDS", FOR_EVER)
    monkeypatch.setattr(load_shedding, "RETRY_SECONDS", FOR_EVER)
    with listening(tmp_path, max_waiting=2) as server:
        first, second, other = server.occupy(), server.occupy(), server.connect()
        assert other.ask(POST).status == 503
        other.send(POST)
        assert server.connect().ask(POST).status == 503, "the first refusal of a connection comes at once"
        assert other.silent()
        assert first.ask(BODY[-1:]).status == 200
        assert server.under_way == 1
        early = server.connect()
        early_refused = server.occupy()
        assert early.ask(POST).status == 503
        assert early_refused.ask(BODY[-1:]).status == 200
        early.send(POST)
        assert server.connect().ask(POST).status == 200, "of two places one is free, for who was not refused"
        assert early.silent()
        assert second.ask(BODY[-1:]).status == 200
        assert server.under_way == 0
        server.stop()
        assert other.answer().status == 503, "who still waits to hear is told at the end"
        assert other.ended()
        assert early.answer().status == 503
        assert len(server.served.kept.records) == 4


def test_an_early_retry_is_admitted_if_a_place_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load_shedding, "RETRY_SECONDS", FOR_EVER)
    with listening(tmp_path, max_waiting=2) as server:
        first, second, other = server.occupy(), server.occupy(), server.connect()
        assert other.ask(POST).status == 503
        for place in (first, second):
            assert place.ask(BODY[-1:]).status == 200
        assert other.ask(POST).status == 200


def test_a_connection_with_a_delayed_503_does_not_time_out(tmp_path: Path) -> None:
    with listening(tmp_path, header_seconds=0.05) as server:
        server.occupy()
        other = server.connect()
        check_refused(other.ask(POST))
        check_refused(other.ask(POST))


def test_a_place_is_reserved_once_per_round_of_the_loop() -> None:
    async def rounds() -> list[bool]:
        admission, loop = Admission(ServeConfig(max_waiting=2)), asyncio.get_running_loop()
        first = [admission.expect(places, loop) for places in (1, 1, 2, 2)]
        await asyncio.sleep(0)
        return [*first, admission.expect(1, loop)]

    assert asyncio.run(rounds()) == [True, False, True, False, True]


def test_a_shed_client_that_disconnects_is_forgotten(tmp_path: Path) -> None:
    with listening(tmp_path) as server:
        place = server.occupy()
        for pieces in ([WITH_LENGTH], [POST + WITH_LENGTH + BODY[:5]], [POST + POST]):
            other = server.connect()
            other.send(*pieces)
            other.close()
        assert place.ask(BODY[-1:]).status == 200
        eventually(lambda: len(server.server.server_state.connections) == 1)
        assert server.under_way == 0


def test_a_client_that_never_reads_its_503_responses_is_disconnected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load_shedding, "HOLD_SECONDS", 0.01)
    short = HEAD + b"content-length: 0\r\n\r\n"
    with listening(tmp_path) as server:
        server.occupy()
        greedy = server.connect()
        with pytest.raises(ConnectionError):
            greedy.socket.sendall(short * 500_000)
        assert server.connect().ask(LIVE).status == 200


def test_a_missing_body_after_a_503_ends_the_connection(tmp_path: Path) -> None:
    with listening(tmp_path, header_seconds=0.3) as server:
        server.occupy()
        other = server.connect()
        other.send(WITH_LENGTH, BODY[:5])
        check_refused(other.answer(), closing=True)
        assert other.ended()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl: install it")
def test_refusals_over_tls(tmp_path: Path) -> None:
    pem, key = certificate(tmp_path, "server")
    tls = tls_context(ServeConfig(tls_certificate=pem, tls_key=key))
    client = ssl.create_default_context(cafile=pem)
    with listening(tmp_path, tls=tls) as server:
        place, other = server.occupy(client), server.connect(client)
        other.send(POST + POST + LIVE, WITH_LENGTH + BODY[:7], BODY[7:])
        for _ in range(2):
            check_refused(other.answer())
        assert other.answer().text == b'{"live":true}'
        check_refused(other.answer())
        assert place.ask(BODY[-1:]).status == 200
        assert other.ask(POST).status == 200
