"""The papers' grid: resumable, never another setting's cell; its statistics against direct transcriptions."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stream_ctr.bench.papers.grid import Cell, GridProgress, Plan, cell_path, load_cell, run_grid
from stream_ctr.bench.papers.published import ABLATION, COMPONENTS, SML_GAIN
from stream_ctr.bench.papers.statistics import paired_test, spread, variance_across
from stream_ctr.bench.papers.tables import (
    ablation_table,
    cell_aucs,
    component_table,
    gain_table,
    gain_test,
    optimizer_table,
)
from stream_ctr.cli import main
from stream_ctr.config.learner import LearnerConfig
from stream_ctr.config.model import ModelConfig
from stream_ctr.errors import ModelError
from stream_ctr.offline.protocol import BatchProtocol
from tests.support.faulty_files import FailingFiles
from tests.support.planted_dataset import Made, prepared, write_rows

CELLS = [Cell("dnn", skip, optimizer, 1) for skip in ("", "meta_tanh") for optimizer in ("adam", "sam")]


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    protocol = BatchProtocol(epochs=1, batch_size=128)
    return Plan(
        prepared(tmp_path_factory.mktemp("columns"), protocol, Made(rows=400)),
        protocol,
        ModelConfig(embedding=2, hidden=(4,)),
        LearnerConfig(device="cpu"),
        {},
        dense_rows=False,
    )


def slow_t(differences: list[float]) -> float:
    """Mean over its standard error."""
    n, mean = len(differences), sum(differences) / len(differences)
    variance = sum((d - mean) ** 2 for d in differences) / (n - 1)
    return mean / math.sqrt(variance / n)


def slow_p(t: float, freedom: int) -> float:
    """Two tails of Student's t by the trapezoid rule over its density, x = tan(u)."""
    scale = math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)) / math.sqrt(freedom * math.pi)
    steps = 200_000
    low, high = math.atan(abs(t)), math.pi / 2
    total = 0.0
    for step in range(steps + 1):
        u = low + (high - low) * step / steps
        if u >= math.pi / 2 - 1e-12:
            continue
        density = scale * (1 + math.tan(u) ** 2 / freedom) ** (-(freedom + 1) / 2) / math.cos(u) ** 2
        total += density * (0.5 if step in (0, steps) else 1.0)
    return 2.0 * total * (high - low) / steps


def test_the_paired_t_test_is_students() -> None:
    first = {"a": 0.70, "b": 0.72, "c": 0.69, "d": 0.75, "only": 0.1}
    second = {"a": 0.71, "b": 0.72, "c": 0.715, "d": 0.753, "other": 0.9}
    found = paired_test(first, second)
    assert found is not None
    differences = [second[key] - first[key] for key in "abcd"]
    assert found.pairs == 4
    assert found.better == 3
    assert found.difference == pytest.approx(sum(differences) / 4)
    assert found.t == pytest.approx(slow_t(differences), rel=1e-9)
    assert found.p == pytest.approx(slow_p(found.t, 3), rel=1e-4)


def test_a_paired_test_with_too_few_pairs_has_no_p_value() -> None:
    assert paired_test({"a": 0.5}, {"b": 0.6}) is None
    one = paired_test({"a": 0.5}, {"a": 0.6})
    assert one is not None
    assert math.isnan(one.p)
    equal = paired_test({"a": 0.5, "b": 0.25}, {"a": 0.75, "b": 0.5})
    assert equal is not None
    assert math.isnan(equal.t)


def test_spread_and_variance_across_models() -> None:
    values = {"dnn": [0.70, 0.72, 0.74], "dcn": [0.75], "dlrm": [0.69, 0.71]}
    means = [0.72, 0.75, 0.70]
    mean = sum(means) / 3
    assert variance_across(values) == pytest.approx(sum((m - mean) ** 2 for m in means) / 2)
    assert math.isnan(variance_across({"dnn": [0.7, 0.8]}))
    found = spread([0.70, 0.72, 0.74])
    assert [found.mean, found.deviation] == pytest.approx([0.72, 0.02])
    assert found.count == 3


def test_a_killed_grid_resumes_with_the_missing_cells(plan: Plan, tmp_path: Path) -> None:
    def kill(at: GridProgress) -> None:
        if at.done == 2 and at.fit.rows > 128:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_grid(plan, CELLS, tmp_path / "out", progress=kill)
    finished = [json.loads(path.read_bytes()) for path in (tmp_path / "out").glob("*.json")]
    assert len(finished) == 2
    ran: list[Cell] = []
    progress: list[GridProgress] = []
    resumed = run_grid(plan, CELLS, tmp_path / "out", progress=progress.append)
    ran = list(dict.fromkeys(at.cell for at in progress))
    assert ran == CELLS[2:]
    assert progress[0].done == 2
    assert progress[0].of == 4
    mean_seconds = sum(each["result"]["seconds"] for each in finished) / 2
    assert progress[0].seconds_left == pytest.approx(2 * mean_seconds)
    whole = run_grid(plan, CELLS, tmp_path / "whole")
    assert list(resumed) == list(whole) == CELLS
    for cell, result in whole.items():
        assert resumed[cell]["test"] == result["test"]
        assert resumed[cell]["validation"] == result["validation"]


def test_cells_are_written_atomically(plan: Plan, tmp_path: Path) -> None:
    cell = CELLS[0]
    for fail_at in range(1, 5):
        out = tmp_path / str(fail_at)
        with pytest.raises(OSError, match="injected"):
            run_grid(plan, [cell], out, files=FailingFiles(fail_at))
        whole = fail_at == 4  # the name was there before its folder was synced
        assert (load_cell(out, cell, plan.setting(cell)) is not None) == whole
        assert run_grid(plan, [cell], out)[cell]["updates"] > 0


def test_a_cell_of_another_setting_is_never_reused(plan: Plan, tmp_path: Path) -> None:
    cell = CELLS[0]
    run_grid(plan, [cell], tmp_path)
    others = {
        "optimizer": replace(plan, settings={"row_rate": "0.01"}),
        "protocol": replace(plan, protocol=replace(plan.protocol, epochs=2)),
        "model": replace(plan, model=replace(plan.model, hidden=(5,))),
        "rows": replace(plan, dense_rows=True),
    }
    saved = cell_path(tmp_path, cell, plan.setting(cell))
    for name, other in others.items():
        assert load_cell(tmp_path, cell, other.setting(cell)) is None, name
        # not under the name of the other cell either
        cell_path(tmp_path, cell, other.setting(cell)).write_bytes(saved.read_bytes())
        assert load_cell(tmp_path, cell, other.setting(cell)) is None, name
    second = replace(cell, seed=2)
    assert load_cell(tmp_path, second, plan.setting(second)) is None
    assert load_cell(tmp_path, cell, plan.setting(cell)) is not None


def test_other_data_is_another_setting(plan: Plan, tmp_path: Path) -> None:
    other = prepared(tmp_path, plan.protocol, Made(rows=400, seed=1))
    assert replace(plan, prepared=other).setting(CELLS[0])["data"] != plan.setting(CELLS[0])["data"]


def test_a_damaged_cell_is_run_again(plan: Plan, tmp_path: Path) -> None:
    cell = CELLS[0]
    first = run_grid(plan, [cell], tmp_path)[cell]
    path = cell_path(tmp_path, cell, plan.setting(cell))
    for content in (b"", b"{}", b"[]", path.read_bytes()[:-20]):
        path.write_bytes(content)
        assert run_grid(plan, [cell], tmp_path)[cell]["test"] == first["test"]


def test_a_cell_that_diverges_is_a_result(plan: Plan, tmp_path: Path) -> None:
    wild = replace(
        plan, settings={"row_rule": "sgd", "dense_rule": "sgd", "row_rate": "1e30", "dense_rate": "1e30"}
    )
    found = run_grid(wild, CELLS[:1], tmp_path)[CELLS[0]]
    assert "not finite" in found["failed"]
    assert run_grid(wild, CELLS[:1], tmp_path)[CELLS[0]] == found
    assert cell_aucs({CELLS[0]: found}) == {}


def test_an_invalid_cell_is_rejected_before_any_cell_runs(plan: Plan) -> None:
    with pytest.raises(ModelError, match=r"model\.sml = true needs hidden layers"):
        replace(plan, model=replace(plan.model, hidden=())).check(CELLS)


def made_results(aucs: dict[Cell, float]) -> dict[Cell, dict[str, Any]]:
    return {cell: {"test": {"auc": auc}, "seconds": 1.0} for cell, auc in aucs.items()}


def test_tables_hold_the_cells_and_the_published_results() -> None:
    aucs = {
        Cell("dnn", "", "adam", 1): 0.70,
        Cell("dnn", "", "adam", 2): 0.72,
        Cell("dnn", "meta_tanh", "adam", 1): 0.73,
        Cell("dnn", "meta_tanh", "adam", 2): 0.74,
        Cell("dnn", "vanilla", "adam", 1): 0.71,
        Cell("dnn", "", "helen", 1): 0.74,
        Cell("deepfm", "", "adam", 1): 0.75,
        Cell("deepfm", "", "helen", 1): 0.76,
    }
    found = cell_aucs(made_results(aucs))
    assert found == aucs
    adam, helen = optimizer_table(found, "criteo", "")
    assert adam["auc"]["dnn"]["mean"] == pytest.approx(0.71)
    assert adam["variance"] == pytest.approx((0.75 - 0.71) ** 2 / 2)
    assert adam["over_adam"] is None
    assert helen["over_adam"]["pairs"] == 2
    assert helen["over_adam"]["difference"] == pytest.approx((0.04 + 0.01) / 2)
    assert helen["papers_over_adam"] == 0.0007
    assert optimizer_table(found, "criteo", "meta_tanh")[0]["auc"]["dnn"]["count"] == 2
    (gain,) = gain_table(found, "adam")
    assert gain["model"] == "dnn"
    assert gain["difference"]["difference"] == pytest.approx((0.03 + 0.02) / 2)
    assert gain["papers_criteo"] == SML_GAIN["dnn"]
    overall = gain_test(found)
    assert overall is not None
    assert overall["pairs"] == 2
    forms = {row["form"]: row for row in ablation_table(found)}
    assert list(forms) == ["without", "vanilla", "meta_tanh"]
    assert forms["vanilla"]["difference"]["difference"] == pytest.approx(0.01)
    assert forms["meta_tanh"]["papers_avazu"] == ABLATION["meta_tanh"][1]
    components = {row["optimizer"]: row for row in component_table(found)}
    assert components["helen"]["papers_criteo"] == COMPONENTS["helen"]
    assert components["helen"]["over_adam"]["difference"] == pytest.approx(0.01)


def test_the_command_prints_tables_and_json_and_draws_a_plot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for key, value in {"MODEL__HIDDEN": "[4]", "MODEL__EMBEDDING": "2", "LEARNER__DEVICE": "cpu"}.items():
        monkeypatch.setenv(f"STREAM_CTR_{key}", value)
    words = ["bench", "papers", *write_rows(tmp_path, Made(rows=300)), "--out", str(tmp_path / "out")]
    words += ["--models", "dnn,deepfm", "--optimizers", "adam,helen", "--seeds", "2", "--epochs", "1"]
    words += ["--batch-size", "128", "--components", "--ablation"]
    assert main([*words, "--json", "--plot", str(tmp_path / "grid.png")]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found["cells"]) == 2 * (2 * 2 * 2 + len(ABLATION) - 2 + len(COMPONENTS) - 2)
    assert [row["form"] for row in found["ablation"]] == list(ABLATION)
    assert [row["optimizer"] for row in found["components"]] == list(COMPONENTS)
    assert (tmp_path / "grid.png").read_bytes().startswith(b"\x89PNG")
    assert main(words) == 0  # every cell is there already
    shown = capsys.readouterr().out
    assert "0.80948 -> 0.81042" in shown
    assert format(found["sml"][0]["with"]["mean"], ".5f") in shown


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--models dnn,dnnn", "--models dnn,dnnn: unknown name 'dnnn'; choose from dnn, wide_deep"),
        ("--optimizers adam,", "--optimizers adam,: unknown name ''"),
        ("--seeds 0", "--seeds 0: must be from 1 to 1000"),
        ("--limit 0", "--limit 0: must be from 1 to"),
        ("--minimum-count -2", "--minimum-count -2: must be from 1 to 65535"),
    ],
)
def test_invalid_arguments_are_rejected_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: str, message: str
) -> None:
    data = write_rows(tmp_path, Made(rows=20))
    assert main(["bench", "papers", *data, "--out", str(tmp_path / "out"), *words.split()]) == 2
    assert message in capsys.readouterr().err.strip().splitlines()[-1]
