"""Activity of hidden layers over a set of events: inactive units, and similarity of events.

SML (Deng et al.), section 4.4: dead and always-on units, and the cosine similarity of samples, by depth.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class LayerActivity:
    """Activity of one hidden layer of h ReLU units over B events."""

    dead: float
    """Share of inactive units, which are 0 for every event and pass neither activation nor gradient."""
    always_on: float
    """Share of units above 0 for every event, which act linearly."""
    cosine: float
    """Mean cosine similarity of the outputs of two different events; 1: all outputs have the same direction.
    Over the events whose output is not 0; NaN with fewer than two of them."""
    silent: float
    """Share of events whose output is 0 in every unit."""


def activity(x: NDArray[np.float64]) -> LayerActivity:
    """Activity of one layer from its outputs [B, h].

    >>> found = activity(np.array([[3.0, 0.0, 4.0], [1.0, 0.0, 0.0]]))
    >>> round(found.dead, 2), round(found.always_on, 2), round(found.cosine, 2), found.silent
    (0.33, 0.33, 0.6, 0.0)
    """
    on = x > 0.0
    # Dividing each event by its largest output first keeps the norm of very small outputs from underflow.
    largest = np.abs(x).max(axis=1)
    nonzero = x[largest > 0.0] / largest[largest > 0.0, None]
    return LayerActivity(
        dead=float(np.mean(~on.any(axis=0))),
        always_on=float(np.mean(on.all(axis=0))),
        cosine=mean_cosine(nonzero),
        silent=float(np.mean(largest <= 0.0)),
    )


def mean_cosine(x: NDArray[np.float64]) -> float:
    """Mean cosine similarity over all pairs of different rows of x [B, h], whose rows must not be 0.

    With u_b the rows of length 1: the sum over pairs is |sum_b u_b|^2 - B.
    """
    count = len(x)
    if count < 2:
        return float("nan")
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    total = unit.sum(axis=0)
    return float((total @ total - count) / (count * (count - 1)))
