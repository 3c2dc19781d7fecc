"""A real server process on loopback: snapshot updates under load, exit, faults, metrics."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import httpx
import pytest

from stream_ctr.bench.serve.client import Load, play
from stream_ctr.predictors.snapshot import path_of
from stream_ctr.serving.routing.arm_predictors import SNAPSHOTS
from tests.serving.ranking.test_impression_log import eventually, logged
from tests.support.served_arms import USERS, constant, publish, request
from tests.support.server_process import ROOT, Process, running


@pytest.fixture
def state(tmp_path: Path) -> Path:
    publish(tmp_path / "state", "control", constant(0.5))
    publish(tmp_path / "state", "new", constant(0.25))
    return tmp_path / "state"


@pytest.fixture
def log(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/log.db"


def test_impressions_are_in_the_log_after_sigterm_and_nothing_heavy_was_imported(
    state: Path, log: str
) -> None:
    with running(state, log) as server:
        assert server.client.get("/health/ready").status_code == 200
        answers = [server.rank(f"user-{n}").json() for n in range(200)]
        out, err = server.stop()
    assert err == ""
    assert out == "imported:\n"
    found = {impression.event_id: impression for impression in logged(log)}
    assert found.keys() == {answer["event_id"] for answer in answers}
    for answer in answers:
        impression = found[answer["event_id"]]
        assert impression.arm == answer["arm"]
        assert impression.p == {"control": 0.5, "new": 0.25}
        assert impression.p[impression.arm] == answer["candidates"][0]["p"]
    assert {impression.arm for impression in found.values()} == {"control", "new"}


def test_sigint_stops_the_server_too(state: Path, log: str) -> None:
    with running(state, log) as server:
        server.rank("u")
        server.stop(signal.SIGINT)
    assert len(logged(log)) == 1


def probability_of(version: int) -> float:
    return version / (version + 7)


class Answers:
    """What many requests were answered, checked as it comes."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.failed: list[str] = []
        self.versions: Counter[str] = Counter()
        self._done = threading.Event()
        self._threads = [threading.Thread(target=self._load, args=(user,)) for user in USERS.values()]

    def _load(self, user: str) -> None:
        with httpx.Client(base_url=self._url, timeout=60) as client:
            while not self._done.is_set():
                answer = client.post("/v1/rank", json=request(user, candidates=5))
                content = answer.json()
                version = content.get("model_version", "0")
                found = [entry["p"] for entry in content.get("candidates", [])]
                if answer.status_code != 200 or found != pytest.approx(
                    [probability_of(int(version))] * 5, rel=1e-5
                ):
                    self.failed.append(answer.text)
                self.versions[version] += 1

    def __enter__(self) -> Answers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        for thread in self._threads:
            thread.join()


def resources(server: Process) -> tuple[int, int]:
    """Open descriptors, and private memory in KiB."""
    folder = Path(f"/proc/{server.child.pid}")
    private = re.findall(r"^Private_Dirty: +(\d+)", (folder / "smaps_rollup").read_text(), re.M)
    return len(os.listdir(folder / "fd")), int(private[0])


EXCHANGES = int(os.environ.get("STREAM_CTR_TEST_EXCHANGES", "150"))
"""Exchanges of each arm's snapshot under load; the promise is about 10,000 in all, 5,000 of each."""
ROOM_KIB = 24_576
"""What a process may grow by for other reasons: log batches, the allocator's own reserves."""


def test_exchanges_under_load_fail_no_request_and_mix_no_versions(
    tmp_path: Path, log: str, capsys: pytest.CaptureFixture[str]
) -> None:
    state = tmp_path / "state"
    for arm in ("control", "new"):
        publish(state, arm, constant(probability_of(1)))
    found: list[tuple[int, int]] = []
    # On a busy machine a request may wait longer than the usual second, which no exchange is to blame for.
    with running(state, log, {"deadline_seconds": 60.0}) as server:
        with Answers(server.url) as answers:
            for version in range(2, EXCHANGES + 2):
                for arm in ("control", "new"):
                    assert publish(state, arm, constant(probability_of(version))) == version
                if version % max(10, EXCHANGES // 20) == 0:
                    server.wait_for_version(version)
                    found.append(resources(server))
            server.wait_for_version(EXCHANGES + 1)
        _, err = server.stop()
    assert err == ""
    assert answers.failed == []
    assert answers.versions.total() > 100
    assert len(answers.versions) > 5
    descriptors, memory = zip(*found[1:], strict=True)
    assert max(descriptors) <= found[0][0] + 2, "descriptors do not grow with exchanges"
    assert max(memory) <= found[0][1] + ROOM_KIB, "memory does not grow with exchanges"
    for impression in logged(log):
        assert impression.p[impression.arm] == pytest.approx(
            probability_of(int(impression.model_version)), rel=1e-5
        )
    with capsys.disabled():
        if "STREAM_CTR_TEST_EXCHANGES" in os.environ:
            print(
                f"\n{2 * EXCHANGES} exchanges, {answers.versions.total()} answers by {len(answers.versions)} "
                f"versions, none failed; descriptors, private KiB: {found[0]} at first, {found[-1]} at last"
            )


def test_overload_is_rejected_at_once_and_the_server_stays_healthy(state: Path, log: str) -> None:
    body = json.dumps(request(USERS["control"], candidates=20))
    with running(state, log, {"max_waiting": 4, "deadline_seconds": 60.0}) as server:
        port = int(server.url.rsplit(":", 1)[1])
        lives: list[int] = []
        refused: list[httpx.Response] = []
        done = threading.Event()

        def look() -> None:
            while not done.is_set():
                lives.append(server.client.get("/health/live").status_code)
                answer = server.rank(USERS["new"])
                if answer.status_code != 200:
                    refused.append(answer)

        watcher = threading.Thread(target=look)
        watcher.start()
        crowd = play(Load(port, "/v1/rank", [body], seconds=1.0, connections=40))
        done.set()
        watcher.join()
        assert server.rank(USERS["control"]).status_code == 200
        served = server.metric("requests_total", arm="control", code="200")
        _, err = server.stop()
    statuses = crowd["statuses"]
    assert set(statuses) == {200, 503}
    assert min(statuses.values()) > 0
    assert served == statuses[200] + 1
    assert set(lives) == {200}
    assert {(answer.status_code, answer.headers["retry-after"]) for answer in refused} <= {(503, "1")}
    assert len(logged(log)) >= statuses[200]
    assert err == ""


@pytest.mark.parametrize("damage", ["torn", "missing", "all gone"])
def test_damaged_snapshots_stop_no_answer_and_are_reported(state: Path, log: str, damage: str) -> None:
    with running(state, log) as server:
        folder = state / "control" / SNAPSHOTS
        if damage == "torn":
            # as a crash in the middle of a copy would leave it: CURRENT is there, the arrays are not whole
            other = state / "other"
            publish(other, "control", constant(0.9))
            publish(other, "control", constant(0.9))
            whole = path_of(other / "control" / SNAPSHOTS, 2)
            arrays = (whole / "arrays.safetensors").read_bytes()
            (whole / "arrays.safetensors").write_bytes(arrays[: len(arrays) // 2])
            shutil.copytree(whole, path_of(folder, 2))
            shutil.copy(other / "control" / SNAPSHOTS / "CURRENT", folder / "CURRENT")
        elif damage == "missing":
            (folder / "CURRENT").unlink()
        else:
            shutil.rmtree(folder)
        eventually(lambda: server.metric("snapshot_stale", arm="control") == 1)
        assert server.rank(USERS["control"]).json()["candidates"][0]["p"] == 0.5
        ready = server.client.get("/health/ready")
        assert (ready.status_code, ready.json()["arms"]["control"]["version"]) == (200, 1)
        assert str(folder) in ready.json()["arms"]["control"]["error"]
        _, err = server.stop()
    assert str(folder) in err
    assert "Traceback" not in err


def test_the_first_snapshot_of_an_arm_makes_it_ready(tmp_path: Path, log: str) -> None:
    with running(tmp_path / "state", log) as server:
        assert server.client.get("/health/live").status_code == 200
        assert server.client.get("/health/ready").status_code == 503
        assert server.rank("u").status_code == 503
        publish(tmp_path / "state", "control", constant(0.5))
        eventually(lambda: server.client.get("/health/ready").status_code == 200)
        assert server.rank("u").status_code == 200


def test_predictions_continue_while_the_log_is_unavailable(tmp_path: Path, state: Path) -> None:
    blocked = tmp_path / "blocked"
    blocked.write_text("a file where a folder is needed")
    with running(state, f"sqlite:///{blocked}/log.db") as server:
        assert server.rank("u").status_code == 200
        assert server.metric("log_up") == 0
        eventually(lambda: server.metric("log_failures_total") >= 2)
        blocked.unlink()
        eventually(lambda: server.metric("impressions_logged_total") == 1)
        assert server.metric("log_up") == 1
        _, err = server.stop()
    assert len(logged(f"sqlite:///{blocked}/log.db")) == 1
    assert "log unavailable, impressions are queued" in err
    assert "Traceback" not in err


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.support.two_arm_server", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


def test_a_port_in_use_is_one_clear_line(state: Path, log: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = run(str(state), log, json.dumps({"port": port}))
    assert ended.returncode == 2
    assert f"cannot listen on 127.0.0.1 port {port}" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


def test_a_wrong_log_address_is_one_clear_line(state: Path) -> None:
    ended = run(str(state), "nonsense://x")
    assert ended.returncode == 2
    assert "nonsense://x" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


def raw(url: str, content: bytes) -> bytes:
    """Everything that the server sends on a bare connection until it closes it."""
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        connection.sendall(content)
        found = b""
        while more := connection.recv(65_536):
            found += more
    return found


def test_raw_connections_get_their_answers(state: Path, log: str) -> None:
    head = b"POST /v1/rank HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    unfinished = [b"", b"POST", head, b"GET /health/live HTTP/1.1\r\nhost: x\r\n\r\nGET /health"]
    with running(state, log, {"header_seconds": 2.0}) as server, ThreadPoolExecutor() as pool:
        slow, *never = pool.map(
            partial(raw, server.url), [head + b"content-length: 100\r\n\r\n{", *unfinished]
        )
        assert slow.startswith(b"HTTP/1.1 408")
        for answer in never:
            assert b"HTTP/1.1 408" in answer
            assert answer.endswith(b'{"error":"the headers did not arrive within 2 seconds"}')
        long = raw(server.url, head + b"content-length: 99999999\r\n\r\n{")
        assert long.startswith(b"HTTP/1.1 413")
        endless = raw(server.url, head + b"x: " + b"y" * 65_536)
        assert endless.startswith(b"HTTP/1.1 431")
        assert endless.endswith(b'{"error":"the headers are longer than 65536 bytes"}')
        body = json.dumps(request(event_id="e", features={"site": "s" * 70_000})).encode()
        long = raw(server.url, head + b"content-length: %d\r\n\r\n" % len(body) + body + head[:50])
        assert long.startswith(b"HTTP/1.1 200"), "the next one's headers are not as long as this body"
        assert b"HTTP/1.1 408" in long
        nonsense = raw(server.url, b"\x16\x03\x01 nonsense\r\n\r\n")
        assert nonsense.startswith(b"HTTP/1.1 400")
        assert json.loads(nonsense.partition(b"\r\n\r\n")[2]).keys() == {"error"}
        with socket.create_connection(("127.0.0.1", int(server.url.rsplit(":", 1)[1]))) as gone:
            gone.sendall(head + b"content-length: 100\r\n\r\n{")
        assert server.rank("u").status_code == 200
        _, err = server.stop()
    assert err == ""


def test_clients_that_abandon_a_scrape_affect_no_other_client(state: Path, log: str) -> None:
    with running(state, log) as server:
        host, port = server.admin[0].removeprefix("http://").split(":")
        before = resources(server)[0]
        for _ in range(50):
            with socket.create_connection((host, int(port)), timeout=60) as connection:
                connection.sendall(b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n")
                assert connection.recv(20).startswith(b"HTTP/1.1 200")
        assert server.rank("u").status_code == 200
        eventually(lambda: resources(server)[0] <= before + 2)
        _, err = server.stop()
    assert err == ""


@pytest.mark.promtool
@pytest.mark.skipif(
    shutil.which("promtool") is None, reason="no promtool: install Debian's package prometheus"
)
def test_metrics_follow_the_conventions_of_prometheus(state: Path, log: str) -> None:
    with running(state, log) as server:
        server.rank(USERS["control"])
        server.rank(USERS["new"])
        server.client.post("/v1/rank", content=b"{", headers={"content-type": "application/json"})
        text = server.client.get("/metrics").text
    checked = subprocess.run(
        ["promtool", "check", "metrics"], input=text, capture_output=True, text=True, timeout=60, check=False
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")
