"""The bench of the experiment's statistics: small runs of everything it reports."""

from __future__ import annotations

import json
from collections import deque

import numpy as np
import pytest

from stream_ctr.bench.experiment.measure import Share, judge
from stream_ctr.cli import main
from stream_ctr.errors import UsageError
from stream_ctr.experiments.statistics.simulation import CONTROL, TREATMENT, Scenario, drift_at, simulate


def last(scenario: Scenario, seed: int = 0) -> tuple[float, float, int]:
    """Click rates of control and treatment, and impressions, at the last look."""
    (look,) = deque(simulate(scenario, seed), maxlen=1)
    return look.click_rate(CONTROL).value, look.click_rate(TREATMENT).value, int(look.impressions.sum())


def test_a_simulated_experiment_has_its_ground_truth() -> None:
    control, treatment, shown = last(Scenario(2_000_000, 0.05, uplift=0.2, looks=2))
    assert shown == 2_000_000
    assert control == pytest.approx(0.05, rel=0.03)
    assert treatment / control == pytest.approx(1.2, rel=0.03)
    drifted, _, _ = last(Scenario(2_000_000, 0.05, drift=True, looks=2))
    assert drifted == pytest.approx(0.05 * drift_at(np.linspace(0, 1, 10_001)).mean(), rel=0.03)


def test_runs_repeat_by_seed() -> None:
    scenario = Scenario(20_000, looks=3)
    assert last(scenario, 4) == last(scenario, 4) != last(scenario, 5)


def test_a_large_uplift_is_detected_early_and_no_uplift_is_not() -> None:
    found = judge(Scenario(200_000, 0.05, uplift=0.5, looks=50), 0.05, seed=1)
    assert found.ever
    assert found.final
    assert found.stopped < 0.5
    assert 1.3 < found.width < 1.8
    silent = judge(Scenario(200_000, 0.05, looks=50), 0.05, seed=1)
    assert not silent.ever
    assert silent.covered
    assert silent.stopped == 1.0


def test_shares_come_with_exact_binomial_bounds() -> None:
    share = Share(3, 100).as_json()
    assert (share["share"], share["runs"]) == (0.03, 100)
    assert share["low"] == pytest.approx(0.0062, abs=1e-4)
    assert share["high"] == pytest.approx(0.0852, abs=1e-4)


def test_the_command_reports_every_figure(capsys: pytest.CaptureFixture[str]) -> None:
    small = ["--runs", "2", "--power-runs", "2", "--looks", "5", "--impressions", "20000", "40000"]
    assert main(["bench", "experiment", *small, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["runs"] == 2
    assert set(found["power"]) == {"20000", "40000"}
    assert 0.0 <= found["false_positive_rate"] <= 1.0
    assert found["coverage"] == 1.0 - found["false_positive_rate"]
    assert main(["bench", "experiment", *small]) == 0
    assert "naive peeking" in capsys.readouterr().out


@pytest.mark.parametrize(
    "wrong", [["--runs", "0"], ["--looks", "0"], ["--alpha", "1"], ["--click-rate", "0.5"]]
)
def test_invalid_settings_are_rejected(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "experiment", "--impressions", "1000", *wrong]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_more_looks_than_impressions_are_rejected() -> None:
    with pytest.raises(UsageError, match="looks must be from 1 to the impressions, 20, got 30"):
        Scenario(20, looks=30)
