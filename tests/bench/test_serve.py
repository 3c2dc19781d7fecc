"""The benchmark of the server: its client against servers that stall, reject and disconnect; a small run."""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from stream_ctr.bench.serve.client import Load, play
from stream_ctr.bench.serve.measure import EMPTY, OURS, Kind, Measured, bodies, server
from stream_ctr.bench.serve.report import row
from stream_ctr.cli import main
from stream_ctr.errors import StreamCTRError

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
REFUSED = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 2\r\n\r\n{}"


@contextmanager
def answering(answers: list[bytes], stall_first_seconds: float = 0.0) -> Iterator[int]:
    """A server for one connection with one response per request; it disconnects after the last one."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            for number, answer in enumerate(answers):
                if not connection.recv(65536):
                    return
                if number == 0:
                    time.sleep(stall_first_seconds)
                connection.sendall(answer)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        thread.join(10)
        listener.close()


def load(port: int, count: int) -> Load:
    return Load(port, "/", ["{}"], seconds=count / 100.0, connections=1, rate=100.0)


def test_a_stall_is_charged_to_every_request_that_was_due_in_it() -> None:
    with answering([OK] * 20, stall_first_seconds=0.5) as port:
        found = play(load(port, 20))
    assert (found["answered"], found["failed"]) == (20, 0)
    # Due at 0, 10, ... 190 ms and none answered before 500 ms: a client that delays its requests would
    # charge only the first one.
    assert found["p50"] > 300.0
    assert found["p99"] > 480.0


def test_rejected_requests_are_failures_without_a_latency() -> None:
    with answering([OK, REFUSED, REFUSED, OK]) as port:
        found = play(load(port, 4))
    assert (found["answered"], found["failed"]) == (2, 2)
    assert found["statuses"] == {200: 2, 503: 2}


def test_requests_on_closed_connections_are_failures() -> None:
    with answering([OK, OK]) as port:
        found = play(load(port, 6))
    assert (found["answered"], found["failed"]) == (2, 4)


def test_requests_differ_and_hold_every_field() -> None:
    one, hundred = bodies(1), bodies(100)
    assert len(set(one)) == len(one)
    request = json.loads(hundred[0])
    assert len(request["candidates"]) == 100
    assert len(request["features"]) + len(request["candidates"][0]["features"]) == 39


def test_ratios_are_those_of_the_same_round() -> None:
    kind = Kind("1 candidate", 1, 100.0)

    def rounds(*p50: float) -> list[dict[str, object]]:
        rest = {"p99": 9.0, "p999": 9.0, "answered": 5, "failed": 1, "per_second": 5.0}
        return [{"p50": each, **rest, "client_late_share": 0.5} for each in p50]

    ours, empty = Measured(OURS, kind, rounds(2.0, 8.0, 3.0)), Measured(EMPTY, kind, rounds(1.0, 2.0, 3.0))
    figures = row(ours, [ours, empty])
    assert (figures["p50_ms"], figures["p50_ms_low"], figures["p50_ms_high"]) == (3.0, 2.0, 8.0)
    assert figures["p50_ratio_to_empty"] == 2.0
    assert (figures["answered"], figures["failed"]) == (15, 3)


def test_a_server_that_does_not_start_is_reported_with_its_reason() -> None:
    wrong = [sys.executable, "-c", "raise SystemExit('the port is taken')"]
    with pytest.raises(StreamCTRError, match="the port is taken"), server(wrong):
        pass


@pytest.mark.slow
def test_both_servers_answer_every_load(capsys: pytest.CaptureFixture[str]) -> None:
    small = ["--rate", "20", "--large-rate", "5", "--seconds", "1", "--rounds", "1", "--learned", "100"]
    assert main(["bench", "serve", *small, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert len(rows) == 12
    assert len({row["name"] for row in rows}) == 12
    overload = [row for row in rows if "beside_p99_ms" in row]
    assert len(overload) == 4
    for each in overload:
        assert each["beside_failed"] == each["health_failed"] == each["health_refused_share"] == 0
        assert each["health_p50_ms"] <= each["health_p99_ms"]
    for each in rows:
        assert each["failed"] == 0
        assert each["answered"] > 0
        assert each["p50_ms"] <= each["p99_ms"] <= each["p999_ms"]
        assert each["machine"]["load"]


@pytest.mark.slow
def test_starts_are_timed_and_torch_is_loaded_only_where_it_is_needed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["bench", "serve", "--start", "--rounds", "1", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["workers"] for row in rows] == [1, 2, 1, 2]
    assert [row["torch_loaded"] for row in rows] == [False, False, True, True]
    for each in rows:
        assert each["ready_seconds"] > 0.0
        assert each["cpu_seconds"] > 0.0
        assert each["rss_bytes"] >= each["private_bytes"] > 0
        assert (each["parent_rss_bytes"] is None) == (each["workers"] == 1)


@pytest.mark.parametrize(
    "wrong",
    [
        ["--start", "--workers", "0"],
        ["--rate", "0"],
        ["--rounds", "0"],
        ["--seconds", "nan"],
        ["--learned", "0"],
        ["--seconds", "1e-9"],
    ],
)
def test_invalid_settings_are_rejected(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "serve", *wrong]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
