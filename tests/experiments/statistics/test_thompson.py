"""Thompson sampling: probabilities against a closed form and Monte Carlo, draws against probabilities."""

from __future__ import annotations

from collections import Counter
from math import exp, lgamma, log

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_ctr.experiments.statistics.thompson import best_probabilities, draw, uniform_of, with_floor


def log_beta(a: float, b: float) -> float:
    return lgamma(a) + lgamma(b) - lgamma(a + b)


def second_is_better(one: tuple[int, int], two: tuple[int, int]) -> float:
    """P(rate 2 > rate 1) in closed form (Evan Miller 2014), for (impressions, clicks) and uniform priors."""
    (n1, c1), (n2, c2) = one, two
    a1, b1, a2, b2 = 1 + c1, 1 + n1 - c1, 1 + c2, 1 + n2 - c2
    total = 0.0
    for i in range(a2):
        total += exp(log_beta(a1 + i, b1 + b2) - log(b2 + i) - log_beta(1 + i, b2) - log_beta(a1, b1))
    return total


COUNTS = st.integers(0, 1000).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n)))


@given(COUNTS, COUNTS)
def test_two_arms_agree_with_the_closed_form(one: tuple[int, int], two: tuple[int, int]) -> None:
    found = best_probabilities([one[0], two[0]], [one[1], two[1]])
    assert found[1] == pytest.approx(second_is_better(one, two), abs=2e-4)
    assert sum(found) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("impressions", "clicks"),
    [
        ([0, 0, 0], [0, 0, 0]),
        ([1000, 1000, 1000], [30, 36, 33]),
        ([10, 100_000, 0], [0, 3000, 0]),
        ([10**7, 10**7, 10**7], [300_000, 300_500, 299_000]),
        ([5, 5, 5, 5], [5, 4, 0, 5]),
    ],
)
def test_several_arms_agree_with_drawing(impressions: list[int], clicks: list[int]) -> None:
    random = np.random.default_rng(7)
    draws = 200_000
    n, c = np.array(impressions), np.array(clicks)
    rates = random.beta(1 + c, 1 + n - c, (draws, len(n)))
    expected = np.bincount(rates.argmax(axis=1), minlength=len(n)) / draws
    found = best_probabilities(impressions, clicks)
    assert found == pytest.approx(expected.tolist(), abs=4 * 0.5 / draws**0.5)


def test_without_data_all_arms_have_equal_probability() -> None:
    assert best_probabilities([0] * 4, [0] * 4) == pytest.approx([0.25] * 4, abs=1e-6)


@given(st.lists(st.floats(0.001, 1), min_size=1, max_size=6), st.floats(0, 1))
def test_no_arm_is_below_the_floor(parts: list[float], floor: float) -> None:
    chances = with_floor([part / sum(parts) for part in parts], floor)
    assert sum(chances) == pytest.approx(1.0)
    assert min(chances) >= min(floor, 1 / len(parts)) - 1e-12
    assert with_floor([1.0, 0.0], 0.1) == pytest.approx([0.9, 0.1])


def test_events_are_drawn_as_often_as_their_chance_says() -> None:
    chances, events = [0.2, 0.05, 0.75], 40_000
    drawn = Counter(draw(chances, uniform_of("salt", "arm", f"event-{n}")) for n in range(events))
    for index, chance in enumerate(chances):
        spread = (events * chance * (1 - chance)) ** 0.5
        assert abs(drawn[index] - events * chance) < 4 * spread


def test_a_sum_just_below_one_still_draws_an_arm() -> None:
    assert draw([0.1, 0.6, 0.3 - 1e-9], 1.0 - 2**-53) == 1
