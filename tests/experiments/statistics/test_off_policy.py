"""Off-policy values: against slow transcriptions, a known ground truth, and a policy's own log."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path

import numpy as np
import pytest

from stream_ctr.cli import main
from stream_ctr.datasets.open_bandit import OpenBandit
from stream_ctr.errors import DataError
from stream_ctr.experiments.statistics.confidence_sequence import fixed_interval
from stream_ctr.experiments.statistics.off_policy import Logged, evaluate
from stream_ctr.experiments.statistics.reward_model import CHUNK, against_uniform
from tests.support.dataset_files import open_bandit_folder

CLICK = np.array([0.05, 0.10, 0.20, 0.40])
LOGGED = np.array([0.1, 0.2, 0.3, 0.4])
UNIFORM = np.full(4, 0.25)


def planted(seed: int, rows: int = 2_000, model: np.ndarray = CLICK, click: np.ndarray = CLICK) -> Logged:
    """A log of four items under a policy that prefers the good ones; users come back."""
    draws = np.random.default_rng(seed)
    action = draws.choice(4, rows, p=LOGGED)
    reward = (draws.random(rows) < click[action]).astype(np.float64)
    return Logged(
        reward,
        LOGGED[action],
        UNIFORM[action],
        model[action],
        np.full(rows, float(UNIFORM @ model)),
        draws.integers(0, rows // 4, rows),
    )


def test_values_match_their_definitions() -> None:
    log = planted(1, 50)
    found = evaluate(log)
    weights = [log.target[i] / log.propensity[i] for i in range(50)]
    earned = sum(weights[i] * log.reward[i] for i in range(50))
    errors = [weights[i] * (log.reward[i] - log.predicted[i]) for i in range(50)]
    assert found.ips.value == pytest.approx(earned / 50)
    assert found.snips.value == pytest.approx(earned / sum(weights))
    assert found.dr.value == pytest.approx(sum(log.expected[i] + errors[i] for i in range(50)) / 50)
    assert found.mean_weight.value == pytest.approx(sum(weights) / 50)
    assert found.effective_rows == pytest.approx(sum(weights) ** 2 / sum(w * w for w in weights))
    assert found.largest_weight == max(weights)


@pytest.mark.parametrize("model", [CLICK, np.full(4, 0.9)], ids=["good model", "bad model"])
def test_intervals_have_the_stated_coverage(model: np.ndarray) -> None:
    truth, runs = float(UNIFORM @ CLICK), 300
    inside = dict.fromkeys(("ips", "snips", "dr"), 0)
    for seed in range(runs):
        found = evaluate(planted(seed, model=model))
        for name in inside:
            span = fixed_interval(getattr(found, name), 0.05)
            inside[name] += span.low <= truth <= span.high
    for count in inside.values():
        assert 0.91 <= count / runs <= 0.99


def test_a_good_model_narrows_the_interval() -> None:
    clear = np.array([0.02, 0.98, 0.98, 0.98])
    found = evaluate(planted(5, model=clear, click=clear))
    assert found.dr.variance < 0.5 * found.ips.variance


def test_wrong_propensities_change_the_mean_weight() -> None:
    log = planted(2)
    wrong = Logged(log.reward, log.propensity / 2, log.target, log.predicted, log.expected, log.cluster)
    span = fixed_interval(evaluate(wrong).mean_weight, 0.01)
    assert not span.low <= 1.0 <= span.high


@pytest.mark.parametrize("bad", [0.0, -0.1, 1.5, float("nan")])
def test_a_row_without_a_propensity_is_rejected(bad: float) -> None:
    log = planted(3, 20)
    propensity = log.propensity.copy()
    propensity[6] = bad
    with pytest.raises(DataError, match="row 7: propensity"):
        Logged(log.reward, propensity, log.target, log.predicted, log.expected, log.cluster)


def row(number: int, click: bool = False) -> str:
    shown = f"{number % 2},1,{int(click)},0.5"
    return f"2019-11-24 00:00:{number % 60:02d}+00:00,{shown},u{number % 7},ub,uc,ud,7.0,2.0"


def test_a_row_is_scored_before_it_is_learned(tmp_path: Path) -> None:
    rows = [row(number, number % 3 == 0) for number in range(3 * CHUNK)]
    changed = [*rows[:-CHUNK], *(row(number, True) for number in range(2 * CHUNK, 3 * CHUNK))]
    logs = [
        against_uniform(OpenBandit().rounds(open_bandit_folder(tmp_path / name, lines)), lambda rows: None)
        for name, lines in (("a", rows), ("b", changed))
    ]
    for column in ("predicted", "expected"):
        np.testing.assert_array_equal(getattr(logs[0], column), getattr(logs[1], column))
    assert np.ptp(logs[0].predicted) > 0.0
    np.testing.assert_array_equal(logs[0].target, 0.5)


def test_the_shown_action_is_one_of_the_candidates(tmp_path: Path) -> None:
    for each in OpenBandit().rounds(open_bandit_folder(tmp_path, [row(n) for n in range(4)])):
        assert each.shown.features in list(each.candidates())


def test_the_command_reports_and_checks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(open_bandit_folder(tmp_path, [row(n, n % 4 == 0) for n in range(200)]))
    assert main(["experiment", "off-policy", folder, "--check", folder, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["rows"] == 200
    assert found["usable"]
    assert found["ips"]["value"] == found["check"]["value"] == 0.25
    assert main(["experiment", "off-policy", folder]) == 0
    assert "SNIPS" in capsys.readouterr().out


def campaign(root: Path, rows: list[str], items: list[tuple[str, float]]) -> str:
    """A campaign of these items, with the rows of :func:`open_bandit_folder`."""
    folder = open_bandit_folder(root, rows)
    lines = "".join(f"{number},{item},{price},fa,fb,fc\n" for number, (item, price) in enumerate(items))
    header = ",item_id,item_feature_0,item_feature_1,item_feature_2,item_feature_3\n"
    (folder / "item_context.csv.gz").write_bytes(gzip.compress((header + lines).encode()))
    return str(folder)


TWO = [("0", -0.5), ("1", 0.25)]


@pytest.mark.parametrize(
    ("propensity", "items", "text"),
    [
        ("0.6", TWO, "row 1: propensity_score 0.6 is not 1/2 = 0.5, that of the uniform policy"),
        ("0.5", [*TWO, ("2", 1.0)], "has 3 items, .* has 2; not in both: 2; a mean over other items"),
        ("0.5", [("0", -0.5), ("1", 0.75)], r"item 1 has item_feature_0 0\.75, in .* it has 0\.25"),
    ],
    ids=["another policy", "other items", "another item of the same id"],
)
def test_a_check_against_another_policy_or_other_items_is_rejected(
    tmp_path: Path,
    propensity: str,
    items: list[tuple[str, float]],
    text: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = [row(number) for number in range(20)]
    logged = campaign(tmp_path / "logged", rows, TWO)
    other = campaign(tmp_path / "other", [each.replace(",0.5,", f",{propensity},") for each in rows], items)
    assert main(["experiment", "off-policy", logged, "--check", other]) == 2
    refused = capsys.readouterr().err.splitlines()[-1]
    assert re.search(rf"--check .*other/random/men.*{text}", refused), refused


def test_late_rows_of_the_check_are_validated_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [row(number) for number in range(20)]
    logged = str(open_bandit_folder(tmp_path / "logged", rows))
    other = str(open_bandit_folder(tmp_path / "other", [*rows, row(20).replace(",0.5,", ",0.4,")]))
    assert main(["experiment", "off-policy", logged, "--check", other]) == 2
    assert "row 21: propensity_score 0.4" in capsys.readouterr().err


def test_with_few_effective_rows_there_is_no_weighted_estimate(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [row(number, number % 4 == 0) for number in range(300)]
    rows[7] = rows[7].replace(",0.5,", ",0.001,")  # a weight of 500 among weights of 1
    logged = str(open_bandit_folder(tmp_path / "logged", rows))
    check = str(open_bandit_folder(tmp_path / "check", [row(number) for number in range(20)]))
    assert main(["experiment", "off-policy", logged, "--check", check, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    effective = (299 + 500) ** 2 / (299 + 500**2)
    assert found["effective_rows"] == pytest.approx(effective, abs=0.1)
    assert not found["usable"]
    assert (
        found["doubts"][0] == f"{effective:.1f} of 100 effective rows needed (one row has 63 % of all weight)"
    )
    for name in ("ips", "snips", "dr"):
        assert set(found[name].values()) == set(found["check"][f"{name}_minus_check"].values()) == {None}
    assert found["logged"]["value"] == 0.25
    assert main(["experiment", "off-policy", logged]) == 0
    text = capsys.readouterr().out
    assert "IPS, SNIPS and doubly robust are not usable" in text
    assert re.search(r"IPS +│ +not usable", text)


def test_a_mean_weight_other_than_1_makes_estimates_unusable() -> None:
    log = planted(2)
    assert evaluate(log).doubts() == []
    wrong = Logged(log.reward, log.propensity / 2, log.target, log.predicted, log.expected, log.cluster)
    (doubt,) = evaluate(wrong).doubts()
    assert re.match(r"the mean weight is 1\.991 \(99 % CI 1\.\d+ to 2\.\d+\), which is not compatible", doubt)


def test_targets_other_than_uniform_are_rejected(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["experiment", "off-policy", "random/all", "--target", "bts"]) == 2
    error = capsys.readouterr().err
    assert "contains only the probabilities of the logged policy" in error
    assert len(error.splitlines()) == 1


def test_an_empty_log_is_rejected(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(open_bandit_folder(tmp_path, []))
    assert main(["experiment", "off-policy", folder]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1
