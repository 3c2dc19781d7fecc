"""Steering real server processes: every worker follows a kill and a new configuration under load."""

from __future__ import annotations

import asyncio
import contextlib
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from stream_ctr.experiments.assignment import bucket_of
from stream_ctr.experiments.shared_files import read_gaps
from stream_ctr.serving.app import AdminApp
from stream_ctr.serving.http.admin_api import admin_routes
from stream_ctr.serving.http.tokens import Tokens
from tests.serving.ranking.test_impression_log import eventually, logged
from tests.support.served_arms import Served, constant, publish, request, sample

CONFIG = """
[features]
preset = "world"
[train]
state = "{folder}"
[log]
url = "sqlite:///{folder}/logs/log.db"
[serve]
port = 0
poll_seconds = {poll_seconds}
deadline_seconds = 60.0
workers = {workers}
[experiment]
name = "steering"
salt = "one"
arms = [{{name = "control", weight = 0.5}}, {{name = "new", weight = 0.5}}]
"""
P = {"control": 0.25, "new": 0.5, "third": 0.75}
USER = next(f"user-{n}" for n in range(100) if bucket_of("one", f"user-{n}") >= 5000)


class Cluster:
    """``stream-ctr serve`` with its workers, and clients to all of them."""

    def __init__(self, folder: Path, workers: int, poll_seconds: float) -> None:
        for arm, p in P.items():
            publish(folder, arm, constant(p))
        self.folder = folder
        self.path = folder / "config.toml"
        self.path.write_text(CONFIG.format(folder=folder, workers=workers, poll_seconds=poll_seconds))
        self.child = subprocess.Popen(
            [sys.executable, "-m", "stream_ctr.cli", "serve", "--config", str(self.path)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.child.stdout is not None
        lines = [self.child.stdout.readline() for _ in range(workers + 1)]
        self.url, *self.admins = [re.findall(r"http://\S+", line)[0] for line in lines]

    def metrics(self, name: str, **labels: str) -> list[float]:
        """The series in every worker."""
        texts = [httpx.get(f"{admin}/metrics", timeout=60).text for admin in self.admins]
        return [sample(text, f"stream_ctr_serve_{name}", **labels) for text in texts]

    def replace(self, *changes: tuple[str, str]) -> None:
        text = self.path.read_text()
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        beside = self.path.with_suffix(".new")
        beside.write_text(text)
        beside.rename(self.path)

    def stop(self) -> str:
        self.child.send_signal(signal.SIGTERM)
        _, err = self.child.communicate(timeout=120)
        assert self.child.returncode == 0, err
        return err


@contextlib.contextmanager
def serving(folder: Path, workers: int, poll_seconds: float) -> Iterator[Cluster]:
    cluster = Cluster(folder, workers, poll_seconds)
    try:
        yield cluster
    finally:
        if cluster.child.poll() is None:
            cluster.child.kill()
        cluster.child.communicate()


def test_all_workers_follow_a_kill_and_a_new_experiment_under_load(tmp_path: Path) -> None:
    answers: list[httpx.Response] = []
    done = threading.Event()

    def load(url: str) -> None:
        while not done.is_set():
            # A connection each: any worker may take it.
            answers.append(httpx.post(f"{url}/v1/rank", json=request(USER), timeout=60))

    with serving(tmp_path, workers=2, poll_seconds=0.05) as cluster:
        threads = [threading.Thread(target=load, args=(cluster.url,)) for _ in range(2)]
        for thread in threads:
            thread.start()
        eventually(lambda: len(answers) > 20)
        killed = httpx.post(f"{cluster.admins[0]}/admin/arms/new/kill", json={"reason": "test"}, timeout=60)
        assert (killed.status_code, killed.json()["changed"]) == (200, True)
        eventually(lambda: cluster.metrics("arm_killed", arm="new") == [1, 1])
        after_kill = len(answers) + len(threads)  # those under way may have seen the old plan
        eventually(lambda: len(answers) > after_kill + 20)
        before_reload = len(answers)
        cluster.replace(('salt = "one"', 'salt = "two"'), ('"new"', '"third"'))
        eventually(lambda: cluster.metrics("config_reloads_total") == [1, 1])
        after_reload = len(answers) + len(threads)
        eventually(lambda: len(answers) > after_reload + 20)
        done.set()
        for thread in threads:
            thread.join()
        err = cluster.stop()
    assert "Traceback" not in err
    assert err.count("arm new is killed (manual): test") == 2
    assert err.count("the experiment is now steering, salt two") == 2
    assert {answer.status_code for answer in answers} == {200}, "no request failed"
    arms = [answer.json()["arm"] for answer in answers]
    assert arms[0] == "new"
    assert set(arms[after_kill:before_reload]) == {"control"}
    second = "control" if bucket_of("two", USER) < 5000 else "third"
    assert set(arms[after_reload:]) == {second}
    impressions = logged(f"sqlite:///{tmp_path}/logs/log.db")
    assert len(impressions) == len(answers)
    for each in impressions:
        names = {"one": {"control", "new"}, "two": {"control", "third"}}[each.salt]
        assert set(each.p) <= names, "one experiment in one answer"
        assert each.p == {arm: P[arm] for arm in each.p}
        assert each.reason == (
            "killed" if (each.assigned_arm, each.arm) == ("new", "control") else "assigned"
        )
        assert each.bucket == bucket_of(each.salt, USER)


def test_an_unavailable_log_leaves_a_gap_that_ends_when_it_recovers(tmp_path: Path) -> None:
    blocked = tmp_path / "logs"
    blocked.write_text("a file where a folder is needed")
    with serving(tmp_path, workers=1, poll_seconds=3600) as cluster:
        eventually(lambda: len(read_gaps(tmp_path / "experiment")) == 1)
        assert read_gaps(tmp_path / "experiment")[0].end_ms is None
        assert httpx.post(f"{cluster.url}/v1/rank", json=request(USER), timeout=60).status_code == 200
        blocked.unlink()
        eventually(lambda: read_gaps(tmp_path / "experiment")[0].end_ms is not None)
        assert cluster.metrics("log_gaps_total") == [1]
        cluster.stop()
    (gap,) = read_gaps(tmp_path / "experiment")
    assert gap.dropped == 0, "it only waited"
    assert len(logged(f"sqlite:///{blocked}/log.db")) == 1


def test_sighup_reloads_the_file_at_once(tmp_path: Path) -> None:
    with serving(tmp_path, workers=1, poll_seconds=3600) as cluster:
        cluster.replace(('name = "steering"', 'name = "renamed"'))
        cluster.child.send_signal(signal.SIGHUP)
        eventually(lambda: cluster.metrics("config_failures_total") == [1])
        cluster.replace(('name = "renamed"', 'name = "renamed"\ncoverage = 0.0'), ('"one"', '"two"'))
        cluster.child.send_signal(signal.SIGHUP)
        eventually(lambda: cluster.metrics("config_reloads_total") == [1])
        assert (
            httpx.post(f"{cluster.url}/v1/rank", json=request(USER), timeout=60).json()["experiment"]
            == "renamed"
        )
        err = cluster.stop()
    assert "a changed name requires a new salt" in err


@pytest.mark.parametrize(
    ("method", "path", "body", "code"),
    [
        ("GET", "/admin/arms", b"", 200),
        ("POST", "/admin/arms/new/kill", b"", 200),
        ("POST", "/admin/arms/new/kill", b'{"reason": "because"}', 200),
        ("POST", "/admin/arms/new/revive", b"", 200),
        ("POST", "/admin/arms/control/kill", b"", 409),
        ("POST", "/admin/arms/other/kill", b"", 404),
        ("POST", "/admin/arms/other/revive", b"", 404),
        ("POST", "/admin/arms/new/kill", b'{"why": "because"}', 400),
        ("POST", "/admin/arms/new/kill", b"\xff", 400),
        ("POST", "/admin/arms/new/kill", b" " * 70_000, 413),
        ("GET", "/admin/arms/new/kill", b"", 405),
        ("POST", "/admin/reload", b"", 409),
    ],
)
def test_the_admin_routes_report_their_effect(
    tmp_path: Path, method: str, path: str, body: bytes, code: int
) -> None:
    publish(tmp_path, "control", constant(0.25))
    served = Served(tmp_path)
    admin = AdminApp(served.app, Tokens(""), admin_routes(served.routing))

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(admin)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:1") as client:
            return await client.request(method, path, content=body)

    answer = asyncio.run(ask())
    assert answer.status_code == code
    content = answer.json()
    if code != 200:
        assert content.keys() == {"error"}
        assert not served.routing.plan.killed
        return
    killed = {arm["name"]: arm["killed"] for arm in content["arms"]}
    assert killed["control"] is None
    assert (killed["new"] is not None) == path.endswith("kill") == content.get("changed", False)
    if b"because" in body:
        assert killed["new"]["reason"] == "because"
