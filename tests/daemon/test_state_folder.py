"""How trainer, joining process and watcher start, and which state folders they reject."""

from __future__ import annotations

import io
import json
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from stream_ctr.cli import main
from stream_ctr.config.settings import load_settings
from stream_ctr.daemon import intake
from stream_ctr.errors import OffsetRangeError, StateError
from stream_ctr.events.log import EventLog, TopicPartition
from stream_ctr.events.open import open_log
from stream_ctr.experiments.watcher.daemon import Watcher
from stream_ctr.joining.daemon import JoinDaemon
from stream_ctr.pipeline.ordering.journal import Decision, FileJournal
from stream_ctr.predictors.snapshot import SNAPSHOTS, read_current
from stream_ctr.reporting.progress import Reporter
from stream_ctr.training.trainer import Trainer
from tests.support.faulty_streams import extend_stream, write_config, write_stream

KINDS = {"train": "main", "join": "join", "watch": "experiment"}
"""Name of the folder of each daemon in the state folder."""
COMMANDS = {"train": ["train"], "join": ["join"], "watch": ["experiment", "watch"]}
SETTLED = '[watch]\nport = -1\n[learner]\nkind = "river"\nriver = "river-lr"\n'


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A stream of 40 impressions, and a configuration for it."""
    write_stream(tmp_path, 40)
    return write_config(tmp_path, "state", SETTLED)


def run(kind: str, config: Path, *, skip_lost: bool = False) -> list[dict[str, Any]]:
    """Run a daemon to the end of the log; returns the lines that it reported."""
    settings, reported = load_settings(config), io.StringIO()
    log = open_log(settings.log.url)
    try:
        with Reporter("test", stream=reported, line_seconds=1e9) as reporter:
            _daemon(kind, config, log, reporter, skip_lost).run(threading.Event(), 0.0)
    finally:
        log.close()
    lines = [json.loads(line) for line in reported.getvalue().splitlines()]
    # The stream has losses on purpose; other tests check their warnings.
    lines = [line for line in lines if line["event"] != "warning"]
    return [{key: line[key] for key in line if key not in ("time", "job")} for line in lines]


def _daemon(
    kind: str, config: Path, log: EventLog, reporter: Reporter, skip_lost: bool
) -> Trainer | JoinDaemon | Watcher:
    settings = load_settings(config)
    if kind == "train":
        return Trainer(settings, settings.arm(None), log, reporter, skip_lost=skip_lost)
    if kind == "watch":
        return Watcher(settings, log, reporter, skip_lost=skip_lost)
    return JoinDaemon(settings, log, reporter)


def checkpoints(kind: str, config: Path) -> list[Path]:
    return sorted((config.parent / "state" / KINDS[kind] / "checkpoints").glob("[0-9]*"))


@pytest.mark.parametrize("kind", KINDS)
def test_new_and_resumed_runs_and_damaged_checkpoints_are_reported(kind: str, config: Path) -> None:
    folder = config.parent / "state" / KINDS[kind]
    (new,) = run(kind, config)
    assert (new["event"], new["state"]) == ("new", str(folder))
    assert set(new) - {"reason"} == {"event", "state"}
    first, *_, newest = checkpoints(kind, config)
    (resumed,) = run(kind, config)
    assert (resumed["event"], resumed["checkpoint"]) == ("resumed", str(newest))
    assert resumed["learned" if kind == "train" else "applied"] > 0
    broken = checkpoints(kind, config)[1:]
    for path in broken:
        (path / "manifest.json").write_text("no manifest")
    *damaged, resumed, kept = run(kind, config)
    assert {line["event"] for line in damaged} == {"damaged"}
    for path, line in zip(reversed(broken), damaged, strict=True):
        assert str(path) in line["checkpoint"]
    assert (resumed["event"], resumed["checkpoint"]) == ("resumed", str(first))
    # The damaged manifests may need older decisions, so the journal is not trimmed; the run continues.
    assert kept["event"] == "journal-not-trimmed"
    assert len(checkpoints(kind, config)) > 1 + len(broken)


@pytest.mark.parametrize("kind", ["train", "watch"])
def test_deleted_entries_stop_the_start_unless_they_are_skipped(kind: str, config: Path) -> None:
    run(kind, config)
    log = open_log(load_settings(config).log.url)
    before = log.end_offsets("impressions")
    extend_stream(log, 40, 80)
    for partition, end in before.items():
        log.trim("impressions", partition, end + 3)
    log.close()
    with pytest.raises(OffsetRangeError, match="were deleted by retention"):
        run(kind, config)
    resumed, skipped = run(kind, config, skip_lost=True)
    assert (resumed["event"], skipped["event"], skipped["entries"]) == ("resumed", "skipped", 6)
    assert [line["event"] for line in run(kind, config)] == ["resumed"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_journal_ahead_of_the_log_is_rejected(
    kind: str, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(kind, config)
    FileJournal(config.parent / "state" / KINDS[kind] / "journal").append(
        [Decision(10_000, "idle", TopicPartition("clicks", 0))]
    )
    monkeypatch.setattr(intake, "JOURNAL_SECONDS", 0.2)
    with pytest.raises(StateError, match="contains a decision after entry"):
        run(kind, config)


@pytest.mark.parametrize("kind", KINDS)
def test_a_state_with_other_settings_is_rejected(kind: str, config: Path) -> None:
    run(kind, config)
    config.write_text(config.read_text().replace("window_seconds = 20.0", "window_seconds = 21.0"))
    with pytest.raises(StateError, match=r"was created with join\.window_seconds = 20\.0 \(now 21\.0\)\."):
        run(kind, config)


@pytest.mark.parametrize("kind", KINDS)
def test_a_signal_before_the_log_is_available_ends_the_daemon_with_status_0(kind: str, config: Path) -> None:
    unavailable = config.with_name("unavailable.toml")
    unavailable.write_text(
        config.read_text().replace(f"sqlite:///{config.parent}/clicks.db", "kafka://127.0.0.1:1")
    )
    command = [
        sys.executable,
        "-m",
        "stream_ctr.cli",
        *COMMANDS[kind],
        "--config",
        str(unavailable),
        "--json",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            assert json.loads(process.stderr.readline())["event"] == "waiting"
            process.send_signal(signal.SIGTERM)
            last = json.loads(process.stderr.read().splitlines()[-1])
            assert (last["event"], last["reason"]) == (
                "stopped",
                "stopped by a signal before the log was available",
            )
            assert (process.stdout.read(), process.wait(60.0)) == ("", 0)
        finally:
            process.kill()


@pytest.mark.parametrize("lost", [("checkpoints", "journal"), ("checkpoints",)])
def test_a_trained_snapshot_is_not_replaced_by_an_untrained_one(
    config: Path, lost: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    text = config.read_text("utf-8").replace("snapshot_seconds = 0", "snapshot_seconds = 0.01")
    config.write_text(text, "utf-8")
    run("train", config)
    folder = config.parent / "state" / "main"
    trained = read_current(folder / SNAPSHOTS)
    assert trained is not None
    for name in lost:
        gone = folder / name
        shutil.rmtree(gone) if gone.is_dir() else gone.unlink()
    assert main(["train", "--config", str(config), "--until-idle", "0"]) == 1
    assert "train --replace-snapshots" in capsys.readouterr().err
    assert read_current(folder / SNAPSHOTS) == trained
    assert main(["train", "--config", str(config), "--until-idle", "0", "--replace-snapshots"]) == 0
    replaced = read_current(folder / SNAPSHOTS)
    assert replaced is not None
    assert replaced[0] > trained[0]
