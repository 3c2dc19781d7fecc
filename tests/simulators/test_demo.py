"""The demo as a process: its output, and that no child process outlives it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from simulators.demo.processes import Child, Children, children
from simulators.demo.report import print_result
from simulators.demo.setup import ARMS
from stream_ctr.errors import StreamCTRError
from stream_ctr.events.open import open_log
from stream_ctr.experiments.report.model import decode_report
from tests.serving.ranking.test_impression_log import eventually


@contextlib.contextmanager
def demo(out: Path, *more: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "stream_ctr.cli", "demo", "--out", str(out), *more]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        yield process
    finally:
        for pid in of_session(process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.communicate()


def of_session(session: int) -> list[int]:
    """Ids of the running processes of a session."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, _, owner = path.read_text().rpartition(")")[2].split()[:4]
            if int(owner) == session and state != "Z":
                found.append(int(path.parent.name))
    return found


def wait_for(condition: Path, process: subprocess.Popen[str], seconds: float = 240.0) -> None:
    until = time.monotonic() + seconds
    while not condition.exists() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.05)
    assert condition.exists()


@pytest.mark.slow
def test_a_short_demo_reports_and_keeps_serving(tmp_path: Path) -> None:
    with demo(tmp_path, "--events", "900", "--rate", "300", "--keep-serving", "--json") as process:
        assert process.stdout is not None
        text = ""
        while not text.endswith("\n}\n"):
            line = process.stdout.readline()
            assert line, process.communicate()[1]
            text += line
        result = json.loads(text)
        page = result["addresses"]["page"]
        with urllib.request.urlopen(f"{page}/report.json", timeout=60) as answer:
            assert decode_report(answer.read()).experiment == "demo"
        eventually(lambda: len(of_session(process.pid)) == 6)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=120)
        assert (process.returncode, "Traceback" in errors) == (0, False), errors
        assert of_session(process.pid) == []
    traffic = result["traffic"]
    assert (traffic["sent"], traffic["answered"], traffic["failed"]) == (900, 900, 0)
    assert result["experiment"]["sample_ratio"]["sound"]
    assert Path(result["plot"]).read_bytes().startswith(b"\x89PNG")
    for arm in ARMS:
        figures = result["arms"][arm]
        assert figures["lifetime"]["events"] == result["arms"]["control"]["lifetime"]["events"] > 0
        assert figures["shown"] == traffic["arms"][arm]


@pytest.mark.slow
def test_sigterm_ends_all_child_processes(tmp_path: Path) -> None:
    folder = tmp_path / 'a "quoted" {folder}'
    with demo(folder, "--events", "100000") as process:
        wait_for(folder / "demo-1" / "state" / "treatment" / "lock", process)  # then all but the traffic run
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 130
        assert "Traceback" not in errors
        assert errors.endswith("stream-ctr demo: interrupted\n")
        assert of_session(process.pid) == []


def test_a_failing_process_is_reported_in_one_line_and_ends_the_others(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with demo(tmp_path, "--port", str(port)) as process:
            _, errors = process.communicate(timeout=120)
            assert process.returncode == 1
            assert of_session(process.pid) == []
    last = errors.splitlines()[-1]
    assert "server ended with status 2" in last
    assert f"cannot listen on 127.0.0.1 port {port}" in last
    assert "Traceback" not in errors


PARENT = """
import sys, time
from pathlib import Path
from simulators.demo.processes import children
with children(Path(sys.argv[1])) as started:
    for number in range(2):
        started.start(f"join-{number}", "join", "--config", f"{sys.argv[1]}/{number}.toml")
    time.sleep(600.0)
"""
"""A parent process with two children that read a log until they are ended."""


def test_after_sigkill_the_children_shut_down_cleanly(tmp_path: Path) -> None:
    log = open_log(f"sqlite:///{tmp_path}/events.db", create=True)
    for topic in ("impressions", "clicks"):
        log.create_topic(topic, 1)
    log.close()
    for number in range(2):
        text = f'[log]\nurl = "sqlite:///{tmp_path}/events.db"\nlabelled = "labelled-{number}"\n'
        (tmp_path / f"{number}.toml").write_text(
            f'{text}[features]\npreset = "world"\n[train]\nstate = "{tmp_path}/{number}"\n'
        )
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(tmp_path)], start_new_session=True)
    logs = [tmp_path / f"join-{number}.log" for number in range(2)]
    try:
        eventually(lambda: all(path.exists() and '"new"' in path.read_text() for path in logs), seconds=120)
        assert len(of_session(parent.pid)) == 3
        parent.kill()
        assert parent.wait() == -signal.SIGKILL
        eventually(lambda: not of_session(parent.pid), seconds=60)
    finally:
        for pid in of_session(parent.pid):
            os.kill(pid, signal.SIGKILL)
        parent.wait()
    for path in logs:
        assert json.loads(path.read_text().splitlines()[-1])["event"] == "stopped"


def _ended(child: Child) -> None:
    while child.running:
        time.sleep(0.02)


def test_the_last_log_line_is_reported_as_plain_text(tmp_path: Path) -> None:
    with children(tmp_path) as started:
        child = started.start("config", "config", "check", str(tmp_path / "none.toml"))
        _ended(child)
        with pytest.raises(
            StreamCTRError, match=r"config ended with status 2: .*cannot read the configuration"
        ):
            started.check()
        child.log.write_text('{"time":"x","job":"train","event":"gone","reason":"no room"}\n')
        assert child.last_line() == "gone, reason no room"


def test_a_child_that_may_end_must_not_fail(tmp_path: Path) -> None:
    started = Children(tmp_path)
    child = started.start("config", "config", "show")
    _ended(child)
    started.check(may_end=child)
    with pytest.raises(StreamCTRError, match="config ended with status 0"):
        started.check()
    started.end()


def test_without_matplotlib_the_report_explains_how_to_get_the_plot(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    report = Path(__file__).parents[1] / "experiments" / "report" / "report_example.json"
    traffic = {"answered": 9, "sent": 9, "latency_ms": {"p50": 1.0, "p99": 2.0}}
    result = {
        "experiment": json.loads(report.read_text("utf-8")),
        "arms": {},
        "label_window_seconds": 3.0,
        "traffic": {**traffic, "behind_ms": {"longest": 1.0, "p99": 1.0}},
        "plot": None,
        **dict.fromkeys(("report", "log", "config"), "somewhere"),
    }
    print_result(result, Path("demo.toml"))
    lines = capsys.readouterr().out.splitlines()
    assert any("Compared with the ground truth" in line for line in lines)
    assert "plot      plots need matplotlib; install it with: pip install 'stream-ctr[plots]'" in lines
