"""``evaluate --protocol batch``: metrics, plot, checkpoint, and one line for every wrong option."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stream_ctr.cli import main
from stream_ctr.offline.presets import BATCH_PRESETS
from stream_ctr.optim.validation import check_optimizer
from tests.support.planted_dataset import Made, write_rows

SMALL = ["--protocol", "batch", "--epochs", "2", "--batch-size", "64"]


@pytest.fixture
def rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Arguments that name a synthetic dataset; the model is small."""
    monkeypatch.setenv("STREAM_CTR_MODEL__HIDDEN", "[8]")
    monkeypatch.setenv("STREAM_CTR_MODEL__EMBEDDING", "4")
    monkeypatch.setenv("STREAM_CTR_LEARNER__DEVICE", "cpu")
    return write_rows(tmp_path, Made(rows=500))


def test_json_table_picture_and_checkpoint(
    tmp_path: Path, rows: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["evaluate", *rows, *SMALL, "--work", str(tmp_path / "work"), "--split", "time"]
    words += ["--optimizer", "adam", "--optimizer", "helen", "--set", "rho=0.01", "--minimum-count", "3"]
    more = ["--checkpoint", str(tmp_path / "saved" / "one"), "--plot", str(tmp_path / "curve.png"), "--json"]
    assert main([*words, *more]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["rows"] == {"training": 400, "validation": 50, "test": 50}
    assert found["minimum_count"] == 3
    assert found["protocol"]["split"] == "time"
    helen = found["against"][0]
    assert [found["learner"], helen["learner"]] == ["dnn+sml-adam", "dnn+sml-helen"]
    assert found["test"]["events"] == 50
    assert 0.0 < found["test"]["auc"] < 1.0
    assert found["best_epoch"] in (1, 2)
    assert [point["epoch"] for point in helen["curve"]] == [1, 2]
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert main(["checkpoint", "verify", str(tmp_path / "saved" / "one")]) == 0
    capsys.readouterr()
    assert main(words) == 0  # from the columns that lie there
    shown = capsys.readouterr().out
    assert format(found["test"]["auc"], ".5f") in shown
    assert format(helen["validation"]["log_loss"], ".5f") in shown


def test_every_preset_is_valid() -> None:
    for optimizer in BATCH_PRESETS.values():
        check_optimizer(optimizer)


CASES = [
    (
        "--protocol batch --optimizer helen-x",
        "no optimizer named 'helen-x' in the batch protocol; did you mean",
    ),
    ("--protocol batch --set rhoo=1", "--set rhoo=1: unknown optimizer setting 'rhoo'; did you mean 'rho'"),
    ("--protocol batch --set rho=many", "--set rho=many: 'many' is not a number"),
    ("--protocol batch --set rho=-1", "optimizer.rho must be a finite number of at least 0, got -1.0"),
    ("--protocol batch --set rho", "is not KEY=VALUE"),
    ("--protocol batch --batch-size 0", "--batch-size 0: must be at least 1"),
    ("--protocol batch --dropout 1", "--dropout 1: must be at least 0 and below 1"),
    ("--protocol batch --shares 8:1", "TRAINING:VALIDATION:TEST"),
    ("--protocol batch --epochs 0", "--epochs 0: must be from 1"),
    ("--protocol batch --minimum-count 0", "--minimum-count 0: must be from 1 to 65535"),
    ("--protocol batch --tail-from 3", "--tail-from requires --protocol progressive"),
    ("--protocol batch --against river-ftrl", "--against requires --protocol progressive"),
    ("--epochs 3", "--epochs requires --protocol batch"),
    ("--dense-rows", "--dense-rows requires --protocol batch"),
    ("--checkpoint x", "--checkpoint requires --protocol batch"),
]


@pytest.mark.parametrize(("words", "message"), CASES)
def test_a_wrong_option_gives_one_line(
    rows: list[str], capsys: pytest.CaptureFixture[str], words: str, message: str
) -> None:
    assert main(["evaluate", *rows, *words.split()]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("stream-ctr evaluate: ")
    assert message in error


def test_too_few_rows_are_an_error(rows: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", *rows, *SMALL, "--limit", "3", "--split", "time"]) == 1
    assert "3 rows are too few to split 8:1:1" in capsys.readouterr().err
