"""Assignment of users to arms, and its reasons: the properties that keep an experiment valid."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_ctr.config.experiment import ArmConfig, ExperimentConfig, ThompsonConfig
from stream_ctr.experiments.assignment import bucket_of
from stream_ctr.experiments.shared_files import Kill
from stream_ctr.serving.routing.plan import Plan

KILL = Kill("manual", "test", 0)
FOUR = ExperimentConfig(
    salt="plan",
    coverage=0.8,
    arms=(
        ArmConfig("control", 0.4),
        ArmConfig("a", 0.3, testers=("tester",)),
        ArmConfig("b", 0.3),
        ArmConfig("dark", 0.0, shadow=True, shadow_sample=0.25),
    ),
)
USERS = [f"user-{n}" for n in range(500)]
ARMS = st.sets(st.sampled_from(["a", "b", "dark"]))


@given(ARMS)
def test_killing_an_arm_changes_no_interval_and_falls_back_to_the_control(killed: set[str]) -> None:
    before, after = Plan(FOUR), Plan(FOUR, dict.fromkeys(killed, KILL))
    assert after.intervals == before.intervals
    for user in USERS:
        one, two = before.choose(user, "e"), after.choose(user, "e")
        assert two.assignment == one.assignment
        if one.arm in killed:
            assert (two.arm, two.reason) == ("control", "killed")
        else:
            assert two == one


@given(ARMS, ARMS)
def test_reviving_an_arm_restores_all_choices(first: set[str], second: set[str]) -> None:
    plan = Plan(FOUR)
    for killed in (first, second, set[str]()):
        plan = Plan(FOUR, dict.fromkeys(killed, KILL), previous=plan)
    fresh = Plan(FOUR)
    assert [plan.choose(user, "e") for user in USERS] == [fresh.choose(user, "e") for user in USERS]


def test_testers_get_their_arm_regardless_of_their_bucket() -> None:
    plan = Plan(FOUR)
    choice = plan.choose("tester", "e")
    assert (choice.arm, choice.reason) == ("a", "override")
    assert choice.assignment.bucket == bucket_of("plan", "tester")
    assert plan.choose("user-1", "e", "b").reason == "override"
    killed = Plan(FOUR, {"a": KILL})
    assert (killed.choose("tester", "e").arm, killed.choose("tester", "e").reason) == ("control", "override")


def test_shadows_answer_no_user_and_see_their_share_of_events() -> None:
    plan = Plan(FOUR)
    assert {plan.choose(user, "e").arm for user in USERS} == {"control", "a", "b"}
    events = 8000
    seen = sum(plan.shadows(f"event-{n}") == ["dark"] for n in range(events))
    assert abs(seen - events / 4) < 4 * (events * 3 / 16) ** 0.5
    assert plan.shadows("event-1") == Plan(FOUR).shadows("event-1")
    assert Plan(FOUR, {"dark": KILL}).shadows("event-1") == []
    every = replace(FOUR, arms=(*FOUR.arms[:3], ArmConfig("dark", 0.0, shadow=True)))
    assert Plan(every).shadows("event-1") == ["dark"]


def test_sampling_never_affects_enrolled_users() -> None:
    sampling = replace(FOUR, thompson=ThompsonConfig(share=0.5))
    chances = {"control": 0.1, "a": 0.2, "b": 0.7}
    plan, plain = Plan(sampling, chances=chances), Plan(FOUR)
    drawn: Counter[str] = Counter()
    outside = 0
    for n in range(20_000):
        user, event = USERS[n % len(USERS)], f"event-{n}"
        choice, usual = plan.choose(user, event), plain.choose(user, event)
        assert choice.assignment == usual.assignment
        if usual.reason == "assigned":
            assert choice == usual
            continue
        outside += 1
        if choice.reason == "sampled":
            drawn[choice.arm] += 1
            assert choice.propensity == chances[choice.arm]
        else:
            assert choice == usual
    total = drawn.total()
    assert abs(total - outside / 2) < 4 * (outside / 4) ** 0.5
    for arm, chance in chances.items():
        assert abs(drawn[arm] - total * chance) < 4 * (total * chance * (1 - chance)) ** 0.5


def test_a_guard_keeps_its_counts_over_changes_and_resets_after_a_revival() -> None:
    plan = Plan(FOUR)
    other = Plan(replace(FOUR, coverage=0.9), {"b": KILL}, previous=plan)
    assert other.guards["a"] is plan.guards["a"]
    assert other.guards["b"] is plan.guards["b"]
    revived = Plan(FOUR, previous=other)
    assert revived.guards["a"] is plan.guards["a"]
    assert revived.guards["b"] is not plan.guards["b"]
    assert "control" not in plan.guards


@pytest.mark.parametrize("coverage", [0.0, 1.0])
def test_users_outside_the_coverage_are_not_enrolled(coverage: float) -> None:
    plan = Plan(replace(FOUR, coverage=coverage))
    reasons = {plan.choose(user, "e").reason for user in USERS}
    assert reasons == ({"assigned"} if coverage else {"not_enrolled"})
