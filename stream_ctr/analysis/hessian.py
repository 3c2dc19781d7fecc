"""Sharpness by frequency: the top Hessian eigenvalue of every feature's embedding row.

Helen (Zhu et al. 2024), Table 1 and section 4.3: for feature k of field j, take the d x d diagonal block of
the Hessian of the mean log loss of n events at its embedding row, and its largest eigenvalue lambda_k;
correlate lambda_k with N_k, the number of events that contain the feature.

The blocks are exact. An event's loss depends on a row of the field only through the field's pooled embedding
e_b of that event. Therefore d Hessian-vector products over all events at once give the d x d Hessian H_b of
every event at its own e_b. The block of row k is (1 / n) sum_b w_bk^2 H_b over the events that contain it,
where w_bk is the row's weight in the pooling, 1 if the field has one value.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from stream_ctr.analysis.surface import CHUNK, Surface, log_loss


@dataclass(frozen=True, slots=True)
class Curvature:
    """Curvature at the K features of one field, in the order of their rows."""

    events: int
    """n, the number of events in the mean loss."""
    row: NDArray[np.int64]
    """[K] row of the feature."""
    count: NDArray[np.int64]
    """[K] N_k, the number of events that contain the feature."""
    eigenvalue: NDArray[np.float64]
    """[K] lambda_k, the largest eigenvalue of its block."""
    gradient: NDArray[np.float64]
    """[K] |g_k|, norm of the gradient of the mean loss at its row."""

    @property
    def share(self) -> NDArray[np.float64]:
        """[K] n / N_k, which turns a mean over all events into one over the feature's own events."""
        return self.events / self.count

    def keep(self, chosen: NDArray[np.bool_]) -> Curvature:
        """The chosen features [K]."""
        return Curvature(
            self.events,
            self.row[chosen],
            self.count[chosen],
            self.eigenvalue[chosen],
            self.gradient[chosen],
        )


@dataclass(frozen=True, slots=True)
class Correlation:
    """Pearson's r with its 95 % interval by Fisher's transformation; NaN if a column is constant."""

    r: float
    low: float
    high: float


def pearson(x: NDArray[np.float64], y: NDArray[np.float64]) -> Correlation:
    """Correlation of two columns [K].

    >>> round(pearson(np.array([1.0, 2.0, 3.0]), np.array([2.0, 4.0, 6.0])).r, 6)
    1.0
    """
    nan = float("nan")
    # A column that varies only by rounding must not produce a correlation.
    if len(x) < 3 or any(np.ptp(column) <= 1e-12 * np.abs(column).max() for column in (x, y)):
        return Correlation(nan, nan, nan)
    found = stats.pearsonr(x, y)
    if len(x) < 4:
        return Correlation(float(found.statistic), nan, nan)
    interval = found.confidence_interval(0.95)
    return Correlation(float(found.statistic), float(interval.low), float(interval.high))


@dataclass(frozen=True, slots=True)
class FrequencyCorrelations:
    """Correlations of sharpness and gradient with frequency.

    The loss is a mean over all events, so lambda_k and g_k grow with N_k by construction. Both are therefore
    also given per event of the feature, multiplied by n / N_k.
    """

    eigenvalue: Correlation
    """r(lambda, N)."""
    gradient: Correlation
    """r(|g|, N)."""
    eigenvalue_per_event: Correlation
    """r(lambda n / N, N)."""
    gradient_per_event: Correlation
    """r(|g| n / N, N)."""

    @classmethod
    def of(cls, found: Curvature) -> FrequencyCorrelations:
        """The correlations over the features of a field."""
        count = found.count.astype(np.float64)
        return cls(
            pearson(found.eigenvalue, count),
            pearson(found.gradient, count),
            pearson(found.eigenvalue * found.share, count),
            pearson(found.gradient * found.share, count),
        )


def curvature(surface: Surface, rows: NDArray[np.int64], label: NDArray[np.float64], field: int) -> Curvature:
    """Curvature at all features of ``field`` in events with rows [n, S] and labels [n].

    Default rows are excluded, because each represents many values.
    """
    own = rows[:, surface.slot_field == field]
    known = own >= surface.fields
    index, place = np.unique(own[known], return_inverse=True)
    d = surface.embedding
    gradient = torch.zeros((len(index), d), dtype=torch.float64)
    block = torch.zeros((len(index), d, d), dtype=torch.float64)
    event_of = np.broadcast_to(np.arange(len(rows))[:, None], own.shape)[known]
    held = np.maximum((own >= 0).sum(1), 1) if surface.mean_pooling else np.ones(len(rows))
    weight = 1.0 / held[event_of]
    for start in range(0, len(rows), CHUNK):
        part = slice(start, start + CHUNK)
        g, h = event_derivatives(surface, rows[part], label[part], field)
        inside = (event_of >= start) & (event_of < start + CHUNK)
        b, k, w = (torch.from_numpy(each[inside]) for each in (event_of - start, place, weight))
        gradient.index_add_(0, k, g[b] * w[:, None])
        block.index_add_(0, k, h[b] * w.square()[:, None, None])
    n = len(rows)
    top = torch.linalg.eigvalsh(block / n)[:, -1].numpy() if len(index) else np.zeros(0)
    count = np.bincount(place, minlength=len(index)).astype(np.int64)
    return Curvature(n, index, count, top, torch.linalg.vector_norm(gradient / n, dim=1).numpy())


def event_derivatives(
    surface: Surface, rows: NDArray[np.int64], label: NDArray[np.float64], field: int
) -> tuple[Tensor, Tensor]:
    """Gradient [B, d] and Hessian [B, d, d] of each event's loss at its pooled embedding of ``field``.

    Uses d Hessian-vector products, each over all B events: no event's loss depends on another's embedding.
    """
    x, d = surface.pooled(rows), surface.embedding
    e = x[:, field, :d].clone().requires_grad_()
    filled = torch.cat([e, x[:, field, d:]], dim=-1).unsqueeze(1)
    z = surface.logit(torch.cat([x[:, :field], filled, x[:, field + 1 :]], dim=1))
    (g,) = torch.autograd.grad(log_loss(z, torch.from_numpy(label)).sum(), e, create_graph=True)
    columns = [torch.autograd.grad(g[:, i].sum(), e, retain_graph=True)[0] for i in range(d)]
    return g.detach(), torch.stack(columns, dim=-1)


LARGEST_FIELD = 500
"""A field with more distinct values is not chosen by default, because most of its values are too rare."""


def default_field(
    rows: NDArray[np.int64], slot_field: NDArray[np.int64], fields: int, candidates: list[int], minimum: int
) -> int:
    """The candidate field with the most features that occur in at least ``minimum`` events with rows [n, S].

    Only fields with at most LARGEST_FIELD distinct features are considered, or all if none is that small. The
    first wins a tie.
    """
    counts = []
    for field in candidates:
        own = rows[:, slot_field == field]
        counts.append(np.unique(own[own >= fields], return_counts=True)[1])
    often = np.array([(count >= minimum).sum() for count in counts])
    small = np.array([len(count) <= LARGEST_FIELD for count in counts])
    return candidates[int(np.argmax(np.where(small, often, -1) if small.any() else often))]
