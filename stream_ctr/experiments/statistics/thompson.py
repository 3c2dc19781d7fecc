"""Thompson sampling over arms with exact propensities.

The click rate of an arm with n impressions and c clicks has the posterior Beta(1 + c, 1 + n - c). An arm is
drawn with the probability that its rate is the highest (Thompson 1933). That probability is computed by
quadrature instead of drawing rates, so the logged propensity is the one that was used.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

POINTS = 800
"""Quadrature points for each arm; probabilities are accurate to about 1e-4."""


def best_probabilities(impressions: Sequence[int], clicks: Sequence[int]) -> list[float]:
    """Probability that each of the K arms has the highest click rate; they sum to 1."""
    a = np.asarray(clicks, np.float64) + 1.0
    b = np.maximum(np.asarray(impressions, np.float64) - np.asarray(clicks), 0.0) + 1.0
    # In log odds t the density is proportional to sigmoid(t)^a sigmoid(-t)^b: smooth, with its peak at
    # log(a/b), a variance of about 1/a + 1/b, and tails like exp(a t) and exp(-b t).
    peak, spread = np.log(a / b), np.sqrt(1 / a + 1 / b)
    lows, highs = peak - 8 * spread - 40 / a, peak + 8 * spread + 40 / b
    near = [np.linspace(m - 8 * s, m + 8 * s, POINTS) for m, s in zip(peak, spread, strict=True)]
    far = [np.linspace(low, high, POINTS) for low, high in zip(lows, highs, strict=True)]
    t = np.unique(np.concatenate([*near, *far]))
    log_density = -a[:, None] * np.logaddexp(0.0, -t) - b[:, None] * np.logaddexp(0.0, t)
    density = np.exp(log_density - log_density.max(axis=1, keepdims=True))
    below = _cumulative(density, t)
    density /= below[:, -1:]
    below /= below[:, -1:]
    chances = np.empty(len(a))
    for arm in range(len(a)):
        others = np.prod(np.delete(below, arm, axis=0), axis=0)
        chances[arm] = np.trapezoid(density[arm] * others, t)
    found: list[float] = (chances / chances.sum()).tolist()
    return found


def _cumulative(density: NDArray[np.float64], t: NDArray[np.float64]) -> NDArray[np.float64]:
    """Integrals [K, T] of the densities [K, T] up to each point [T], by the trapezoidal rule."""
    steps = 0.5 * (density[:, 1:] + density[:, :-1]) * np.diff(t)
    return np.concatenate([np.zeros((len(density), 1)), np.cumsum(steps, axis=1)], axis=1)


def with_floor(chances: Sequence[float], floor: float) -> list[float]:
    """Chances of K arms, each raised to at least min(``floor``, 1/K); they still sum to 1."""
    rest = 1.0 - len(chances) * min(floor, 1 / len(chances))
    return [min(floor, 1 / len(chances)) + rest * chance for chance in chances]


def draw(chances: Sequence[float], uniform: float) -> int:
    """Index of the arm whose part of [0, 1) contains ``uniform``."""
    reached = 0.0
    for index, chance in enumerate(chances):
        reached += chance
        if uniform < reached:
            return index
    return max(range(len(chances)), key=lambda index: chances[index])  # rounding left the sum below 1


def uniform_of(salt: str, purpose: str, event_id: str) -> float:
    """A number in [0, 1) from the BLAKE2b hash of three strings: the same in every process."""
    digest = hashlib.blake2b(digest_size=8)
    for part in (salt.encode(), purpose.encode(), event_id.encode()):
        digest.update(len(part).to_bytes(4, "big"))
        digest.update(part)
    return (int.from_bytes(digest.digest(), "big") >> 11) / 2**53
