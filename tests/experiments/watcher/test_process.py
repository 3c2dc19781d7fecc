"""The watcher as a process: its port, changes of its configuration, and its end."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from stream_ctr.cli import main
from stream_ctr.config.settings import load_settings
from stream_ctr.experiments.report.model import Report, decode_report
from tests.support.experiment_logs import SHADOW, World, write_config, write_log

PATIENCE_SECONDS = 60.0


class Process:
    """A running watcher, and what it says."""

    def __init__(self, config: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "stream_ctr.cli", "experiment", "watch", "--config", str(config)],
            stderr=subprocess.PIPE,
            text=True,
        )
        address = self.said("serving")["url"].split("/")
        self.url = "/".join(address[:3])

    def said(self, event: str) -> dict[str, Any]:
        """The next message of that name."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            found: dict[str, Any] = json.loads(line)
            if found["event"] == event:
                return found
        raise AssertionError(f"the watcher ended without saying {event!r}")

    def get(self, path: str) -> str:
        with urllib.request.urlopen(self.url + path, timeout=PATIENCE_SECONDS) as answer:
            return str(answer.read().decode())

    def report(self, impressions: int, salt: str) -> Report:
        """The report as soon as it is of that salt and many impressions."""
        last = time.monotonic() + PATIENCE_SECONDS
        while True:
            report = decode_report(self.get("/report.json").encode())
            shown = sum(arm.impressions for arm in report.arms)
            if (report.salt, shown) == (salt, impressions):
                return report
            assert time.monotonic() < last, f"{shown} impressions under salt {report.salt}"
            time.sleep(0.05)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = write_config(tmp_path, watch="")
    path.write_text(path.read_text().replace("port = -1", "port = 0").replace("1e6", "0.05"))
    write_log(tmp_path, load_settings(path), World(1_050, partitions=1))
    return path


def test_a_running_watcher_shows_its_report_and_follows_its_configuration(config: Path) -> None:
    watcher = Process(config)
    try:
        # 1,000 of the impressions are in the window that closes; its last labels settle 6 s later.
        settings = load_settings(config)
        write_log(config.parent, settings, World(300, partitions=1, seed=1), start=1_050)
        report = watcher.report(1_000, "one")
        metrics = watcher.get("/metrics")
        for arm in report.arms:
            line = f'stream_ctr_experiment_impressions_total{{arm="{arm.name}"}} {arm.impressions}.0'
            assert line in metrics
        assert watcher.get("/health/ready") == "ready\n"
        with pytest.raises(urllib.error.HTTPError, match="404"):
            watcher.get("/nothing")

        text = config.read_text()
        config.write_text(text.replace('salt = "one"', 'salt = "one"\nnonsense = 1'))
        assert "nonsense" in watcher.said("config-rejected")["reason"]
        config.write_text(text + SHADOW)
        assert "under the same salt 'one'" in watcher.said("config-rejected")["reason"]
        config.write_text(text.replace('salt = "one"', 'salt = "two"') + SHADOW)
        assert watcher.said("new-experiment")["before"] == "one"
        settings = load_settings(config)
        write_log(config.parent, settings, World(1_300, partitions=1, seed=2), start=2_000)
        assert [arm.name for arm in watcher.report(1_000, "two").arms] == ["control", "new", "quiet"]
    finally:
        watcher.process.terminate()
        status = watcher.process.wait(PATIENCE_SECONDS)
        if watcher.process.stderr is not None:
            watcher.process.stderr.close()
    assert status == 0


def test_a_port_in_use_is_reported_with_the_watchers_settings(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        text = config.read_text().replace("port = 0", f"port = {taken.getsockname()[1]}")
        config.write_text(text)
        assert main(["experiment", "watch", "--config", str(config), "--until-idle", "0"]) == 1
    assert "the port is in use; choose another, or 0 for a free one (watch.port)" in capsys.readouterr().err
