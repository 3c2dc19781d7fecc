"""Mean, spread, paired t-test and variance across models, over the cells of a grid."""

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
    """Several seeds of one combination."""

    mean: float
    deviation: float
    """Standard deviation between seeds (n - 1); NaN for one."""
    count: int


@dataclass(frozen=True, slots=True)
class PairedTest:
    """Two methods over the cells that both have."""

    difference: float
    """Mean of the differences, second minus first."""
    t: float
    """Student's t of the differences; NaN with fewer than 2 pairs or where all are equal."""
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
    """Paired t-test over the keys that both have, such as (model, seed); None without any.

    Seeds of one model on one split are not independent data: with few models, a small p says that the
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

    Helen, section 4.2.5: an optimizer that leaves less of it makes the choice of the model matter less.

    >>> variance_across({"dnn": [0.7, 0.8], "dcn": [0.77]})
    0.00020000000000000036
    """
    means = [float(np.mean(of_model)) for of_model in values.values() if len(of_model)]
    return float(np.var(means, ddof=1)) if len(means) > 1 else math.nan
