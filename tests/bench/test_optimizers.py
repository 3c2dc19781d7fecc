"""The study of optimizers: equal budgets, frozen settings, unseen test rows, and its report."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stream_ctr.batch import LEARN, PREDICT
from stream_ctr.bench.optimizers import study as module
from stream_ctr.bench.optimizers.command import Optimizers
from stream_ctr.bench.optimizers.journal import Journal
from stream_ctr.bench.optimizers.report import auc
from stream_ctr.bench.optimizers.spaces import METHODS, Method, Range, chosen_methods, configured
from stream_ctr.bench.optimizers.study import (
    Plan,
    Stream,
    compared,
    first_events,
    run_setting,
    study,
    twice,
)
from stream_ctr.config.learner import LearnerConfig
from stream_ctr.config.optimizer import OptimizerConfig
from stream_ctr.errors import DataError, ModelError, UsageError
from stream_ctr.learners.build import build_learner
from stream_ctr.metrics.log_loss import vector_log_losses
from tests.support.learner_events import MULTI, chunks, make_batch

BATCH = make_batch(MULTI, 600, seed=5, learn_only=True)
STREAM = Stream(list(chunks(BATCH, 70)), list(MULTI.slot_field), MULTI.fields)
PLAN = Plan(trials=2, tune_to=300, score_from=100, test_to=500, seeds=(1, 2), block=20)
NAMED = {method.name: method for method in METHODS}


def test_draws_are_inside_the_space_and_equal_for_shared_settings() -> None:
    for method in METHODS:
        declared = method.draw(0, 0)
        assert declared == {name: getattr(method.optimizer, name) for name in method.space}
        drawn = method.draw(0, 3)
        for name, space in method.space.items():
            assert space.low * 0.99 <= drawn[name] <= space.high * 1.01
            if method.space[name] == NAMED["base"].space.get(name):
                assert drawn[name] == NAMED["base"].draw(0, 3)[name]
        configured(method, drawn)
        assert method.base in NAMED
    assert NAMED["base"].draw(0, 3) != NAMED["base"].draw(0, 4)
    assert NAMED["base"].draw(0, 3) != NAMED["base"].draw(1, 3)


def test_draws_fill_their_range_evenly_in_its_scale() -> None:
    space = {"rho": Range(1e-4, 1e-2), "xi": Range(0.0, 1.0, "linear")}
    method = Method("one", "one", 2, OptimizerConfig(method="helen"), space)
    drawn = [method.draw(7, trial) for trial in range(1, 2_001)]
    for name, center in (("rho", 1e-3), ("xi", 0.5)):
        assert np.mean([setting[name] < center for setting in drawn]) == pytest.approx(0.5, abs=0.04)


def test_a_setting_of_whole_numbers_stays_whole() -> None:
    _, optimizer = configured(NAMED["revisit"], NAMED["revisit"].draw(0, 1))
    assert isinstance(optimizer.revisit_after, int)


def test_names_are_checked_and_include_their_bases() -> None:
    assert [method.name for method in chosen_methods(["helen-adam"])] == ["base-adam", "helen-adam"]
    assert chosen_methods(None) == METHODS
    with pytest.raises(UsageError, match="no method named 'hellen'; did you mean 'helen'"):
        chosen_methods(["hellen"])
    with pytest.raises(UsageError, match="base does not tune rho; it tunes row_rate"):
        configured(NAMED["base"], {"rho": 0.1})


def test_two_declarations_of_one_name_have_two_keys() -> None:
    one = Method("one", "one", 1, OptimizerConfig(), {})
    other = Method("one", "one", 1, OptimizerConfig(row_rate=0.1), {})
    assert one.key != other.key
    assert one.key == Method("one", "one", 1, OptimizerConfig(), {}).key


def test_a_run_predicts_as_the_learner_does_over_the_first_rows() -> None:
    run = run_setting(STREAM, NAMED["base"], {"row_rate": 0.03}, 4, 333)
    learner = build_learner(
        configured(NAMED["base"], {})[0],
        OptimizerConfig(row_rate=0.03),
        LearnerConfig(device="cpu", seed=4),
        STREAM.slots,
        STREAM.fields,
    )
    np.testing.assert_array_equal(run.probability, learner.learn(first_events(BATCH, 333)).probability)


def test_twice_repeats_every_event_in_place() -> None:
    doubled = twice(BATCH)
    assert len(doubled) == 2 * len(BATCH)
    np.testing.assert_array_equal(doubled.rows[0::2], BATCH.rows)
    np.testing.assert_array_equal(doubled.rows[1::2], BATCH.rows)
    np.testing.assert_array_equal(doubled.changes.event, 2 * BATCH.changes.event)
    assert set(doubled.action[0::2]) == {PREDICT | LEARN}
    assert set(doubled.action[1::2]) == {LEARN}
    run = run_setting(STREAM, NAMED["base-twice"], {}, 1, 300)
    assert run.probability.shape == (300,)
    assert not np.array_equal(run.probability, run_setting(STREAM, NAMED["base"], {}, 1, 300).probability)


def test_the_best_setting_is_frozen_and_run_once_per_seed() -> None:
    method = NAMED["base"]
    (tested,) = study(STREAM, [method], PLAN, Journal(None, {}))
    label, scored = STREAM.label(), slice(PLAN.score_from, PLAN.tune_to)
    losses = []
    for trial in range(PLAN.trials):
        p = run_setting(STREAM, method, method.draw(0, trial), module.TUNING_SEED, PLAN.tune_to).probability
        losses.append(float(vector_log_losses(p[scored], label[scored] > 0.5).mean()))
    best = int(np.argmin(losses))
    assert tested.setting == method.draw(0, best)
    assert tested.tuned_loss == pytest.approx(losses[best])
    runs = [run_setting(STREAM, method, tested.setting, s, PLAN.test_to).probability for s in PLAN.seeds]
    expected = np.mean([vector_log_losses(p, label[: PLAN.test_to] > 0.5) for p in runs], axis=0)
    np.testing.assert_allclose(tested.loss, expected)
    assert len(tested.tail(PLAN)) == PLAN.test_to - PLAN.tune_to


def test_no_test_row_is_scored_before_all_methods_are_tuned() -> None:
    messages: list[str] = []
    methods = [NAMED["base"], NAMED["sam"]]
    first, second = study(STREAM, methods, PLAN, Journal(None, {}), progress=messages.append)
    finals = [k for k, text in enumerate(messages) if "frozen" in text]
    trials = [k for k, text in enumerate(messages) if "trial" in text]
    assert max(trials) < min(finals)
    assert len(trials) == len(methods) * PLAN.trials
    assert len(finals) == len(methods) * len(PLAN.seeds)
    assert compared(first, second, PLAN).mean == pytest.approx(-compared(second, first, PLAN).mean)


def test_an_interrupted_study_resumes(tmp_path: Path) -> None:
    whole = list(study(STREAM, [NAMED["base"]], PLAN, Journal(tmp_path / "whole", {"rows": 1})))

    class Stop(Exception):
        pass

    def stop(what: str) -> None:
        if "seed 2" in what:
            raise Stop

    folder, again = tmp_path / "torn", list[str]()
    with pytest.raises(Stop):
        list(study(STREAM, [NAMED["base"]], PLAN, Journal(folder, {"rows": 1}), progress=stop))
    with (folder / "trials.jsonl").open("a") as file:
        file.write('{"method": "torn')
    resumed = list(study(STREAM, [NAMED["base"]], PLAN, Journal(folder, {"rows": 1}), progress=again.append))
    assert again == ["base: frozen setting, seed 2"]
    np.testing.assert_array_equal(resumed[0].loss, whole[0].loss)
    with pytest.raises(UsageError, match="belongs to another study"):
        Journal(folder, {"rows": 2})
    (folder / "trials.jsonl").write_text("?\n{}\n")
    with pytest.raises(UsageError, match=r"trials\.jsonl, line 1: not a valid trial"):
        Journal(folder, {"rows": 1})


def test_a_stream_shorter_than_the_plan_is_rejected() -> None:
    plan = Plan(trials=1, tune_to=300, score_from=100, test_to=601, seeds=(1,), block=20)
    with pytest.raises(DataError, match="has 600 rows, but the test needs 601"):
        list(study(STREAM, [NAMED["base"]], plan, Journal(None, {})))


def test_auc_is_that_of_all_pairs() -> None:
    rng = np.random.default_rng(3)
    p, label = rng.random(300).astype(np.float32), (rng.random(300) < 0.3).astype(np.float32)
    above = p[label > 0.5][:, None] > p[label < 0.5][None, :]
    assert auc(p, label) == pytest.approx(float(above.mean()), abs=1e-3)


SMALL = ["--trials", "1", "--tune-to", "400", "--score-from", "200", "--test-to", "600", "--block", "40"]


def command(*words: str) -> int:
    parser = argparse.ArgumentParser()
    bench = Optimizers()
    bench.add_arguments(parser)
    return bench.run(parser.parse_args(words))


def test_the_command_reports_all_columns_of_its_rows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["world", *SMALL, "--methods", "revisit", "base-twice", "--seeds", "1", "2"]
    picture = tmp_path / "a.png"
    assert command(*words, "--json", "--plot", str(picture)) == 0
    report = json.loads(capsys.readouterr().out)
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert "not unseen" in report["looked_at"]
    rows: dict[str, dict[str, Any]] = {row["optimizer"]: row for row in report["rows"]}
    assert set(rows) == {"base", "base-twice", "revisit"}
    for row in rows.values():
        assert row["ci_low"] <= row["difference_to_base"] <= row["ci_high"]
        assert row["log_loss"] == pytest.approx(np.mean(row["log_loss_by_seed"]), abs=2e-6)
        difference = row["log_loss"] - rows["base"]["log_loss"]
        assert row["difference_to_base"] == pytest.approx(difference, abs=5e-6)
        assert 0.3 < row["auc"] < 1.0
    assert rows["base-twice"]["passes"] == 2
    assert set(rows["revisit"]["against"]) == {"base-twice"}

    chosen = tmp_path / "chosen.json"
    chosen.write_text(json.dumps(report))
    assert command(*words, "--settings", str(chosen)) == 0
    table = capsys.readouterr().out
    assert "revisit" in table
    assert "not unseen" in " ".join(table.split())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--trials", "0"], "--trials 0: must be at least 1"),
        (["--tune-to", "100"], "must ascend"),
        (["--block", "100"], "200 test rows have 2 blocks of that size"),
        (["--seeds", "1", "1"], "must be distinct"),
        (["--seeds", "-1"], "each must be from 0"),
        (["--methods", "x"], "no method named 'x'"),
        (["--settings", "missing.json"], "--settings missing.json: No such file"),
    ],
)
def test_invalid_arguments_are_rejected(words: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        command("world", *SMALL, *words)


def test_settings_must_be_those_of_this_command_and_of_these_methods(tmp_path: Path) -> None:
    path = tmp_path / "settings.json"
    path.write_text("[]")
    with pytest.raises(UsageError, match="is not the --json output of this command"):
        command("world", *SMALL, "--settings", str(path))
    path.write_text(json.dumps({"rows": [{"optimizer": "base", "setting": {"row_rate": -1.0}}]}))
    with pytest.raises(ModelError, match="row_rate"):
        command("world", *SMALL, "--settings", str(path), "--methods", "base")
    path.write_text(json.dumps({"rows": [{"optimizer": "base", "setting": {}}]}))
    with pytest.raises(UsageError, match="has no setting for sam"):
        command("world", *SMALL, "--settings", str(path), "--methods", "sam")
    with pytest.raises(UsageError, match="criteo needs the path"):
        command("criteo", *SMALL)
