"""The reaction of the closed loop to each kind of response, and to none."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from simulators.closed_loop.rank_client import RankClient, ServerBusy, ServerUnavailable
from stream_ctr.errors import StreamCTRError, UsageError
from tests.support.faulty_server import GOOD, scripted
from tests.support.simulated_logs import SMALL, contents, run, url_of


def test_one_connection_serves_many_requests() -> None:
    with scripted((200, GOOD, {})) as server:
        client = RankClient(server.url, "secret")
        answers = [client.rank(b"{}") for _ in range(5)]
        client.close()
    assert {(answer.arm, answer.best, answer.model_version) for answer in answers} == {("a", 0, "a-1")}
    assert server.connections == 1
    assert set(server.asked) == {("/v1/rank", b"{}", "Bearer secret")}


def test_a_connection_closed_by_the_server_is_reopened() -> None:
    with scripted((200, GOOD, {}), (0, b"", {}), (200, GOOD, {})) as server:
        client = RankClient(server.url)
        for _ in range(2):
            assert client.rank(b"{}").arm == "a"
        client.close()
    assert (server.connections, len(server.asked)) == (2, 3)


def test_a_missing_response_means_unavailable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    client = RankClient(f"http://127.0.0.1:{port}")
    with pytest.raises(ServerUnavailable, match="refused"):
        client.rank(b"{}")
    with pytest.raises(ServerUnavailable, match="refused"):
        client.ready()


@pytest.mark.parametrize(
    ("status", "headers", "seconds", "overloaded"),
    [
        (503, {"Retry-After": "7"}, 7.0, True),
        (503, {"Retry-After": "9999"}, 60.0, True),
        (503, {"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}, 1.0, True),
        (429, {}, 1.0, True),
        (500, {}, 1.0, False),
        (504, {}, 1.0, False),
        (408, {}, 1.0, False),
    ],
)
def test_responses_that_ask_for_a_retry(
    status: int, headers: dict[str, str], seconds: float, overloaded: bool
) -> None:
    with scripted((status, b'{"error":"too\\nmuch"}', headers)) as server:
        client = RankClient(server.url)
        with pytest.raises(ServerBusy, match=f"{status}: too much") as raised:
            client.rank(b"{}")
        client.close()
    assert (raised.value.retry_seconds, raised.value.overloaded) == (seconds, overloaded)


@pytest.mark.parametrize(
    ("status", "text", "message"),
    [
        (401, b'{"error":"no token"}', "--token-env: 401: no token"),
        (404, b"<html>", "is it the address of `stream-ctr serve`\\?: 404: <html>"),
        (422, b'{"error":"too many"}', "rejected the request: 422: too many"),
        (200, b"<html>", "the response is not a ranking"),
        (200, b"\xff", "the response is not a ranking"),
        (200, b'{"arm":"a"}', "the response is not a ranking"),
    ],
)
def test_rejections_are_reported_in_one_line(status: int, text: bytes, message: str) -> None:
    with scripted((status, text, {})) as server:
        client = RankClient(server.url)
        with pytest.raises(StreamCTRError, match=message) as raised:
            client.rank(b"{}")
        client.close()
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "server",
    ["localhost:80", "ftp://a", "http://", "http://a:b", "http://a:70000", "http://u:p@a", "http://[a"],
)
def test_invalid_addresses_are_rejected(server: str) -> None:
    with pytest.raises(UsageError, match="--server") as raised:
        RankClient(server)
    assert "u:p" not in str(raised.value)


def simulate(server: str, log: str, *more: str) -> int:
    return run("simulate", "--server", server, "--log", log, "--candidates", "2", *more, *SMALL)


def test_a_busy_server_is_retried_and_every_visit_is_answered_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = url_of(tmp_path / "log.db")
    busy = (503, b'{"error":"busy"}', {"Retry-After": "0"})
    with scripted(busy, busy, busy, (0, b"", {}), (200, GOOD, {})) as server:
        assert simulate(server.url, log, "--events", "50", "--json") == 0
    printed = capsys.readouterr()
    assert '"sent": 50, "answered": 50, "failed": 0, "busy": 3,' in printed.out
    assert "the server is busy: 503: busy; retrying in 0 s" in printed.err
    bodies = [body for _, body, _ in server.asked]
    assert len(set(bodies)) == 50
    assert 53 <= len(bodies) <= 54


def test_a_visit_on_which_the_server_fails_is_abandoned_and_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("simulators.closed_loop.traffic.FAILURES", 1)
    log = url_of(tmp_path / "log.db")
    with scripted((500, b'{"error":"internal error"}', {}), (200, GOOD, {})) as server:
        assert simulate(server.url, log, "--events", "3", "--connections", "1") == 0
    printed = capsys.readouterr()
    assert "2 visits answered" in printed.out
    assert "1 failed" in printed.out
    assert "visit-1-0 abandoned: 500: internal error" in printed.err


def test_a_rejection_ends_the_run(tmp_path: Path) -> None:
    with (
        scripted((401, b'{"error":"no"}', {})) as server,
        pytest.raises(StreamCTRError, match="--token-env: 401: no"),
    ):
        simulate(server.url, url_of(tmp_path / "log.db"), "--events", "50")


def test_an_invalid_choice_of_the_server_ends_the_run(tmp_path: Path) -> None:
    with (
        scripted((200, GOOD.replace(b'"best":0', b'"best":2'), {})) as server,
        pytest.raises(StreamCTRError, match="chose candidate 2 of 2 for visit-1-"),
    ):
        simulate(server.url, url_of(tmp_path / "log.db"), "--events", "50")


def test_the_token_comes_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = url_of(tmp_path / "log.db")
    monkeypatch.setenv("THE_TOKEN", "abc")
    with scripted((200, GOOD, {})) as server:
        assert simulate(server.url, log, "--events", "3", "--token-env", "THE_TOKEN") == 0
    assert {authorization for _, _, authorization in server.asked} == {"Bearer abc"}
    monkeypatch.delenv("THE_TOKEN")
    with pytest.raises(UsageError, match="--token-env THE_TOKEN: environment variable not set"):
        simulate(server.url, log, "--token-env", "THE_TOKEN")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--candidates", "0"), "--candidates 0: must be from 1 to 1000"),
        (("--connections", "300"), "--connections 300: must be from 1 to 256"),
        (("--rate", "nan"), "--rate nan: must be above 0"),
        (("--events", "0"), "--events 0: must be at least 1"),
    ],
)
def test_values_outside_their_range_are_rejected(more: tuple[str, ...], message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        run("simulate", "--server", "http://127.0.0.1:9", "--log", url_of(tmp_path / "log.db"), *more)


def test_options_of_a_server_need_a_server(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--token-env requires --server URL"):
        run("simulate", "--log", url_of(tmp_path / "log.db"), "--token-env", "X")
    assert not (tmp_path / "log.db").exists()


def test_clicks_come_without_an_impression_only_from_the_server(tmp_path: Path) -> None:
    """The simulator writes only clicks; the server writes the impressions."""
    log = url_of(tmp_path / "log.db")
    with scripted((200, GOOD, {})) as server:
        assert simulate(server.url, log, "--events", "200") == 0
    found = contents(log)
    assert not any(entries for place, entries in found.items() if place.topic == "impressions")
    assert sum(len(entries) for place, entries in found.items() if place.topic == "clicks") > 10
