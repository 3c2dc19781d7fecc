"""The benchmark of label policies: its stream and its results."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from stream_ctr.bench.labels.join import measure_joiner
from stream_ctr.bench.labels.measure import (
    CLICK_RATE,
    WINDOW_SECONDS,
    PolicyRun,
    Stream,
    half_way,
    run_cases,
    world,
)
from stream_ctr.bench.labels.report import as_json, plot_policies, print_tables
from stream_ctr.errors import StreamCTRError
from stream_ctr.events.records import Click, Impression


def test_stream_is_in_order_and_half_of_its_clicks_are_late() -> None:
    stream = Stream(world(4000), 4000)
    entries = list(stream.entries())
    assert [entry.number for entry in entries] == list(range(len(entries)))
    assert entries[-1].entry is None
    records = [entry.record for entry in entries[:-1]]
    times = [(r.ts_ms, isinstance(r, Click)) for r in records if r is not None]
    assert all(a <= b for a, b in pairwise(times))
    shown = {r.event_id: r for r in records if isinstance(r, Impression)}
    clicks = [r for r in records if isinstance(r, Click)]
    assert len(shown) == 4000
    assert abs(len(clicks) / 4000 - CLICK_RATE) < 0.03
    ages = np.array([r.ts_ms - shown[r.event_id].ts_ms for r in clicks])
    assert ages.max() <= 1000 * WINDOW_SECONDS
    assert stream.late == int((ages > 250 * WINDOW_SECONDS).sum())
    assert stream.late > 0.5 * len(clicks)


def test_half_way_is_where_the_rise_has_halved() -> None:
    over = np.concatenate([np.full(600, 0.1), np.linspace(0.5, 0.1, 400)])
    found = half_way(over, 600, 0.1)
    assert found is not None
    assert abs(found - 200) <= 10
    assert half_way(np.concatenate([np.full(600, 0.1), np.full(400, 0.5)]), 600, 0.1) is None


@pytest.fixture(scope="module")
def runs() -> list[PolicyRun]:
    return list(run_cases((("wait", 1.0), ("naive", 1.0)), 1500).values())


def test_policies_are_scored_on_the_same_truth_and_labels(runs: list[PolicyRun]) -> None:
    wait, naive = runs
    assert wait.bayes_log_loss == naive.bayes_log_loss
    assert wait.mean_truth == naive.mean_truth
    assert wait.calibration > naive.calibration > 0.0
    assert wait.log_loss == pytest.approx(wait.bayes_log_loss + wait.steady_excess, rel=1e-6)


def test_the_report_has_one_row_per_policy_and_a_plot(
    runs: list[PolicyRun], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    joins = measure_joiner(2000)
    table = json.loads(json.dumps(as_json(runs, joins, 1500)))
    assert {"policy", "calibration", "log_loss", "bayes_log_loss"} <= table["rows"][0].keys()
    assert [row["memory"] for row in table["join"]] == ["memory", "segments"]
    assert table["join"][1]["segment_bytes_per_open"] > 100
    print_tables(runs, joins, 1500)
    assert "naive" in capsys.readouterr().out
    plot_policies(runs, 1500, tmp_path / "policies.png")
    assert (tmp_path / "policies.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(StreamCTRError, match="cannot write the plot"):
        plot_policies(runs, 1500, tmp_path / "none" / "policies.png")
