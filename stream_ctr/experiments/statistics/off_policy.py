"""Off-policy evaluation: the value of a target policy from the log of another policy.

The logged policy showed action a with probability ``propensity``; the target policy would have shown it with
probability ``target``. Weighting each reward by target / propensity turns the logged mean into an estimate
for the target. Dudik, Langford and Li 2011 ("Doubly Robust Policy Evaluation and Learning") for all three:

- IPS: mean of weight times reward. Unbiased; high variance if weights are large.
- SNIPS: IPS over the mean weight. Slightly biased, usually narrower.
- DR: the reward that a model predicts under the target, plus the weighted error of that model on the shown
  action. Unbiased, however bad the model, as long as each row is predicted before it is learned.

Rows of one user are not independent, so intervals cluster by user.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stream_ctr.errors import DataError
from stream_ctr.experiments.statistics.confidence_sequence import fixed_interval
from stream_ctr.experiments.statistics.estimates import Estimate, by_cluster, ratio

Floats = NDArray[np.float64]

LEAST_EFFECTIVE_ROWS: Final = 100
"""Effective rows below which no weighted estimate is given. Below it a few rows decide the estimate, and its
interval is too narrow because the log lacks the rows that would widen it."""
MEAN_WEIGHT_LEVEL: Final = 0.01
"""Level of the test that the mean weight is 1."""


@dataclass(frozen=True, slots=True)
class Logged:
    """N rows of a log, with the target policy's probabilities and the reward model's predictions."""

    reward: Floats
    """[N] 1 clicked, 0 not."""
    propensity: Floats
    """[N] probability with which the logged policy showed the action."""
    target: Floats
    """[N] probability with which the target policy would have shown the same action."""
    predicted: Floats
    """[N] reward that the model predicts for the shown action."""
    expected: Floats
    """[N] reward that the model predicts, averaged over the target policy's actions."""
    cluster: NDArray[np.int64]
    """[N] index of the row's user, from 0."""

    def __post_init__(self) -> None:
        bad = np.flatnonzero(~((self.propensity > 0.0) & (self.propensity <= 1.0)))
        if len(bad):
            row = int(bad[0])
            raise DataError(
                f"row {row + 1}: propensity must be in (0, 1], got {self.propensity[row]:g}; off-policy "
                "evaluation requires the probability of each shown action"
            )


@dataclass(frozen=True, slots=True)
class OffPolicy:
    """The target policy's value by three estimators, with diagnostics of whether the log supports them."""

    logged: Estimate
    """Mean reward of the policy that ran."""
    ips: Estimate
    snips: Estimate
    dr: Estimate
    mean_weight: Estimate
    """1 if the propensities are right. An interval that excludes 1 means that they are not, or that the
    target policy shows actions that the logged policy never shows."""
    effective_rows: float
    """Effective sample size: squared sum of weights over sum of squares."""
    largest_weight: float
    largest_share: float
    """Largest weight over the sum of all weights."""

    def doubts(self) -> list[str]:
        """Reasons why IPS, SNIPS and DR are unusable; empty if they are usable."""
        found = []
        if self.effective_rows < LEAST_EFFECTIVE_ROWS:
            found.append(
                f"{self.effective_rows:,.1f} of {LEAST_EFFECTIVE_ROWS} effective rows needed (one row has "
                f"{100 * self.largest_share:.0f} % of all weight)"
            )
        span = fixed_interval(self.mean_weight, MEAN_WEIGHT_LEVEL)
        if not span.low <= 1.0 <= span.high:
            found.append(
                f"the mean weight is {self.mean_weight.value:.3f} ({100 * (1 - MEAN_WEIGHT_LEVEL):g} % CI "
                f"{span.low:.3f} to {span.high:.3f}), which is not compatible with 1: propensities are "
                "wrong, or the logged policy never shows actions that the target policy shows"
            )
        return found


def evaluate(log: Logged) -> OffPolicy:
    """All estimates and diagnostics of one log."""
    weight = log.target / log.propensity
    ones = np.ones_like(weight)

    def mean(values: Floats, over: Floats = ones) -> Estimate:
        buckets = int(log.cluster.max()) + 1 if len(log.cluster) else 0
        numerator, denominator, rows = (
            by_cluster(log.cluster, column, buckets) for column in (values, over, ones)
        )
        return ratio(numerator, denominator, rows)

    robust = log.expected + weight * (log.reward - log.predicted)
    total, squares = float(weight.sum()), float(weight @ weight)
    largest = float(weight.max()) if len(weight) else 0.0
    return OffPolicy(
        logged=mean(log.reward),
        ips=mean(weight * log.reward),
        snips=mean(weight * log.reward, weight),
        dr=mean(robust),
        mean_weight=mean(weight),
        effective_rows=total**2 / squares if squares > 0.0 else 0.0,
        largest_weight=largest,
        largest_share=largest / total if total > 0.0 else 0.0,
    )
