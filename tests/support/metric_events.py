"""Streams of events for these tests, made from a seed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from stream_ctr.batch import LEARN, PREDICT, Batch, RowChanges

Column = NDArray[np.generic]


def make_batch(
    action: list[int],
    impression: list[int],
    *,
    label: list[float] | None = None,
    served: list[float] | None = None,
    truth: list[float] | None = None,
    weight: float = 1.0,
) -> Batch:
    """A batch of rows without features; event time is 1000 ms an impression."""
    size = len(action)
    nan = [float("nan")] * size
    return Batch(
        rows=np.zeros((size, 1), np.int64),
        ratio=np.zeros((size, 1), np.float32),
        label=np.array(nan if label is None else label, np.float32),
        weight=np.full(size, weight, np.float32),
        action=np.array(action, np.uint8),
        served=np.array(nan if served is None else served, np.float32),
        time_ms=np.array(impression, np.int64) * 1000,
        impression=np.array(impression, np.int64),
        truth=np.array(nan if truth is None else truth, np.float32),
        changes=RowChanges.none(),
    )


def piece(batch: Batch, start: int, stop: int) -> Batch:
    """Rows start to stop of a batch."""
    part = slice(start, stop)
    return Batch(
        batch.rows[part],
        batch.ratio[part],
        batch.label[part],
        batch.weight[part],
        batch.action[part],
        batch.served[part],
        batch.time_ms[part],
        batch.impression[part],
        batch.truth[part],
        RowChanges.none(),
    )


def delayed_stream(
    events: int, seed: int, *, rate: float = 0.2, planted: bool = True
) -> tuple[Batch, NDArray[np.float32]]:
    """Impressions whose labels come later or at once, in an order with ties and stragglers.

    Returns the stream as one batch, and what the learner would say on each row. On LEARN rows the
    learner already knows the answer: whoever lets that into a metric shows it.
    """
    rng = np.random.default_rng(seed)
    logit = rng.normal(np.log(rate / (1 - rate)), 1.0, events)
    truth = 1 / (1 + np.exp(-logit))
    label = (rng.random(events) < truth).astype(np.float64)
    guess = 1 / (1 + np.exp(-(0.8 * logit + rng.normal(0, 0.3, events))))
    served = np.where(rng.random(events) < 0.3, guess * 0.9, np.nan)
    rows: list[tuple[float, int, int, float]] = []
    for n in range(events):
        delay = 0.0 if rng.random() < 0.2 else float(rng.integers(0, 60))
        if delay == 0.0:
            rows.append((n, n, PREDICT | LEARN, guess[n]))
        else:
            rows.append((n, n, PREDICT, guess[n]))
            rows.append((n + delay, n, LEARN, 0.999 if label[n] else 0.001))
    rows.sort(key=lambda row: (row[0], row[2] == LEARN))
    order = [row[1] for row in rows]
    action = [row[2] for row in rows]
    learns = [bool(a & LEARN) for a in action]
    batch = make_batch(
        action,
        order,
        label=[label[n] if known else float("nan") for n, known in zip(order, learns, strict=True)],
        served=[served[n] for n in order],
        truth=[float(truth[n]) if planted else float("nan") for n in order],
    )
    return batch, np.array([row[3] for row in rows], np.float32)
