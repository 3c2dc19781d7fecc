"""Assignment: frozen vectors, and the properties that make an experiment sound."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_ctr.config.experiment import BUCKETS, ArmConfig, ExperimentConfig, intervals
from stream_ctr.errors import ConfigError
from stream_ctr.experiments.assignment import Assigner, bucket_of


def experiment(weights: list[float], coverage: float = 1.0, salt: str = "s") -> ExperimentConfig:
    arms = tuple(ArmConfig(f"arm{index}", weight) for index, weight in enumerate(weights))
    return ExperimentConfig(salt=salt, coverage=coverage, arms=arms)


VECTORS = [
    ("main-1", "user-1", 1306),
    ("main-2", "user-1", 7162),
    ("", "", 5848),
    ("a", "bc", 1779),
    ("ab", "c", 3443),
    ("main-1", "", 8606),
    ("salt", "ünïcødé-用户", 9383),
    ("main-1", "x" * 300, 616),
]


@pytest.mark.parametrize(("salt", "unit", "bucket"), VECTORS)
def test_buckets_match_the_vectors_fixed_for_all_versions_and_languages(
    salt: str, unit: str, bucket: int
) -> None:
    assert bucket_of(salt, unit) == bucket


def test_buckets_are_uniform() -> None:
    users = 200_000
    tenths = Counter(bucket_of("uniform", f"user-{n}") // (BUCKETS // 10) for n in range(users))
    expected = users / 10
    chi_square = sum((tenths[i] - expected) ** 2 / expected for i in range(10))
    assert chi_square < 27.9  # the 99.9 % point with 9 degrees of freedom; the hash is fixed, so is this


def test_salts_are_independent() -> None:
    both = sum(
        bucket_of("one", f"user-{n}") < BUCKETS // 2 and bucket_of("two", f"user-{n}") < BUCKETS // 2
        for n in range(20_000)
    )
    assert abs(both - 5_000) < 4 * 61.2  # four standard deviations of Binomial(20000, 1/4)


WEIGHTS = (
    st.lists(st.integers(0, 1000), min_size=1, max_size=6)
    .filter(any)
    .map(lambda parts: [part / sum(parts) for part in parts])
)


@given(WEIGHTS)
def test_full_coverage_gives_every_bucket_to_one_arm(weights: list[float]) -> None:
    found = intervals(experiment(weights))
    assert found[0].start == 0
    assert found[-1].stop == BUCKETS
    assert all(a.stop == b.start for a, b in pairwise(found))
    for interval, weight in zip(found, weights, strict=True):
        assert abs((interval.stop - interval.start) - weight * BUCKETS) <= 1


@given(WEIGHTS, st.floats(0, 1), st.floats(0, 1))
def test_raising_coverage_adds_users_and_moves_none(weights: list[float], one: float, two: float) -> None:
    low, high = sorted((one, two))
    before = intervals(experiment(weights, low))
    after = intervals(experiment(weights, high))
    for narrow, wide in zip(before, after, strict=True):
        assert narrow.start == wide.start
        assert narrow.stop <= wide.stop
    assert sum(i.stop - i.start for i in before) == pytest.approx(low * BUCKETS, abs=len(weights))


@given(WEIGHTS, st.text(max_size=20), st.floats(0, 1))
def test_assigner_agrees_with_the_intervals(weights: list[float], unit: str, coverage: float) -> None:
    settings = experiment(weights, coverage)
    assignment = Assigner(settings).assign(unit)
    owners = [i.arm for i in intervals(settings) if i.start <= assignment.bucket < i.stop]
    assert assignment.bucket == bucket_of("s", unit)
    assert owners == ([] if assignment.arm is None else [assignment.arm])


def test_assignment_does_not_depend_on_earlier_calls() -> None:
    settings = experiment([0.3, 0.7], 0.8)
    users = [f"user-{n}" for n in range(1000)]
    forward = {user: Assigner(settings).assign(user) for user in users[:10]}
    one = Assigner(settings)
    backward = {user: one.assign(user) for user in reversed(users)}
    assert all(backward[user] == found for user, found in forward.items())


@pytest.mark.parametrize(
    ("weights", "coverage", "text"),
    [
        ([0.5, 0.4], 1.0, "sum to 0.9"),
        ([0.7, 0.7], 1.0, "sum to 1.4"),
        ([1.5, -0.5], 1.0, "must be 0 or more"),
        ([float("nan"), 1.0], 1.0, "must be 0 or more"),
        ([], 1.0, "at least one arm"),
        ([1.0], 1.5, "between 0 and 1, got"),
        ([1.0], float("nan"), "between 0 and 1, got"),
    ],
)
def test_invalid_experiments_are_rejected(weights: list[float], coverage: float, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        Assigner(experiment(weights, coverage))


def test_duplicate_arm_names_are_rejected() -> None:
    arms = (ArmConfig("a", 0.5), ArmConfig("a", 0.5))
    with pytest.raises(ConfigError, match="must all be different, got a, a"):
        Assigner(ExperimentConfig(arms=arms))
