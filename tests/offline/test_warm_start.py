"""Warm start: equal bits, less loss than a cold start, and only one warm start per state."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from stream_ctr.cli import main
from stream_ctr.config.settings import load_settings
from stream_ctr.daemon.checkpoint import CheckpointStore
from stream_ctr.errors import StateError
from stream_ctr.events.open import open_log
from stream_ctr.offline.protocol import BatchProtocol
from stream_ctr.offline.run import prepare, run
from stream_ctr.offline.warm_start import WarmStart, save_warm_start
from stream_ctr.reporting.progress import Reporter
from stream_ctr.state.state import State
from stream_ctr.training.core import Step
from stream_ctr.training.trainer import Trainer
from tests.support.faulty_streams import write_config
from tests.support.planted_dataset import FIELDS, Made, columns, write_log
from tests.support.state_parts import without_decisions

HISTORY = 1500
STREAM = 300
PROTOCOL = BatchProtocol(split="time", shares=(9, 1, 0), epochs=4, batch_size=16)


def configured(folder: Path, state: str, extra: str = "") -> Path:
    """A configuration with the fields of the generated data."""
    path = write_config(folder, state, extra)
    first = "[[features.fields]]"
    text = path.read_text("utf-8").replace(first, f"[features]\nminimum_count = 2\n{first}", 1)
    path.write_text(text + "[optimizer]\nrow_rate = 0.1\n", "utf-8")
    return path


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, State]]:
    """The checkpoint of a batch run and its states."""
    folder = tmp_path_factory.mktemp("history")
    settings = load_settings(configured(folder, "state"))
    made = prepare(columns(folder, Made(rows=HISTORY)), PROTOCOL, settings.features)
    arm = settings.arm(None)
    fit = run(made, PROTOCOL, arm.model, arm.optimizer, arm.learner)
    parts = {
        "keys": made.feed.encoded.keys_state,
        "tables": made.feed.vocabulary.tables_state(
            settings.features, made.feed.encoded.slot_field, len(FIELDS)
        ),
        "learner": fit.state,
    }
    save_warm_start(folder / "saved", settings, arm, FIELDS, parts)
    return folder / "saved", parts


def trained(
    config: Path, warm: WarmStart | None, on_step: Callable[[Step], None] = lambda step: None
) -> tuple[Trainer, str]:
    """The trainer at the end of the log, and its output."""
    settings = load_settings(config)
    log = open_log(settings.log.url)
    output = io.StringIO()
    try:
        with Reporter("test", stream=output) as reporter:
            daemon = Trainer(settings, settings.arm(None), log, reporter, on_step=on_step, warm=warm)
            daemon.run(threading.Event(), until_idle=0.0)
    finally:
        log.close()
    return daemon, output.getvalue()


def settled(state: State) -> State:
    """The state without the events that wait for a second turn; a batch run leaves none."""
    assert not state.arrays["past.weight"].any()
    arrays = {name: array for name, array in state.arrays.items() if not name.startswith("past.")}
    return State(arrays, state.values)


def test_the_stream_starts_from_the_saved_bits_with_less_loss_than_a_cold_start(
    tmp_path: Path, saved: tuple[Path, dict[str, State]]
) -> None:
    folder, parts = saved
    write_log(tmp_path, 0, HISTORY, HISTORY + STREAM)
    warm, output = trained(configured(tmp_path, "warm"), WarmStart(folder, "first"))
    cold, _ = trained(configured(tmp_path, "cold"), None)
    _, first = CheckpointStore(tmp_path / "warm" / "main" / "checkpoints", 1000).read(1)
    assert settled(first["learner"]).equals(parts["learner"])
    assert first["pipeline"].part("tables").equals(parts["tables"])
    assert first["pipeline"].part("keys").equals(parts["keys"])
    assert f"the weights start from {folder}" in output
    one, other = warm.core.metrics.result(), cold.core.metrics.result()
    assert one.events == other.events == STREAM
    assert one.log_loss < other.log_loss - 0.05
    assert one.auc > other.auc + 0.05
    # Counts continue: history and stream together hold each impression once.
    values = warm.core.pipeline.tables
    assert values.row_count.sum() > parts["tables"].arrays["row_count"].sum() + STREAM
    assert warm.core.learned == STREAM


def test_the_stream_can_start_at_the_end_of_the_log(
    tmp_path: Path, saved: tuple[Path, dict[str, State]]
) -> None:
    write_log(tmp_path, 0, HISTORY, HISTORY + 40)
    daemon, _ = trained(configured(tmp_path, "state"), WarmStart(saved[0], "last"))
    assert daemon.core.learned == 0
    assert settled(daemon.core.learner.state()).equals(saved[1]["learner"])
    write_log(tmp_path, 0, HISTORY + 40, HISTORY + 70)
    daemon, output = trained(configured(tmp_path, "state"), WarmStart(saved[0], "last"))
    assert daemon.core.learned == 30
    assert "start-from-ignored" in output


def test_a_killed_run_resumes_from_its_own_checkpoint(
    tmp_path: Path, saved: tuple[Path, dict[str, State]]
) -> None:
    write_log(tmp_path, 0, HISTORY, HISTORY + 200)
    warm = WarmStart(saved[0], "first")
    whole, _ = trained(configured(tmp_path, "whole"), warm)
    store = CheckpointStore(tmp_path / "killed" / "main" / "checkpoints", 1000)

    def kill(step: Step) -> None:
        before, patience = len(store.versions()), time.monotonic() + 0.5
        while len(store.versions()) == before and time.monotonic() < patience:
            time.sleep(0.01)  # a running checkpoint is written by another thread
        if len(store.versions()) > 2:
            raise KeyboardInterrupt

    often = configured(tmp_path, "killed")
    text = often.read_text("utf-8").replace("checkpoint_seconds = 1e9", "checkpoint_seconds = 0")
    often.write_text(text, "utf-8")
    with pytest.raises(KeyboardInterrupt):
        trained(often, warm, kill)
    again, output = trained(often, warm)
    assert '"event": "resumed"' in output
    assert "start-from-ignored" in output
    assert '"event": "new"' not in output
    resumed = without_decisions(again.core.parts())
    for name, state in without_decisions(whole.core.parts()).items():
        assert resumed[name].equals(state), name


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "hidden = [8, 4]",
            "hidden = [8, 5]",
            r"model\.hidden = \[8, 4\] \(now \[8, 5\]\)\. Set model\.hidden as in the checkpoint",
        ),
        (
            "max_values = 3",
            "max_values = 4",
            r"different fields \(changed: \w+\)\. Set features\.fields as in the checkpoint",
        ),
        ("minimum_count = 2", "minimum_count = 3", r"features\.minimum_count = 2 \(now 3\)"),
        (
            "row_rate = 0.1",
            'row_rule = "adam"',
            r'optimizer\.row_rule = "adagrad" \(now "adam"\)',
        ),
    ],
)
def test_a_different_setup_is_rejected_with_both_values(
    tmp_path: Path, saved: tuple[Path, dict[str, State]], old: str, new: str, message: str
) -> None:
    write_log(tmp_path, 0, 0, 10)
    config = configured(tmp_path, "state")
    config.write_text(config.read_text("utf-8").replace(old, new), "utf-8")
    with pytest.raises(StateError, match=message):
        trained(config, WarmStart(saved[0], "first"))
    assert not CheckpointStore(tmp_path / "state" / "main" / "checkpoints", 1000).versions()


def test_a_trainers_checkpoint_is_accepted(tmp_path: Path, saved: tuple[Path, dict[str, State]]) -> None:
    write_log(tmp_path, 0, HISTORY, HISTORY + 100)
    first, _ = trained(configured(tmp_path, "one"), WarmStart(saved[0], "first"))
    second, _ = trained(configured(tmp_path, "two"), WarmStart(tmp_path / "one" / "main", "last"))
    assert second.core.learner.state().equals(first.core.learner.state())
    assert second.core.pipeline.tables.state().equals(first.core.pipeline.tables.state())
    assert second.core.metrics.events == 0


def test_a_damaged_or_missing_checkpoint_is_rejected(
    tmp_path: Path, saved: tuple[Path, dict[str, State]]
) -> None:
    write_log(tmp_path, 0, 0, 10)
    config = configured(tmp_path, "state")
    with pytest.raises(StateError, match=r"no checkpoint in .*nowhere to start from"):
        trained(config, WarmStart(tmp_path / "nowhere", "first"))
    copy = tmp_path / "copy" / "000000000001"
    copy.mkdir(parents=True)
    for file in (saved[0] / "000000000001").iterdir():
        content = bytearray(file.read_bytes())
        if file.name == "learner.safetensors":
            content[-1] ^= 1
        (copy / file.name).write_bytes(content)
    with pytest.raises(StateError, match=r"learner\.safetensors: damaged"):
        trained(config, WarmStart(tmp_path / "copy", "first"))


def test_folder_and_position_require_each_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["--start-from", str(tmp_path)], ["--start-at", "last"]):
        assert main(["train", *words]) == 2
        assert "--start-from FOLDER and --start-at first or last go together" in capsys.readouterr().err


def test_inspecting_shows_a_batch_runs_checkpoint(
    saved: tuple[Path, dict[str, State]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["checkpoint", "inspect", str(saved[0])]) == 0
    assert "learner.rows.weight" in capsys.readouterr().out
    assert main(["checkpoint", "verify", str(saved[0])]) == 0
