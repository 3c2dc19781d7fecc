"""The best that any model can do in a world whose click probabilities are known."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from simulators.world.draws import Floats
from simulators.world.world import BLOCK, World


@dataclass(frozen=True, slots=True)
class Limits:
    """Expectations over the clicks of given impressions; no drawn label enters."""

    events: int
    click_rate: float
    """Mean click probability."""
    base_log_loss: float
    """Log loss of predicting the mean click probability every time (natural logarithm)."""
    bayes_log_loss: float
    """Log loss of predicting each impression's own probability: no model does better."""
    bayes_auc: float
    """AUC of the same."""


def limits_of(truth: Floats) -> Limits:
    """Limits over impressions with click probabilities ``truth`` [E].

    >>> import numpy as np
    >>> limits_of(np.array([0.5, 0.5])).bayes_auc
    0.5
    """
    mean = float(truth.mean())
    return Limits(len(truth), mean, _entropy(np.array([mean])), _entropy(truth), expected_auc(truth))


def world_limits(world: World, start: int, stop: int) -> Limits:
    """Limits over events ``start`` to ``stop`` (exclusive) of a world."""
    blocks = range(start // BLOCK, -(-stop // BLOCK))
    truth = np.concatenate([world.block(index).truth for index in blocks])
    offset = start - blocks.start * BLOCK
    return limits_of(truth[offset : offset + stop - start])


def expected_auc(truth: Floats) -> float:
    """Chance that an event with weight p outranks one with weight 1 - p, ties half, when ranked by p."""
    value, inverse = np.unique(truth, return_inverse=True)
    positive = np.bincount(inverse, weights=truth, minlength=len(value))
    negative = np.bincount(inverse, weights=1.0 - truth, minlength=len(value))
    below = np.cumsum(negative) - negative
    return float((positive * (below + 0.5 * negative)).sum() / (positive.sum() * negative.sum()))


def _entropy(p: Floats) -> float:
    return float(-(p * np.log(p) + (1.0 - p) * np.log1p(-p)).mean())
