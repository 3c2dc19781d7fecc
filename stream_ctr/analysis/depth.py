"""Effect of depth on a tower with and without skip logits (SML, Deng et al., section 4.4 and Fig. 5).

Measured by quality, logit variance, dead and always-on units, and the cosine similarity of events.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from stream_ctr.analysis.rows import Rows
from stream_ctr.analysis.surface import Surface, quality
from stream_ctr.analysis.training import Initial, train
from stream_ctr.config.model import ModelConfig
from stream_ctr.config.optimizer import OptimizerConfig
from stream_ctr.offline.scores import Scores

COLLAPSED_AUC = 0.55
"""A network with a lower AUC on the slice hardly separates clicks from non-clicks."""


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


@dataclass(frozen=True, slots=True)
class DepthResult:
    """Result of one tower of equal layers, trained and measured on the slice."""

    depth: int
    sml: bool
    quality: Scores
    """Scores on the slice."""
    logit_variance: float
    """Variance of the logit over the events of the slice."""
    layers: tuple[LayerActivity, ...]
    """Activity of the hidden layers, first to last."""
    skipped: int
    """Events whose update was skipped because it was not finite."""

    @property
    def base_log_loss(self) -> float:
        """Log loss of the slice's own click rate."""
        return self.quality.log_loss / self.quality.ne

    @property
    def collapsed(self) -> bool:
        """Whether it is no better than the click rate: AUC below COLLAPSED_AUC, or no lower log loss."""
        found = self.quality
        return found.auc < COLLAPSED_AUC or not found.ne < 1.0

    @property
    def dead(self) -> float:
        """Share of inactive units over all layers."""
        return float(np.mean([layer.dead for layer in self.layers]))

    @property
    def always_on(self) -> float:
        """Share of always-on units over all layers."""
        return float(np.mean([layer.always_on for layer in self.layers]))


def tower(model: ModelConfig, depth: int, width: int, sml: bool) -> ModelConfig:
    """The model with a tower of ``depth`` hidden layers of ``width`` units, with or without skip logits."""
    return replace(model, hidden=(width,) * depth, sml=sml, dropout=0.0)


def at_depth(
    rows: Rows,
    model: ModelConfig,
    optimizer: OptimizerConfig,
    steps: int,
    *,
    seed: int,
    device: str,
    initial: Initial = "he",
    progress: Callable[[int], None] = lambda step: None,
) -> DepthResult:
    """Train one tower for ``steps`` batches and measure it on the slice."""
    trained = train(
        rows,
        model,
        optimizer,
        steps,
        by_event=False,
        seed=seed,
        device=device,
        initial=initial,
        progress=progress,
    )
    surface = Surface(model, rows.slot_field, len(rows.fields), trained.state)
    held_out = rows.held_out
    logit = surface.logits(held_out.rows)
    return DepthResult(
        depth=len(model.hidden),
        sml=model.sml,
        quality=quality(logit, held_out.label),
        logit_variance=float(logit.var()),
        layers=tuple(activity(x) for x in surface.hidden(held_out.rows)),
        skipped=trained.skipped,
    )
