"""Statistics over the cells of a grid: mean, spread, paired t-test, and variance across models."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from scipy import stats

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Spread:
    """Mean and spread over the seeds of one combination."""

    mean: float
    deviation: float
    """Standard deviation over seeds (n - 1); NaN for one seed."""
    count: int


@dataclass(frozen=True, slots=True)
class PairedTest:
    """Paired comparison of two methods over their common cells."""

    difference: float
    """Mean difference, second minus first."""
    t: float
    """Student's t of the differences; NaN with fewer than 2 pairs or if all differences are equal."""
    p: float
    """Two-sided p-value."""
    pairs: int
    better: int
    """Pairs in which the second is above the first."""


def spread(values: Sequence[float]) -> Spread:
    """Mean and standard deviation.

    >>> spread([1.0, 3.0])
    Spread(mean=2.0, deviation=1.4142135623730951, count=2)
    """
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
    return Spread(float(np.mean(values)), deviation, len(values))


def paired_test(first: Mapping[Key, float], second: Mapping[Key, float]) -> PairedTest | None:
    """Paired t-test over the common keys, such as (model, seed); None without any.

    Seeds of one model on one split are not independent data. With few models, a small p means that the
    difference is stable under other initial weights, not that it holds on other data.
    """
    keys = [key for key in first if key in second]
    if not keys:
        return None
    before, after = [first[key] for key in keys], [second[key] for key in keys]
    differences = np.subtract(after, before)
    better = int((differences > 0).sum())
    t = p = math.nan
    if len(keys) > 1 and float(np.ptp(differences)) > 0.0:
        found = stats.ttest_rel(after, before)
        t, p = float(found.statistic), float(found.pvalue)
    return PairedTest(float(differences.mean()), t, p, len(keys), better)


def variance_across(values: Mapping[str, Sequence[float]]) -> float:
    """Variance (n - 1) between models of their mean AUC over seeds; NaN with fewer than 2 models.

    Helen, section 4.2.5: with a smaller variance, the choice of the model matters less.

    >>> variance_across({"dnn": [0.7, 0.8], "dcn": [0.77]})
    0.00020000000000000036
    """
    means = [float(np.mean(of_model)) for of_model in values.values() if len(of_model)]
    return float(np.var(means, ddof=1)) if len(means) > 1 else math.nan
