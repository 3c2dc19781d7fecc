"""The trainer's daemon: rejected states and logs, faults that it survives, how it ends."""

from __future__ import annotations

import errno
import io
import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from stream_ctr.cli import main
from stream_ctr.config.settings import load_settings
from stream_ctr.daemon import intake
from stream_ctr.daemon.checkpoint import CheckpointStore
from stream_ctr.daemon.process import StateLock
from stream_ctr.errors import LogError, OffsetRangeError, StateError
from stream_ctr.events.dead_letters import list_dead_letters
from stream_ctr.events.log import Record, TopicPartition
from stream_ctr.events.open import open_log
from stream_ctr.pipeline.ordering.journal import Decision, FileJournal
from stream_ctr.predictors.snapshot import versions
from stream_ctr.reporting.progress import Reporter
from stream_ctr.training.trainer import Trainer
from tests.support.faulty_files import FailingFiles
from tests.support.faulty_streams import START_MS, extend_stream, write_config, write_stream


@contextmanager
def trainer(config: Path, files: FailingFiles | None = None) -> Iterator[Trainer]:
    settings = load_settings(config)
    log = open_log(settings.log.url)
    try:
        with Reporter("test", quiet=True) as reporter:
            yield Trainer(settings, settings.arm(None), log, reporter, files=files)
    finally:
        log.close()


def run(config: Path, files: FailingFiles | None = None) -> int:
    """Learn the log to its end; returns the updates of this run."""
    with trainer(config, files) as daemon:
        return daemon.run(threading.Event(), until_idle=0.0).events


def test_a_second_run_continues_where_the_first_stopped(tmp_path: Path) -> None:
    write_stream(tmp_path, 80)
    config = write_config(tmp_path, "state")
    first = run(config)
    assert first > 60
    assert run(config) == 0
    log = open_log(f"sqlite:///{tmp_path}/clicks.db")
    extend_stream(log, 80, 120)
    log.close()
    assert 30 < run(config) <= 40


@pytest.mark.parametrize("name", ["river-ftrl", "river-lr", "river-fm"])
def test_a_river_arm_loads_bit_for_bit_from_its_checkpoint(tmp_path: Path, name: str) -> None:
    write_stream(tmp_path, 80)
    config = write_config(tmp_path, "state", f'[learner]\nkind = "river"\nriver = "{name}"\n')
    config.write_text(config.read_text("utf-8").replace("snapshot_seconds = 0", "snapshot_seconds = 1e-9"))
    with trainer(config) as daemon:
        assert daemon.run(threading.Event(), until_idle=0.0).events > 60
        saved = daemon.core.learner.state()
    assert saved.values["river"] == name
    with trainer(config) as daemon:
        assert daemon.core.learner.state().equals(saved)
    assert versions(tmp_path / "state" / "main" / "snapshots")


def test_every_malformed_record_becomes_a_dead_letter_and_the_rest_is_learned(tmp_path: Path) -> None:
    write_stream(tmp_path, 300)
    config = write_config(tmp_path, "state")
    with trainer(config) as daemon:
        daemon.run(threading.Event(), until_idle=0.0)
        outcomes = daemon.core.pipeline.outcomes
    log = open_log(f"sqlite:///{tmp_path}/clicks.db")
    letters = list(list_dead_letters(log, "dead-letters"))
    ends = sum(sum(log.end_offsets(topic).values()) for topic in ("impressions", "clicks"))
    log.close()
    assert len(letters) == outcomes["rejected"] > 0
    assert all(letter.reason for letter in letters)
    marks = 1  # the end mark is an entry of the order, not of the log
    assert outcomes["entries"] == ends + marks
    impressions = outcomes["impressions"]
    assert impressions == outcomes["positives"] + outcomes["negatives"]


def test_ignored_features_are_reported_once_and_counted(tmp_path: Path) -> None:
    write_stream(tmp_path, 10)
    log = open_log(f"sqlite:///{tmp_path}/clicks.db")
    features = {"ad": "a", "device": "ios", "tags": ["a", "b", "c", "d"]}
    record = {"v": 1, "ts_ms": START_MS, "user": None, "arm": None, "features": features}
    for number in range(3):
        value = json.dumps({**record, "event_id": f"more{number}"}).encode()
        log.append("impressions", [Record(b"k", value, START_MS)])
    log.close()
    settings, reported = load_settings(write_config(tmp_path, "state")), io.StringIO()
    log = open_log(settings.log.url)
    with Reporter("test", stream=reported) as reporter:
        daemon = Trainer(settings, settings.arm(None), log, reporter)
        daemon.run(threading.Event(), until_idle=0.0)
    log.close()
    assert daemon.core.pipeline.outcomes["features_ignored"] == 3
    assert daemon.core.pipeline.outcomes["values_truncated"] >= 3
    lines = [json.loads(line) for line in reported.getvalue().splitlines()]
    assert [line["feature"] for line in lines if line["event"] == "feature-ignored"] == ["device"]


def test_unknown_features_make_dead_letters_if_configured(tmp_path: Path) -> None:
    write_stream(tmp_path, 10)
    log = open_log(f"sqlite:///{tmp_path}/clicks.db")
    value = b'{"v":1,"event_id":"more","ts_ms":%d,"features":{"device":"ios"}}' % START_MS
    log.append("impressions", [Record(b"k", value, START_MS)])
    log.close()
    config = write_config(tmp_path, "state")
    config.write_text(
        config.read_text("utf-8").replace("[[features", '[features]\nunknown = "refuse"\n[[features', 1)
    )
    run(config)
    log = open_log(f"sqlite:///{tmp_path}/clicks.db")
    reasons = [letter.reason for letter in list_dead_letters(log, "dead-letters")]
    log.close()
    assert sum("unknown field 'device'" in reason for reason in reasons) == 1


def test_another_model_is_rejected_with_both_values(tmp_path: Path) -> None:
    write_stream(tmp_path, 20)
    config = write_config(tmp_path, "state")
    run(config)
    text = config.read_text("utf-8").replace("hidden = [8, 4]", "hidden = [8, 5]")
    config.write_text(text, "utf-8")
    with pytest.raises(
        StateError, match=r"state/main was created with model\.hidden = \[8, 4\] \(now \[8, 5\]\)"
    ):
        run(config)


def test_another_schema_is_rejected_with_the_field(tmp_path: Path) -> None:
    write_stream(tmp_path, 20)
    config = write_config(tmp_path, "state")
    run(config)
    config.write_text(config.read_text("utf-8").replace("max_values = 3", "max_values = 4"), "utf-8")
    with pytest.raises(
        StateError, match=r"different fields \(changed: tags\)\. Restore features\.fields, or"
    ):
        run(config)


def test_entries_deleted_by_retention_are_named(tmp_path: Path) -> None:
    write_stream(tmp_path, 60)
    config = write_config(tmp_path, "state")
    run(config)
    log = open_log(f"sqlite:///{tmp_path}/clicks.db")
    extend_stream(log, 60, 120)
    end = log.end_offsets("impressions")[0]
    log.trim("impressions", 0, end)
    log.close()
    with pytest.raises(OffsetRangeError, match=rf"impressions\[0\].* to {end - 1} were deleted by retention"):
        run(config)


def test_a_replaced_log_is_rejected(tmp_path: Path) -> None:
    write_stream(tmp_path, 60)
    config = write_config(tmp_path, "state")
    run(config)
    for path in tmp_path.glob("clicks.db*"):
        path.unlink()
    write_stream(tmp_path, 90)
    with pytest.raises(OffsetRangeError, match="its offsets refer to other events"):
        run(config)


def test_a_log_with_other_records_is_rejected(tmp_path: Path) -> None:
    write_stream(tmp_path, 60)
    config = write_config(tmp_path, "state")
    run(config)
    connection = sqlite3.connect(tmp_path / "clicks.db")
    connection.execute("UPDATE entries SET value = x'7b7d'")
    connection.commit()
    connection.close()
    with pytest.raises(OffsetRangeError, match="is not the one applied in"):
        run(config)


def test_a_missing_topic_and_unequal_partitions_are_named(tmp_path: Path) -> None:
    log = open_log(f"sqlite:///{tmp_path}/clicks.db", create=True)
    config = write_config(tmp_path, "state")
    log.create_topic("impressions", 2)
    with pytest.raises(LogError, match="clicks"):
        run(config)
    log.create_topic("clicks", 3)
    with pytest.raises(LogError, match="impressions has 2, clicks has 3"):
        run(config)
    log.close()


def test_a_journal_ahead_of_the_log_is_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_stream(tmp_path, 40)
    config = write_config(tmp_path, "state")
    run(config)
    FileJournal(tmp_path / "state" / "main" / "journal").append(
        [Decision(10_000, "idle", TopicPartition("clicks", 0))]
    )
    monkeypatch.setattr(intake, "JOURNAL_SECONDS", 0.2)
    with pytest.raises(StateError, match="contains a decision after entry"):
        run(config)


def test_a_second_trainer_cannot_start(tmp_path: Path) -> None:
    with StateLock(tmp_path), pytest.raises(StateError, match=f"in use by process {os.getpid()}"):
        StateLock(tmp_path)
    with StateLock(tmp_path):
        pass


def test_learning_continues_on_a_full_disk(tmp_path: Path) -> None:
    write_stream(tmp_path, 200)
    config = write_config(tmp_path, "state")
    text = config.read_text("utf-8").replace("checkpoint_seconds = 1e9", "checkpoint_seconds = 0")
    config.write_text(text, "utf-8")
    run(write_config(tmp_path, "whole"))
    counting = FailingFiles(0)
    with trainer(config, counting) as daemon:
        started = counting.count
        counting.fail_at = started + 3  # inside the first checkpoint of the loop
        counting.code = errno.ENOSPC
        daemon.run(threading.Event(), until_idle=0.0)
    whole = CheckpointStore(tmp_path / "whole" / "main" / "checkpoints", 9).load()
    state = CheckpointStore(tmp_path / "state" / "main" / "checkpoints", 9).load()
    assert whole is not None
    assert state is not None
    assert state.parts["learner"].equals(whole.parts["learner"])


def test_falling_back_past_damage_keeps_what_the_next_start_needs(tmp_path: Path) -> None:
    """After a fallback, the newest checkpoint can need older journal decisions than the oldest one."""
    write_stream(tmp_path, 40)
    config = write_config(tmp_path, "state")
    config.write_text(
        config.read_text("utf-8").replace("checkpoints_kept = 1000", "checkpoints_kept = 2"), "utf-8"
    )
    log = open_log(f"sqlite:///{tmp_path}/clicks.db")
    for number in range(1, 4):
        run(config)
        extend_stream(log, 40 * number, 40 * number + 40)
    log.close()
    run(config)
    store = CheckpointStore(tmp_path / "state" / "main" / "checkpoints", 2)
    whole, damaged = store.versions()
    (store.path(damaged) / "learner.safetensors").write_bytes(b"x")
    learned = store.read(whole)[1]["totals"].values["learned"]
    stopped = threading.Event()
    stopped.set()
    for _ in range(2):  # stopped before it reaches the position of the damaged version
        with trainer(config) as daemon:
            assert daemon.run(stopped).learned == learned
    assert run(config) > 30


def test_learning_continues_with_a_closed_standard_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_stream(tmp_path, 20)
    config = str(write_config(tmp_path, "state"))
    monkeypatch.setattr(sys, "stderr", None)
    assert main(["train", "--config", config, "--until-idle", "0"]) == 0
    with Reporter("x", stream=ClosedPipe()) as reporter:
        reporter.say("lost")


class ClosedPipe(io.StringIO):
    """A standard error whose reader has closed."""

    def write(self, text: str) -> int:
        raise BrokenPipeError(errno.EPIPE, text)


def start(config: Path, *more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "stream_ctr.cli", "train", "--config", str(config), *more],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def lines_until(process: subprocess.Popen[str], event: str) -> dict[str, object]:
    """Read the daemon's structured lines up to the one with ``event``."""
    assert process.stderr is not None
    for line in process.stderr:
        values: dict[str, object] = json.loads(line)
        if values["event"] == event:
            return values
    raise AssertionError(f"the daemon ended without reporting {event}")


@pytest.mark.slow
def test_the_process_serves_metrics_and_ends_cleanly_on_sigterm(tmp_path: Path) -> None:
    write_stream(tmp_path, 150)
    config = write_config(tmp_path, "state")
    config.write_text(config.read_text("utf-8").replace("metrics_port = -1", "metrics_port = 0"), "utf-8")
    process = start(config)
    try:
        url = str(lines_until(process, "metrics")["url"])
        text = ""
        deadline = time.monotonic() + 120
        while "stream_ctr_log_loss{" not in text and time.monotonic() < deadline:
            with urllib.request.urlopen(url, timeout=60) as answer:
                text = answer.read().decode()
            time.sleep(0.1)
        assert 'stream_ctr_log_loss{arm="main"' in text
        with StateLockHeld(tmp_path / "state" / "main"):
            process.send_signal(signal.SIGTERM)
        stopped = lines_until(process, "stopped")
        assert process.wait(60) == 0
        store = CheckpointStore(tmp_path / "state" / "main" / "checkpoints", 3)
        assert stopped["checkpoint"] == str(store.path(store.versions()[-1]))
    finally:
        process.kill()
        process.communicate()


class StateLockHeld:
    """Asserts on entry that the folder's lock is held by another process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __enter__(self) -> None:
        with pytest.raises(StateError, match="in use by process"):
            StateLock(self.folder)

    def __exit__(self, *_: object) -> None:
        return
