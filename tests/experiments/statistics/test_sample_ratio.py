"""The sample-ratio test: against quadrature, and with a look after every user."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import beta

from stream_ctr.experiments.statistics.sample_ratio import PRIOR_USERS, log_bayes_factor, p_value


def test_the_bayes_factor_is_the_mixture_of_likelihood_ratios() -> None:
    share, counts = 0.3, (40, 130)
    prior = beta(PRIOR_USERS * share, PRIOR_USERS * (1 - share))

    def integrand(x: float) -> float:
        likelihood = counts[0] * math.log(x / share) + counts[1] * math.log((1 - x) / (1 - share))
        return float(math.exp(likelihood) * prior.pdf(x))

    expected, _ = quad(integrand, 0.0, 1.0, points=[0.2, 0.3])
    assert log_bayes_factor(counts, (share, 1 - share)) == pytest.approx(math.log(expected), rel=1e-6)


def test_three_arms_are_a_chain_of_predictions() -> None:
    weights, users = (0.5, 0.3, 0.2), [0, 0, 2, 1, 0, 1, 2, 2]
    seen, evidence = [0, 0, 0], 0.0
    for user in users:
        total = PRIOR_USERS + sum(seen)
        evidence += math.log((PRIOR_USERS * weights[user] + seen[user]) / total / weights[user])
        seen[user] += 1
    assert log_bayes_factor(seen, weights) == pytest.approx(evidence, rel=1e-9)


def test_false_alarms_on_a_sound_split_stay_within_the_level_at_any_number_of_looks() -> None:
    accused, level = 0, 0.05
    for seed in range(300):
        first = np.cumsum(np.random.default_rng(seed).random(2_000) < 0.5)
        accused += any(
            p_value([int(first[count - 1]), count - int(first[count - 1])], [0.5, 0.5]) < level
            for count in range(20, 2_001, 20)
        )
    assert accused <= 300 * level


def test_losing_a_twentieth_of_an_arm_is_detected() -> None:
    assert p_value([50_000, 47_500], [0.5, 0.5]) < 1e-6
    assert p_value([50_000, 49_950], [0.5, 0.5]) == 1.0
