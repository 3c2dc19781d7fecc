"""``deploy/kafka/start`` reports in one line why it cannot start."""

from __future__ import annotations

import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from tests.support.kafka_broker import START


def run(*arguments: str, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    bash = shutil.which("bash")
    assert bash is not None
    environment = None if path is None else {"PATH": str(path)}
    return subprocess.run(
        [bash, str(START), *arguments], capture_output=True, text=True, timeout=60, env=environment
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--port"], "--port needs a value; see --help"),
        (["--port", "x1"], "--port must be a number from 0 to 65535, got 'x1'"),
        (["--port", "65536"], "--port must be a number from 0 to 65535, got '65536'"),
        (["--daemon"], "unknown option '--daemon'; see --help"),
    ],
)
def test_wrong_usage_is_one_line(arguments: list[str], message: str) -> None:
    result = run(*arguments)
    assert (result.returncode, result.stdout, result.stderr) == (2, "", f"start: {message}\n")


def test_a_missing_java_is_one_line(tmp_path: Path) -> None:
    dirname = shutil.which("dirname")
    assert dirname is not None
    (tmp_path / "dirname").symlink_to(dirname)
    result = run(path=tmp_path)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == "start: no 'java' found; install Java 17 or newer, or set JAVA_HOME\n"


@pytest.mark.kafka
def test_a_taken_port_is_one_line(kafka_url: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        result = run("--port", str(port), "--data", str(tmp_path))
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == f"start: port {port} on 127.0.0.1 is in use; choose another with --port\n"
