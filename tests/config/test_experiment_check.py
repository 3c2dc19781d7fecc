"""Which experiments are rejected, and which changes to a running one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_ctr.config.experiment import ArmConfig, ExperimentConfig, GuardConfig, ThompsonConfig
from stream_ctr.config.experiment_check import check_change, check_experiment, refuse_frozen
from stream_ctr.config.learner import LearnerConfig
from stream_ctr.config.settings import load_settings
from stream_ctr.errors import ConfigError, UsageError
from stream_ctr.experiments.assignment import Assigner

TWO = ExperimentConfig(coverage=0.5, arms=(ArmConfig("control", 0.5), ArmConfig("new", 0.5)))
SHADOW = ArmConfig("shadow", 0.0, shadow=True)
REBUILT = LearnerConfig(kind="river", river="river-tree", rebuild=True)


def with_arms(*arms: ArmConfig) -> ExperimentConfig:
    return replace(TWO, arms=arms)


CONTROL, NEW = TWO.arms


@pytest.mark.parametrize(
    ("experiment", "reason"),
    [
        (with_arms(), "at least one arm"),
        (with_arms(CONTROL, replace(NEW, weight=0.4)), r"sum to 0\.9"),
        (with_arms(CONTROL, replace(NEW, weight=-0.5)), "must be 0 or more"),
        (with_arms(CONTROL, replace(NEW, name="control")), "must all be different"),
        (with_arms(CONTROL, replace(NEW, name="a/b")), "got 'a/b'"),
        (with_arms(CONTROL, replace(NEW, name="experiment")), "is reserved"),
        (replace(TWO, coverage=1.1), "coverage"),
        (with_arms(replace(SHADOW, name="first"), replace(NEW, weight=1.0)), "cannot be a shadow"),
        (with_arms(CONTROL, replace(NEW, shadow=True)), "shadow arm answers no users"),
        (with_arms(CONTROL, NEW, replace(SHADOW, testers=("u",))), "testers"),
        (
            with_arms(CONTROL, replace(NEW, learner=REBUILT)),
            "'new': learner.rebuild = true",
        ),
        (with_arms(CONTROL, NEW, replace(SHADOW, learner=REBUILT)), "makes no snapshots"),
        (with_arms(replace(CONTROL, testers=("u",)), replace(NEW, testers=("u",))), "'u' is a tester of"),
        (replace(TWO, guards=GuardConfig(calibration=0.5)), "ratio of at least 1, got 0.5"),
        (
            replace(TWO, thompson=ThompsonConfig(share=0.5, floor=0.6)),
            r"floor must be at most 0\.5 with 2 arms, got 0\.6",
        ),
    ],
)
def test_contradictory_experiments_are_rejected(experiment: ExperimentConfig, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        check_experiment(experiment)


def test_consistent_experiments_are_accepted() -> None:
    check_experiment(TWO)
    new = replace(NEW, guards=GuardConfig(calibration=2.0), snapshot="somewhere")
    check_experiment(with_arms(CONTROL, NEW, ArmConfig("trees", 0.0, learner=REBUILT)))
    every = with_arms(replace(CONTROL, testers=("a", "b")), new, SHADOW)
    check_experiment(replace(every, thompson=ThompsonConfig(share=1.0, floor=0.5)))


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        (
            with_arms(replace(CONTROL, weight=0.4), replace(NEW, weight=0.6)),
            "changed weight requires a new salt",
        ),
        (with_arms(NEW, CONTROL), "another control requires a new salt"),
        (with_arms(CONTROL, replace(NEW, name="newer")), "requires a new salt"),
        (with_arms(replace(CONTROL, weight=1.0)), "requires a new salt"),
        (replace(TWO, coverage=0.4), "lowered from 0.5 to 0.4"),
        (replace(TWO, name="other"), "changed name requires a new salt"),
        (with_arms(CONTROL, replace(NEW, snapshot="folder")), "another model in the same arm"),
    ],
)
def test_changes_that_would_move_users_require_a_new_salt(changed: ExperimentConfig, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        check_change(TWO, changed)
    check_change(TWO, replace(changed, salt="new"))


@pytest.mark.parametrize(
    "changed",
    [
        replace(TWO, coverage=0.9),
        replace(TWO, guards=GuardConfig(window=10), thompson=ThompsonConfig(share=0.5)),
        with_arms(CONTROL, NEW, SHADOW),
        with_arms(CONTROL, NEW, ArmConfig("later", 0.0)),
        with_arms(replace(CONTROL, testers=("u",)), NEW),
    ],
)
def test_changes_that_move_no_user_are_accepted(changed: ExperimentConfig) -> None:
    check_change(TWO, changed)


PARTS = st.lists(st.integers(0, 50), min_size=1, max_size=5).filter(any)


@given(PARTS, PARTS, st.floats(0, 1), st.floats(0, 1))
def test_an_accepted_change_under_the_same_salt_moves_no_enrolled_user(
    one: list[int], two: list[int], before: float, after: float
) -> None:
    old, new = (
        ExperimentConfig(
            coverage=coverage, arms=tuple(ArmConfig(f"a{n}", p / sum(parts)) for n, p in enumerate(parts))
        )
        for parts, coverage in ((one, before), (two, after))
    )
    try:
        check_change(old, new)
    except ConfigError:
        return
    first, second = Assigner(old), Assigner(new)
    for n in range(300):
        arm = first.assign(f"user-{n}").arm
        assert arm is None or second.assign(f"user-{n}").arm == arm


def test_a_frozen_arm_is_not_trained() -> None:
    frozen = with_arms(CONTROL, replace(NEW, snapshot="folder/7"))
    refuse_frozen(frozen, "control")
    with pytest.raises(UsageError, match="folder/7 and needs no trainer"):
        refuse_frozen(frozen, "new")


def test_an_experiment_from_file_and_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "config.toml"
    path.write_text(
        """
        [experiment]
        salt = "s"
        coverage = 0.2
        guards = {window = 50}
        thompson = {share = 0.5, floor = 0.1}
        arms = [
            {name = "control", weight = 0.5, snapshot = "frozen/1"},
            {name = "new", weight = 0.5, testers = ["me"], guards = {latency_seconds = 0.1}},
            {name = "next", weight = 0, shadow = true, shadow_sample = 0.25},
        ]
        """
    )
    monkeypatch.setenv("STREAM_CTR_EXPERIMENT__COVERAGE", "0.3")
    monkeypatch.setenv("STREAM_CTR_EXPERIMENT__GUARDS__MAX_SATURATED", "0.5")
    monkeypatch.setenv("STREAM_CTR_OVERRIDE_SECRET", "no setting")
    experiment = load_settings(path).experiment
    assert (experiment.coverage, experiment.guards.window, experiment.guards.max_saturated) == (0.3, 50, 0.5)
    assert experiment.thompson == ThompsonConfig(0.5, 0.1)
    control, new, following = experiment.arms
    assert (control.snapshot, new.testers, following.shadow_sample) == ("frozen/1", ("me",), 0.25)
    assert new.guards == GuardConfig(latency_seconds=0.1)
    path.write_text('[experiment]\nguards = {windw = 3}\narms = [{name = "a"}]')
    with pytest.raises(ConfigError, match=r"experiment\.guards\.windw.*did you mean"):
        load_settings(path)
