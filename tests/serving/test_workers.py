"""Several processes on one socket: load sharing, the cost of a crash, and shutdown."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path

import httpx
import pytest

from stream_ctr.serving.http.sockets import listen, same_socket
from tests.serving.ranking.test_impression_log import eventually, logged
from tests.support.served_arms import USERS, constant, publish, request, sample
from tests.support.server_process import Process, running


@pytest.fixture
def state(tmp_path: Path) -> Path:
    publish(tmp_path / "state", "control", constant(0.5))
    publish(tmp_path / "state", "new", constant(0.25))
    return tmp_path / "state"


@pytest.fixture
def log(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/log.db"


def test_another_socket_handle_does_not_block_workers() -> None:
    with listen("127.0.0.1", 0, "serve.port") as listener:
        os.set_blocking(listener.fileno(), False)  # as the loop of a worker that runs already has made it
        with same_socket(listener) as other:
            assert other.getsockname() == listener.getsockname()
            assert not os.get_blocking(listener.fileno())
            assert not os.get_blocking(other.fileno())
            with pytest.raises(BlockingIOError):
                other.accept()


def children(server: Process) -> list[int]:
    tasks = Path(f"/proc/{server.child.pid}/task/{server.child.pid}/children")
    return [int(number) for number in tasks.read_text().split()]


def gone(number: int) -> bool:
    """Whether the process has ended; one that only waits for its parent has."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def answered(admin: str) -> float:
    """200s of one worker."""
    text = httpx.get(f"{admin}/metrics", timeout=60, verify=False).text
    counted = 'stream_ctr_serve_requests_total{arm="new",code="200"}' in text
    return sample(text, "stream_ctr_serve_requests_total", arm="new", code="200") if counted else 0.0


def version(admin: str) -> float:
    """Version of the treatment's snapshot that one worker serves."""
    text = httpx.get(f"{admin}/metrics", timeout=60, verify=False).text
    return sample(text, "stream_ctr_serve_snapshot_version", arm="new")


def test_workers_share_the_requests_and_one_that_dies_is_replaced(state: Path, log: str) -> None:
    answers: list[int] = []
    done = threading.Event()

    def load(url: str) -> None:
        while not done.is_set():
            try:  # a connection of its own each time, so that all workers are met
                answers.append(
                    httpx.post(
                        f"{url}/v1/rank", json=request(USERS["new"]), timeout=60, verify=False
                    ).status_code
                )
            except httpx.TransportError:
                answers.append(0)  # the worker that had taken the connection was killed

    with running(state, log, {"workers": 2, "deadline_seconds": 60.0}) as server:
        assert len(server.admin) == 2
        assert server.client.get("/metrics").status_code == 404
        threads = [threading.Thread(target=load, args=(server.url,)) for _ in range(3)]
        for thread in threads:
            thread.start()
        eventually(lambda: all(answered(admin) > 0 for admin in server.admin))
        before = children(server)
        assert len(before) == 2
        os.kill(before[0], signal.SIGKILL)
        eventually(lambda: len(children(server)) == 2 and before[0] not in children(server))
        count = len(answers)
        for admin in server.admin:
            assert httpx.get(f"{admin}/health/ready", timeout=60, verify=False).status_code == 200, (
                "at the same port again"
            )
        eventually(lambda: len(answers) > count + 20)
        publish(state, "new", constant(0.75))
        eventually(lambda: [version(admin) for admin in server.admin] == [2, 2])
        done.set()
        for thread in threads:
            thread.join()
        left = children(server)
        _, err = server.stop()
    assert all(map(gone, left))
    assert answers.count(200) >= len(answers) - 3, "only what the killed worker had in hand is lost"
    assert set(answers) <= {0, 200}
    assert len(err.splitlines()) == 1
    assert f"process {before[0]}" in err
    assert len(logged(log)) >= answers.count(200) - 50, "impressions queued in the killed worker may be lost"


def replaced(admin: str, cause: str) -> float:
    """How often this worker was started anew for that cause; 0 while it cannot say."""
    try:
        text = httpx.get(f"{admin}/metrics", timeout=20).text
    except httpx.TransportError:
        return 0.0
    name = "stream_ctr_serve_worker_replacements_total"
    return sample(text, name, cause=cause) if f'{name}{{cause="{cause}"}}' in text else 0.0


def test_a_hung_worker_is_killed_and_replaced(state: Path, log: str) -> None:
    with running(state, log, {"workers": 2, "hang_seconds": 3.0}) as server:
        before = children(server)
        os.kill(before[0], signal.SIGSTOP)
        eventually(lambda: gone(before[0]), 60)
        eventually(lambda: replaced(server.admin[0], "hung") == 1, 60)
        assert replaced(server.admin[0], "ended") == 0
        assert before[1] in children(server), "the other one is left alone"
        assert httpx.get(f"{server.admin[0]}/health/ready", timeout=60).status_code == 200
        # one that stands still while its parent does as well is not to blame
        for number in (server.child.pid, *children(server)):
            os.kill(number, signal.SIGSTOP)
        stopped = children(server)
        time.sleep(3.5)
        for number in (*stopped, server.child.pid):
            os.kill(number, signal.SIGCONT)
        assert httpx.get(f"{server.admin[1]}/health/ready", timeout=60).status_code == 200
        assert children(server) == stopped
        _, err = server.stop()
    assert len(err.splitlines()) == 1
    assert f"worker 0 (process {before[0]}) sent no heartbeat" in err


def test_workers_end_with_their_parent(state: Path, log: str) -> None:
    with running(state, log, {"workers": 2}) as server:
        left = children(server)
        assert len(left) == 2
        server.child.kill()
        eventually(lambda: all(map(gone, left)))


def test_a_job_that_cannot_start_is_reported_once(state: Path) -> None:
    from tests.serving.test_server import run

    ended = run(str(state), "nonsense://x", json.dumps({"workers": 3}))
    assert ended.returncode == 2
    assert "nonsense://x" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
