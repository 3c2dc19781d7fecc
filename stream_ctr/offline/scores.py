"""Exact metrics over a complete set of predictions."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from stream_ctr.metrics.log_loss import vector_log_losses
from stream_ctr.metrics.sums import normalized_entropy, ratio


@dataclass(frozen=True, slots=True)
class Scores:
    """Metrics over N rows; undefined metrics are NaN, such as the AUC without clicks."""

    events: int
    clicks: int
    log_loss: float
    """Mean in nats; probabilities clipped to [1e-7, 1 - 1e-7]."""
    ne: float
    """Normalized entropy: log loss divided by the entropy of the rows' click rate."""
    auc: float
    """Exact AUC: a tie between a click and a non-click counts one half."""
    calibration: float
    """Sum of predictions divided by clicks."""

    def as_dict(self) -> dict[str, int | float | None]:
        """For JSON; non-finite values are None."""
        return {name: value if math.isfinite(value) else None for name, value in asdict(self).items()}


def score(probability: NDArray[np.float32], label: NDArray[np.uint8]) -> Scores:
    """Scores of predictions [N] against labels [N] of 0 and 1.

    >>> found = score(np.array([0.9, 0.2, 0.6, 0.4], np.float32), np.array([1, 0, 1, 1], np.uint8))
    >>> found.auc, round(found.log_loss, 4), round(found.calibration, 4)
    (1.0, 0.4389, 0.7)
    """
    p = probability.astype(np.float64)
    events, clicks = len(p), int(label.sum())
    log_loss = ratio(float(vector_log_losses(p, label > 0).sum()), events)
    return Scores(
        events,
        clicks,
        log_loss,
        normalized_entropy(log_loss, ratio(clicks, events)),
        exact_auc(probability, label),
        ratio(float(p.sum()), clicks),
    )


def exact_auc(probability: NDArray[np.float32], label: NDArray[np.uint8]) -> float:
    """Probability that a click ranks above a non-click; NaN without both, or if a prediction is NaN."""
    clicks = int(label.sum())
    misses = len(label) - clicks
    if not clicks or not misses or bool(np.isnan(probability).any()):
        return math.nan
    order = np.argsort(probability, kind="stable")
    ranked, hit = probability[order], label[order] > 0
    first = np.flatnonzero(np.r_[True, ranked[1:] != ranked[:-1]])  # start of each distinct value
    hits = np.add.reduceat(hit.astype(np.int64), first)
    total = np.diff(np.r_[first, len(ranked)])
    below = np.cumsum(total - hits) - (total - hits)
    # integers and halves up to 2^53 are exact in float64
    won = float(np.dot(hits.astype(np.float64), below + (total - hits) / 2.0))
    return won / (float(clicks) * float(misses))
