"""Simulated experiments with a known ground truth, to validate the statistics.

Users return, some far more often than others, and differ in their click rates. Both arms see the same drift
of the click rate over time. The treatment multiplies the click probability. An uplift of zero is an A/A test.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stream_ctr.config.experiment import BUCKETS
from stream_ctr.errors import UsageError
from stream_ctr.experiments.statistics.estimates import Estimate, ratio

IMPRESSIONS_PER_USER = 10
"""Mean impressions per user."""
SPREAD_OF_USERS = 0.5
"""Standard deviation of the log of each user's factor on the click rate."""
CONTROL, TREATMENT = 0, 1

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Scenario:
    """Parameters of a simulated experiment. Its runs differ only by seed."""

    impressions: int
    """Impressions of both arms together."""
    click_rate: float = 0.03
    """Mean click probability of the control without drift."""
    uplift: float = 0.0
    """Treatment's click probability over the control's, minus 1."""
    drift: bool = False
    """Whether the click rate halves in the middle and also oscillates by a third, for four periods."""
    looks: int = 200
    """Number of equally spaced looks at the result; the last one is at the end."""

    def __post_init__(self) -> None:
        if not 1 <= self.looks <= self.impressions:
            raise UsageError(f"looks must be from 1 to the impressions, {self.impressions}, got {self.looks}")
        if not (0.0 < self.click_rate <= 0.1 and -1.0 <= self.uplift <= 1.0):
            raise UsageError(
                "the click rate must be in (0, 0.1] and the uplift in [-1, 1], got click rate "
                f"{self.click_rate:g} and uplift {self.uplift:g}"
            )


@dataclass(frozen=True, slots=True)
class Look:
    """Sums up to one look, int64 [2 arms, buckets]. A bucket belongs to one arm and is zero in the other."""

    clicks: Ints
    impressions: Ints

    def click_rate(self, arm: int) -> Estimate:
        """CTR of one arm, clustered by bucket."""
        return ratio(self.clicks[arm].astype(np.float64), self.impressions[arm].astype(np.float64))


def simulate(scenario: Scenario, seed: int) -> Iterator[Look]:
    """The looks of one run. The arrays are reused, so read a look before requesting the next.

    A user's share of the traffic is proportional to the inverse square root of the user's rank. Every run
    draws new users, so the estimand is that of the population.
    """
    draws = np.random.default_rng([seed, scenario.impressions])
    users = max(2, scenario.impressions // IMPRESSIONS_PER_USER)
    bucket = draws.integers(0, BUCKETS, users)
    arm = (bucket >= BUCKETS // 2).astype(np.int64)
    own = np.exp(SPREAD_OF_USERS * draws.standard_normal(users) - 0.5 * SPREAD_OF_USERS**2)
    chance = scenario.click_rate * own * np.where(arm == TREATMENT, 1.0 + scenario.uplift, 1.0)
    place = arm * BUCKETS + bucket
    clicks, shown = np.zeros(2 * BUCKETS, np.int64), np.zeros(2 * BUCKETS, np.int64)
    cuts = np.linspace(0, scenario.impressions, scenario.looks + 1).astype(np.int64)
    for start, stop in zip(cuts[:-1].tolist(), cuts[1:].tolist(), strict=True):
        size = stop - start
        user = (users * draws.random(size) ** 2).astype(np.int64)
        rate = chance[user]
        if scenario.drift:
            rate *= drift_at((start + np.arange(size)) / scenario.impressions)
        clicked = draws.random(size) < rate
        where = place[user]
        shown += np.bincount(where, minlength=2 * BUCKETS)
        clicks += np.bincount(where[clicked], minlength=2 * BUCKETS)
        yield Look(clicks.reshape(2, BUCKETS), shown.reshape(2, BUCKETS))


def drift_at(share: NDArray[np.float64]) -> NDArray[np.float64]:
    """Factor on the click rate at each elapsed share of the experiment."""
    return np.where(share < 0.5, 1.0, 0.5) * (1.0 + np.sin(8.0 * np.pi * share) / 3.0)
