"""Clients that offer another protocol get HTTP/1.1, as RFC 9110 section 7.8 allows, and lose no body."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.serving.http.test_load_shedding import (
    BODY,
    LIVE,
    POST,
    WITH_LENGTH,
    check_refused,
    chunk,
    listening,
)
from tests.support.served_arms import USERS, request

H2C = (
    b"connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\n"
    b"http2-settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA\r\n"
)
"""What java.net.http.HttpClient sends by default."""
HEAD = b"POST /v1/rank HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n" + H2C
FIXED = HEAD + b"content-length: %d\r\n\r\n" % len(BODY) + BODY
CHUNKED = HEAD + b"transfer-encoding: chunked\r\n\r\n" + chunk(BODY[:9]) + chunk(BODY[9:]) + b"0\r\n\r\n"
SOCKET = (
    b"GET /health/live HTTP/1.1\r\nhost: x\r\nconnection: Upgrade\r\nupgrade: websocket\r\n"
    b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13\r\n\r\n"
)


def pieces(data: bytes, size: int) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)]


@pytest.mark.parametrize("asked", [FIXED, CHUNKED], ids=["fixed length", "chunked"])
@pytest.mark.parametrize("size", [11, 97, 250, 10_000])
def test_the_body_is_read_whole_wherever_it_is_cut(tmp_path: Path, asked: bytes, size: int) -> None:
    with listening(tmp_path, max_waiting=4) as server:
        client = server.connect()
        answer = client.ask(*pieces(asked, size))
        assert answer.status == 200, answer.text
        assert answer.headers["content-type"] == "application/json"
        assert not {"upgrade", "connection"} & answer.headers.keys()
        plain = json.loads(server.connect().ask(POST).text)
        assert json.loads(answer.text)["candidates"] == plain["candidates"]
        assert client.ask(LIVE).text == b'{"live":true}', "the connection is kept"
        assert client.ask(asked).status == 200
        assert len(server.served.kept.records) == 3


def test_pipelined_offers_are_answered_in_their_order(tmp_path: Path) -> None:
    with listening(tmp_path, max_waiting=16) as server:
        client = server.connect()
        client.send(FIXED + SOCKET + CHUNKED + LIVE + POST + FIXED + SOCKET)
        answers = [client.answer() for _ in range(7)]
        assert [answer.status for answer in answers] == [200] * 7
        live = [answer.text == b'{"live":true}' for answer in answers]
        assert live == [False, True, False, True, False, False, True]
        assert len(server.served.kept.records) == 4


@pytest.mark.parametrize(
    ("asked", "closes"),
    [
        (FIXED.replace(b"Upgrade, HTTP2-Settings", b"close, Upgrade"), True),
        (FIXED.replace(b"HTTP/1.1", b"HTTP/1.0"), True),
        (FIXED.replace(b"upgrade: h2c", b"upgrade: h2c\r\nupgrade: websocket"), False),
        (FIXED.replace(b"h2c", b"websocket, h2c, TLS/1.2"), False),
    ],
)
def test_other_forms_of_an_offer(tmp_path: Path, asked: bytes, closes: bool) -> None:
    with listening(tmp_path) as server:
        client = server.connect()
        assert client.ask(asked).status == 200
        if closes:
            assert client.ended()
        else:
            assert client.ask(POST).status == 200


def test_an_upgrade_offer_does_not_make_a_bad_request_valid(tmp_path: Path) -> None:
    both = WITH_LENGTH.replace(b"host: x\r\n", H2C + b"transfer-encoding: chunked\r\n")
    with listening(tmp_path) as server:
        for asked, status in (
            (FIXED.replace(BODY, b"[" * len(BODY)), 400),
            (FIXED.replace(b"application/json", b"text/plain"), 415),
            (both + BODY, 400),
            (b"CONNECT x:80 HTTP/1.1\r\nhost: x\r\n\r\n", 400),
            (SOCKET.replace(b"/health/live", b"/v1/rank"), 405),
        ):
            assert server.connect().ask(asked).status == status, asked
        assert server.served.kept.records == []


def test_an_upgrade_offer_is_shed_like_other_requests(tmp_path: Path) -> None:
    with listening(tmp_path) as server:
        place, other = server.occupy(), server.connect()
        check_refused(other.ask(CHUNKED))
        assert place.ask(BODY[-1:]).status == 200
        assert other.ask(FIXED).status == 200


JAVA = """
import java.net.URI;
import java.net.http.*;

public class Ask {
    public static void main(String[] a) throws Exception {
        HttpClient client = HttpClient.newHttpClient();  // its default: HTTP/2, offered by an upgrade
        for (int i = 0; i < 3; i++) {
            HttpRequest.BodyPublisher body = i == 0 ? HttpRequest.BodyPublishers.ofString(a[1])
                : HttpRequest.BodyPublishers.fromPublisher(HttpRequest.BodyPublishers.ofString(a[1]));
            HttpRequest r = HttpRequest.newBuilder(URI.create(a[0])).POST(body).build();
            HttpResponse<String> s = client.send(r, HttpResponse.BodyHandlers.ofString());
            System.out.println(s.statusCode() + " " + s.version() + " " + s.body());
        }
    }
}
"""


@pytest.mark.deploy
@pytest.mark.skipif(shutil.which("javac") is None, reason="no JDK: install one, 11 or newer")
def test_the_jdks_own_client_is_answered(tmp_path: Path) -> None:
    """By its defaults: it offers h2c, sends no Content-Type, and chunks a body of unknown length."""
    (tmp_path / "Ask.java").write_text(JAVA, "utf-8")
    with listening(tmp_path / "state", max_waiting=4) as server:
        url = f"http://127.0.0.1:{server.port}/v1/rank"
        body = json.dumps(request(USERS["control"]))
        done = subprocess.run(
            ["java", "Ask.java", url, body], cwd=tmp_path, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
        lines = done.stdout.splitlines()
        assert [line.split()[:2] for line in lines] == [["200", "HTTP_1_1"]] * 3, done.stdout
        assert len(server.served.kept.records) == 3
