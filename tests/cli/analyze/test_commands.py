"""Every analysis end to end on small files, and every wrong input as one clear line."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from stream_ctr.cli import main
from tests.support.analysis_networks import write_criteo

SMALL = '[model]\nbackbone = "dnn"\nembedding = 2\nhidden = [4]\nsml = false\n'
TORCH = '[learner]\nkind = "torch"\n'
"""Where a stream is learned: nothing has to be compiled."""
HESSIAN = "hessian criteo rows.tsv --config small.toml --events 128 --slice 100 --batch 32 --device cpu"
DEPTH = "depth criteo rows.tsv --config small.toml --events 64 --slice 40 --batch 16 --width 3 --device cpu"


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_criteo(Path("rows.tsv"), 240)
    Path("small.toml").write_text(SMALL + TORCH)
    Path("river.toml").write_text('[learner]\nkind = "river"\n')


def run(capsys: pytest.CaptureFixture[str], words: str) -> str:
    assert main(["analyze", *words.split()]) == 0
    return capsys.readouterr().out


def run_json(capsys: pytest.CaptureFixture[str], words: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run(capsys, f"{words} --json"))
    return found


def assert_png(name: str) -> None:
    data = Path(name).read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    assert min(struct.unpack(">II", data[16:24])) > 300


def test_hessian(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib", reason="the extra 'plots' is not installed")
    found = run_json(capsys, f"{HESSIAN} --field C1 --field C2 --seeds 2 --plot h.png")
    assert_png("h.png")
    reported = {(row["field"], row["optimizer"], row["seed"]) for row in found["rows"]}
    assert reported == {(f, o, s) for f in ("C1", "C2") for o in ("adam", "sam", "helen") for s in (1, 2)}
    for row in found["rows"]:
        assert row["features"] >= 3
        assert -1.0 <= row["r_eigenvalue"]["r"] <= 1.0
        assert row["eigenvalue"]["largest"] >= row["eigenvalue"]["mean"]
    own = next(part["features"] for part in found["features"] if part["field"] == "C1")
    assert sum(feature["events"] for feature in own) <= 100
    assert {feature["value"] for feature in own} <= {f"{value:08x}" for value in range(1, 10)}
    means = {row["eigenvalue"]["mean"] for row in found["rows"] if row["field"] == "C1"}
    assert len(means) == 6, "every optimizer and seed has weights of its own"


def test_hessian_as_a_table_of_the_default_field(capsys: pytest.CaptureFixture[str]) -> None:
    printed = run(capsys, f"{HESSIAN} --optimizer adam --batch 1 --backbone deepfm --minimum-count 5")
    assert "field C" in printed
    for word in ("r(lambda, N)", "r(lambda n / N, N)", "mean lambda", "Table 1", "log loss"):
        assert word in printed


def test_depth(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib", reason="the extra 'plots' is not installed")
    found = run_json(capsys, f"{DEPTH} --depths 3,1 --steps 5 --plot d.png")
    assert_png("d.png")
    assert [(row["depth"], row["sml"]) for row in found["rows"]] == [
        (1, False),
        (1, True),
        (3, False),
        (3, True),
    ]
    for row in found["rows"]:
        assert len(row["layers"]) == row["depth"]
        assert row["dead"] == pytest.approx(
            sum(layer["dead"] for layer in row["layers"]) / row["depth"], abs=1e-5
        )
    assert (found["steps"], found["events"]) == (5, 64)
    printed = run(capsys, f"{DEPTH} --depths 1 --steps 1")
    assert "cosine, last layer" in printed


def test_a_tower_without_signal_has_collapsed(capsys: pytest.CaptureFixture[str]) -> None:
    words = f"{DEPTH} --depths 60 --steps 2 --initial torch"
    plain, sml = run_json(capsys, words)["rows"]
    assert plain["collapsed"]
    assert plain["logit_variance"] < 1e-20 < sml["logit_variance"]


def test_variance(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib", reason="the extra 'plots' is not installed")
    words = "variance --depths 1,2 --width 8 --seeds 4 --samples 2"
    found = run_json(capsys, f"{words} --plot v.png")
    assert_png("v.png")
    assert [row["form"] for row in found["rows"]] == ["plain"] * 2 + ["vanilla"] * 2 + ["meta_tanh"] * 2
    assert found["growth_exponent"].keys() == {"plain", "vanilla", "meta_tanh"}
    assert "bound" in run(capsys, words)


def test_trajectory(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib", reason="the extra 'plots' is not installed")
    words = "trajectory criteo rows.tsv --config small.toml --events 100 --places 7 --device cpu"
    found = run_json(capsys, f"{words} --optimizer adam --optimizer sgd --plot t.png")
    assert_png("t.png")
    for row in found["rows"]:
        assert row["at_events"] == [0, 15, 30, 45, 60, 75, 90, 100]
        assert row["place"][0] == [0.0, 0.0]
        assert row["length"] >= row["distance"] > 0.0
    evaluated = json.loads(
        run_evaluate(capsys, "criteo rows.tsv --config small.toml --optimizer adam --limit 100 --json")
    )
    assert found["rows"][0]["log_loss"] == pytest.approx(evaluated["log_loss"], abs=1e-5)
    assert "common plane" in run(capsys, f"{words} --optimizer sgd")


def run_evaluate(capsys: pytest.CaptureFixture[str], words: str) -> str:
    assert main(["evaluate", *words.split()]) == 0
    return capsys.readouterr().out


WRONG = [
    ("hessian criteo none.tsv", 2, "no such file or folder: none.tsv"),
    ("hessian criteo", 2, "criteo requires the path"),
    ("hessian nothing rows.tsv", 2, "no dataset named 'nothing'"),
    (f"{HESSIAN} --field C99", 2, "--field C99: unknown field; the fields are"),
    (f"{HESSIAN} --field C1 --minimum-count 90", 2, "a correlation needs 3"),
    (f"{HESSIAN} --optimizer adan", 2, "no optimizer named 'adan' in the batch protocol"),
    (f"{HESSIAN} --backbone resnet", 2, "model.backbone = 'resnet' is unknown"),
    (f"{HESSIAN} --rho -1", 2, "--rho must be a number above 0, got -1.0"),
    (f"{HESSIAN} --rate nan", 2, "--rate must be a number above 0, got nan"),
    (f"{HESSIAN} --batch 0", 2, "--batch must be from 1 to 2^53, got 0"),
    (f"{HESSIAN} --plot none/h.png", 2, "the folder none does not exist"),
    (f"{HESSIAN} --events 500", 1, "contains 240 rows, fewer than --events 500"),
    (f"{DEPTH} --depths 1,x", 2, "--depths 1,x: 'x' is not a whole number from 1 to 1,000"),
    (f"{DEPTH} --depths 0", 2, "--depths 0: '0' is not a whole number"),
    (f"{DEPTH} --width 0", 2, "--width must be from 1 to 2^53, got 0"),
    (f"{DEPTH} --steps 0", 2, "--steps must be from 1 to 2^53, got 0"),
    ("variance --seeds 1", 2, "--seeds must be from 2 to 2^53, got 1"),
    ("variance --depths 2000", 2, "is not a whole number from 1 to 1,000"),
    ("trajectory criteo rows.tsv --events 10 --optimizer helem", 2, "did you mean 'helen"),
    ("trajectory criteo rows.tsv --events 10 --config river.toml", 2, "choose auto, compiled or torch"),
    ("trajectory criteo rows.tsv --events 10 --places 1", 2, "--places must be from 2 to 2^53, got 1"),
    ("trajectory criteo rows.tsv --events 500", 1, "contains 240 rows, fewer than --events 500 require"),
]


@pytest.mark.parametrize(("words", "status", "text"), WRONG, ids=[case[0][:60] for case in WRONG])
def test_wrong_input_is_one_clear_line(
    capsys: pytest.CaptureFixture[str], words: str, status: int, text: str
) -> None:
    assert main(["analyze", *words.split()]) == status
    printed = capsys.readouterr()
    assert printed.out == ""
    last = printed.err.strip().splitlines()[-1]
    assert last.startswith("stream-ctr analyze: ")
    assert text in last
