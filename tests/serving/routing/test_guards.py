"""Guards: each trips on its own fault only, and matches a slow transcription."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_ctr.config.experiment import GuardConfig
from stream_ctr.experiments.shared_files import ArmSums
from stream_ctr.serving.routing.guards import ArmGuard, ObservedGuard, Trip

CONFIG = GuardConfig(
    window=100, max_non_finite=0.05, max_saturated=0.1, latency_seconds=0.01, max_slow=0.2, calibration=1.5
)


def ask(guard: ArmGuard, p: list[float], seconds: float = 0.001) -> Trip | None:
    return guard.count_prediction(p, all(map(math.isfinite, p)), seconds)


def first_trip(guard: ArmGuard, p: list[float], seconds: float = 0.001, most: int = 1000) -> tuple[int, str]:
    for count in range(1, most + 1):
        trip = ask(guard, p, seconds)
        if trip is not None:
            return count, trip.cause
    return 0, ""


@pytest.mark.parametrize(
    ("p", "seconds", "expected"),
    [
        ([0.1, math.nan], 0.001, (6, "non_finite")),
        ([math.inf], 0.001, (6, "non_finite")),
        ([0.0], 0.001, (11, "saturated")),
        ([1.0, 0.5], 0.001, (21, "saturated")),
        ([0.1], 0.02, (21, "latency")),
        ([0.1, 0.9], 0.009, (0, "")),
    ],
)
def test_each_fault_trips_its_guard_as_soon_as_its_limit_is_exceeded(
    p: list[float], seconds: float, expected: tuple[int, str]
) -> None:
    assert first_trip(ArmGuard(CONFIG), p, seconds) == expected


def test_a_share_at_its_limit_never_trips() -> None:
    guard = ArmGuard(CONFIG)
    for n in range(1000):
        assert ask(guard, [math.nan] if n % 20 == 0 else [0.0] if n % 20 in (5, 15) else [0.3]) is None


def test_guards_that_are_off_never_trip() -> None:
    off = GuardConfig(window=10, max_non_finite=1, max_saturated=1, latency_seconds=0, calibration=0)
    guard = ArmGuard(off)
    for _ in range(200):
        assert ask(guard, [math.nan], 100.0) is None
        assert ask(guard, [0.0], 100.0) is None
        assert guard.count_pair(0.9, 0.1) is None


EVENTS = st.lists(
    st.tuples(st.sampled_from([0.0, 0.3, 0.3, 0.3, 1.0, math.nan]), st.sampled_from([0.001, 0.001, 0.5])),
    min_size=1,
    max_size=60,
)


@given(EVENTS, st.integers(1, 20), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_trips_match_a_slow_transcription(
    events: list[tuple[float, float]], window: int, non_finite: float, saturated: float, slow: float
) -> None:
    config = GuardConfig(
        window=window, max_non_finite=non_finite, max_saturated=saturated, latency_seconds=0.1, max_slow=slow
    )
    guard = ArmGuard(config)
    for n, (p, seconds) in enumerate(events):
        trip = ask(guard, [p], seconds)
        seen = events[n // window * window : n + 1]
        expected = None
        if sum(q != q for q, _ in seen) > non_finite * window:
            expected = "non_finite"
        elif sum(q in (0.0, 1.0) for q, _ in seen) > saturated * window:
            expected = "saturated"
        elif sum(s > 0.1 for _, s in seen) > slow * window:
            expected = "latency"
        assert (trip.cause if trip else None) == expected


@pytest.mark.parametrize(
    ("own", "control", "trips"),
    [(0.10, 0.05, True), (0.05, 0.10, True), (0.07, 0.05, False), (0.05, 0.07, False), (0.1, 0.0, True)],
)
def test_means_that_are_too_far_apart_trip_after_a_window(own: float, control: float, trips: bool) -> None:
    guard = ArmGuard(CONFIG)
    found = [guard.count_pair(own, control) for _ in range(200)]
    assert [trip is not None for trip in found] == [trips and n % 100 == 99 for n in range(200)]
    if trips and control:
        assert str(found[99]).count("calibration") == 1


def test_clicks_too_far_from_predictions_trip_period_by_period() -> None:
    guard = ObservedGuard(replace(CONFIG, observed_calibration=2.0, observed_impressions=1000))
    assert guard.check(ArmSums(5000, 10, 500.0)) is None, "what was before is not judged"
    assert guard.check(ArmSums(5999, 10, 600.0)) is None, "too few"
    trip = guard.check(ArmSums(6000, 20, 530.0))
    assert trip is not None
    assert trip.cause == "observed"
    assert "30 clicks predicted, 10 observed in 1000 impressions" in trip.reason
    assert guard.check(ArmSums(7000, 40, 555.0)) is None, "25 predicted, 20 seen"
    assert guard.check(ArmSums(8000, 100, 580.0)) is not None, "25 predicted, 60 seen"
    assert guard.check(ArmSums(10, 0, 5.0)) is None, "sums that restart from zero start a new window"
    assert guard.check(ArmSums(1010, 0, None)) is None
