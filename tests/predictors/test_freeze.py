"""Fixed snapshots: opened from any folder, copied atomically, and inspected."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from stream_ctr.cli import main
from stream_ctr.errors import StateError
from stream_ctr.predictors.freeze import copy_snapshot, find_snapshot
from stream_ctr.predictors.predictor import Predictor
from stream_ctr.predictors.reader import load_snapshot, open_fixed
from stream_ctr.predictors.snapshot import ARRAYS, CURRENT, MANIFEST, WRITING, path_of, write_snapshot
from stream_ctr.state.state import State
from tests.predictors.test_snapshot import FailingFiles, damage
from tests.support.snapshots import example_snapshot


def arm_with(folder: Path, snapshots: int = 2) -> Path:
    """An arm's state folder with so many snapshots."""
    for seed in range(snapshots):
        write_snapshot(folder / "snapshots", example_snapshot(seed))
    return folder


def test_a_frozen_copy_survives_the_removal_of_the_original(tmp_path: Path) -> None:
    arm = arm_with(tmp_path / "main")
    expected = load_snapshot(path_of(arm / "snapshots", 2))
    for source, name in ((arm, "a"), (arm / "snapshots", "b"), (path_of(arm / "snapshots", 2), "c")):
        copied = copy_snapshot(source, tmp_path / "frozen" / name)
        assert State(copied.arrays).equals(State(expected.arrays))
    shutil.rmtree(arm)
    frozen = open_fixed(tmp_path / "frozen" / "b")
    assert frozen.manifest == expected.manifest
    predictor = Predictor(frozen)
    assert len(predictor.probabilities(predictor.encode([{"site": "news"}]))) == 1


def test_a_folder_that_is_not_a_fixed_snapshot_is_rejected_with_advice(tmp_path: Path) -> None:
    arm = arm_with(tmp_path / "main")
    empty = tmp_path / "empty"
    empty.mkdir()
    for folder, says in (
        (tmp_path / "gone", "no such folder"),
        (empty, f"it has no {MANIFEST}"),
        (arm, "the trainer replaces it"),
        (arm / "snapshots", "the trainer replaces it"),
    ):
        with pytest.raises(StateError, match=says) as caught:
            open_fixed(folder)
        assert "snapshot copy" in str(caught.value)
        assert str(folder) in str(caught.value)


@pytest.mark.parametrize("kind", ["missing", "empty", "half", "a byte short", "a bit flipped"])
@pytest.mark.parametrize("name", [ARRAYS, MANIFEST])
def test_a_damaged_frozen_snapshot_is_refused_and_not_copied(tmp_path: Path, name: str, kind: str) -> None:
    frozen = tmp_path / "frozen"
    copy_snapshot(arm_with(tmp_path / "main"), frozen)
    damage(frozen / name, kind)
    with pytest.raises(StateError, match=str(frozen)):
        open_fixed(frozen)
    with pytest.raises(StateError, match=str(frozen)):
        copy_snapshot(frozen, tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_a_copy_is_atomic_whichever_operation_fails(tmp_path: Path) -> None:
    arm = arm_with(tmp_path / "main")
    failing = 0
    while True:
        failing += 1
        target = tmp_path / str(failing)
        try:
            copy_snapshot(arm, target, FailingFiles(failing))
        except OSError:
            assert not target.exists() or open_fixed(target)
            if not target.exists():
                copy_snapshot(arm, target)
            continue
        break
    assert failing > 6
    assert not list(tmp_path.glob(f"{WRITING}*"))


def test_nothing_is_overwritten_and_a_missing_current_is_reported(tmp_path: Path) -> None:
    arm = arm_with(tmp_path / "main")
    target = tmp_path / "there"
    target.mkdir()
    with pytest.raises(StateError, match="already exists"):
        copy_snapshot(arm, target)
    (arm / "snapshots" / CURRENT).unlink()
    with pytest.raises(StateError, match=r"CURRENT: missing or damaged; .*000000000002"):
        find_snapshot(arm)
    assert find_snapshot(path_of(arm / "snapshots", 1))[1].version == 1


def test_the_command_copies_inspects_and_verifies(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arm = arm_with(tmp_path / "main")
    target = tmp_path / "frozen"
    assert main(["snapshot", "copy", str(arm), "--to", str(target), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["folder"] == str(target)
    assert main(["snapshot", "inspect", str(target)]) == 0
    shown = capsys.readouterr().out
    assert "version: 2" in shown
    assert "backbone: dnn" in shown
    assert main(["snapshot", "verify", str(arm)]) == 0
    assert capsys.readouterr().out.count("whole") == 2
    damage(path_of(arm / "snapshots", 1) / ARRAYS, "a bit flipped")
    (arm / "snapshots" / CURRENT).unlink()
    assert main(["snapshot", "verify", str(arm), "--json"]) == 1
    rows = json.loads(capsys.readouterr().out)["versions"]
    assert [row["whole"] for row in rows] == [False, True, False]
    assert main(["snapshot", "verify", str(target)]) == 0
    capsys.readouterr()
    for arguments, says in (
        (["inspect", str(tmp_path)], "contains no snapshot"),
        (["inspect", str(tmp_path / "gone")], "no such folder"),
        (["copy", str(target), "--to", str(target)], "already exists"),
    ):
        assert main(["snapshot", *arguments]) in (1, 2)
        assert says in capsys.readouterr().err
