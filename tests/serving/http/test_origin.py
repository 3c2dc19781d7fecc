"""The admin port against requests from web pages: raw sockets, with the headers that a browser sends."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.support.served_arms import constant, publish
from tests.support.server_process import Process, running

TOKEN = "test-token-0123456789"
JSON = "Content-Type: application/json"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    folder = tmp_path_factory.mktemp("origin")
    publish(folder, "control", constant(0.5))
    with running(folder, f"sqlite:///{folder}/log.db") as process:
        yield process


def ask(
    admin: str, method: str, path: str, *headers: str, body: bytes = b""
) -> tuple[int, dict[str, object]]:
    parts = urlsplit(admin)
    lines = [f"{method} {path} HTTP/1.1", *headers, f"Content-Length: {len(body)}", "Connection: close"]
    if not any(header.startswith("Host:") for header in headers):
        lines.insert(1, f"Host: {parts.netloc}")
    with socket.create_connection((parts.hostname or "", parts.port or 0), timeout=30) as connection:
        connection.sendall("\r\n".join([*lines, "", ""]).encode() + body)
        answer = connection.makefile("rb").read()
    head, _, content = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(content)


def killed(server: Process) -> bool:
    arms = server.client.get(f"{server.admin[0]}/admin/arms").json()["arms"]
    return any(arm["killed"] for arm in arms)


KILL = "/admin/arms/new/kill"
PAGE = "Origin: http://evil.example"
PAGES: list[tuple[str, list[str], bytes, int]] = [
    (KILL, [PAGE, "Content-Type: text/plain"], b'{"reason":"csrf"}', 403),
    (KILL, [PAGE, "Sec-Fetch-Site: cross-site", "Content-Type: text/plain;charset=UTF-8"], b"{}", 403),
    (KILL, [PAGE, JSON], b"{}", 403),
    (KILL, [PAGE], b"", 403),
    (KILL, ["Origin: null", "Content-Type: application/x-www-form-urlencoded"], b"", 403),
    (KILL, ["Origin: http://localhost:3000", "Sec-Fetch-Site: same-site", JSON], b"", 403),
    (KILL, ["Sec-Fetch-Site: cross-site", JSON], b"{}", 403),
    (KILL, ["Sec-Fetch-Site: same-site", JSON], b"{}", 403),
    (KILL, ["Content-Type: text/plain"], b'{"reason":"csrf"}', 415),
    (KILL, ["Content-Type: application/x-www-form-urlencoded"], b"", 415),
    (KILL, ["Content-Type: multipart/form-data; boundary=x"], b"", 415),
    # DNS rebinding: to the browser the page and the port have one origin.
    (KILL, ["Host: evil.example", "Origin: http://evil.example", "Sec-Fetch-Site: same-origin", JSON],
     b"{}", 403),
    (KILL, ["Host: evil.example", JSON], b"{}", 403),
    (KILL, ["Host: 127.0.0.1.evil.example", JSON], b"{}", 403),
    (KILL, ["Host: localhost.evil.example", JSON], b"{}", 403),
    ("/admin/arms/new/revive", [PAGE], b"", 403),
    ("/admin/reload", [PAGE], b"", 403),
    ("/admin/reload", ["Host: evil.example"], b"", 403),
]  # fmt: skip


@pytest.mark.parametrize(("path", "headers", "body", "status"), PAGES)
def test_a_web_page_changes_nothing(
    server: Process, path: str, headers: list[str], body: bytes, status: int
) -> None:
    found, content = ask(server.admin[0], "POST", path, *headers, body=body)
    assert (found, list(content)) == (status, ["error"])
    assert not killed(server)


def test_a_rebound_name_reads_nothing(server: Process) -> None:
    found, content = ask(server.admin[0], "GET", "/admin/arms", "Host: evil.example")
    assert (found, list(content)) == (403, ["error"])


PROGRAMS: list[tuple[list[str], bytes]] = [
    ([JSON], b'{"reason":"slow"}'),
    ([], b""),
    ([], b'{"reason":"slow"}'),
    (["Host: localhost:8101", JSON], b"{}"),
    (["Host: [::1]:8101", JSON], b"{}"),
    (["Host: 10.0.0.7", JSON], b"{}"),
    (["Sec-Fetch-Site: none", JSON], b"{}"),
    (["Host: localhost:8101", "Origin: http://localhost:8101", "Sec-Fetch-Site: same-origin", JSON], b"{}"),
]


@pytest.mark.parametrize(("headers", "body"), PROGRAMS)
def test_programs_and_same_origin_pages_may_use_the_admin_api(
    server: Process, headers: list[str], body: bytes
) -> None:
    assert ask(server.admin[0], "POST", KILL, *headers, body=body)[0] == 200
    assert killed(server)
    assert ask(server.admin[0], "POST", "/admin/arms/new/revive")[0] == 200
    assert not killed(server)


def test_with_a_token_any_host_is_allowed(tmp_path: Path) -> None:
    """A page cannot know the token, and a port that others reach may have any name."""
    publish(tmp_path, "control", constant(0.5))
    environment = {"STREAM_CTR_SERVE_TOKENS": TOKEN}
    with running(tmp_path, f"sqlite:///{tmp_path}/log.db", environment=environment) as process:
        admin, token = process.admin[0], f"Authorization: Bearer {TOKEN}"
        assert ask(admin, "POST", KILL, "Host: server.example", token, JSON)[0] == 200
        assert ask(admin, "POST", KILL, "Host: server.example", JSON)[0] == 401
        assert ask(admin, "POST", KILL, "Host: server.example", token, PAGE, JSON)[0] == 403
