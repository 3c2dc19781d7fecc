"""Epochs over the training rows, stopped by the validation AUC; the best epoch's weights are what is kept."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from stream_ctr.batch import Batch
from stream_ctr.errors import DataError, ModelError
from stream_ctr.learners.base import LearnResult
from stream_ctr.metrics.log_loss import log_losses
from stream_ctr.offline.feed import PREDICT_ROWS, Feed
from stream_ctr.offline.protocol import MINIMUM_RATE, BatchProtocol, batch_size_for
from stream_ctr.offline.scores import Scores, score
from stream_ctr.offline.split import TEST, TRAINING, VALIDATION, shuffled
from stream_ctr.state.state import State


class BatchLearner(Protocol):
    """What a batch run needs of a learner: one update per batch, along the mean gradient."""

    def learn_batch(self, batch: Batch) -> LearnResult:
        """The batch's row changes, then one update of the mean loss; probabilities as before it."""
        ...

    def predict(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Click probabilities [B] of rows [B, S]."""
        ...

    def state(self) -> State:
        """A copy of weights and optimizer state."""
        ...

    def load_state(self, state: State) -> None:
        """Become the learner that handed out ``state``."""
        ...


MakeLearner = Callable[[float], BatchLearner]
"""A new learner whose learning rates are those of the configuration times a factor."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a fit is, told after every batch."""

    epoch: int
    """From 1."""
    rows: int
    """Training rows learned in this epoch."""
    of: int
    """Training rows of an epoch."""
    best_auc: float
    """Best validation AUC so far, NaN in the first epoch."""


@dataclass(frozen=True, slots=True)
class Epoch:
    """One pass over the training rows."""

    epoch: int
    """From 1."""
    training_log_loss: float
    """Mean over the epoch, each row scored before its own update."""
    validation: Scores
    rate: float
    """Factor on the configured learning rates in this epoch."""
    seconds: float
    """Wall time of training and validation."""


@dataclass(frozen=True, slots=True)
class Fit:
    """What a fit came to."""

    epochs: list[Epoch]
    best: Epoch
    state: State
    """The learner's state after the best epoch."""
    test: Scores | None
    """Test rows under the best epoch's weights; None without test rows."""
    batch_size: int
    updates: int
    """Updates of all epochs together."""
    skipped: int
    """Updates that were left out because they were not finite."""
    seconds: float
    """Wall time of all epochs together."""


def fit(
    make_learner: MakeLearner,
    feed: Feed,
    part: NDArray[np.uint8],
    protocol: BatchProtocol,
    rates: tuple[float, ...],
    progress: Callable[[Progress], None] = lambda at: None,
) -> Fit:
    """Train until the validation AUC no longer rises; ``part`` [N] as the split gives it.

    After an epoch whose AUC is no better than the best, the learning rates are reduced; after ``patience``
    such epochs in a row it is over. ``rates`` are the configured learning rates: none is reduced below 1e-6.

    Raises:
        DataError: the validation rows hold no click, or nothing but clicks.
        ModelError: no epoch gave finite predictions.
    """
    training = np.flatnonzero(part == TRAINING)
    validation = np.flatnonzero(part == VALIDATION)
    _check_labels(feed.encoded.label[validation])
    size = batch_size_for(protocol, len(training))
    floor = min(1.0, MINIMUM_RATE / min(rates))
    learner, rate = make_learner(1.0), 1.0
    epochs: list[Epoch] = []
    best: Epoch | None = None
    state, waited, updates, skipped = State(), 0, 0, 0
    began = time.monotonic()
    for number in range(1, protocol.epochs + 1):
        epoch_began = time.monotonic()
        so_far = best.validation.auc if best else float("nan")
        loss = 0.0
        order = shuffled(training, protocol.seed, number)
        for start in range(0, len(order), size):
            batch = feed.batch(order[start : start + size], first=not updates)
            result = learner.learn_batch(batch)
            loss += float(log_losses(result.probability, batch.label.astype(np.uint8)).sum())
            skipped += bool(result.skipped.any())
            updates += 1
            progress(Progress(number, start + len(batch), len(order), so_far))
        scores = score(predict(learner, feed, validation), feed.encoded.label[validation])
        seconds = time.monotonic() - epoch_began
        epochs.append(Epoch(number, loss / len(order), scores, rate, seconds))
        if scores.auc > (best.validation.auc + protocol.minimum_gain if best else -1.0):
            best, state, waited = epochs[-1], learner.state(), 0
            continue
        waited += 1
        if waited >= protocol.patience:
            break
        reduced = max(rate * protocol.rate_factor, floor)
        if reduced < rate and number < protocol.epochs:
            learner, rate = _with_rate(make_learner, learner.state(), reduced), reduced
    seconds = time.monotonic() - began
    if best is None:
        raise ModelError(
            f"after {len(epochs)} epochs the predictions are not finite: a learning rate or a radius is too "
            "large"
        )
    learner = _with_rate(make_learner, state, rate)
    test = np.flatnonzero(part == TEST)
    tested = score(predict(learner, feed, test), feed.encoded.label[test]) if len(test) else None
    return Fit(epochs, best, state, tested, size, updates, skipped, seconds)


def predict(learner: BatchLearner, feed: Feed, index: NDArray[np.int64]) -> NDArray[np.float32]:
    """Click probabilities [B] of the examples ``index`` [B]."""
    found = np.empty(len(index), np.float32)
    for start in range(0, len(index), PREDICT_ROWS):
        part = index[start : start + PREDICT_ROWS]
        found[start : start + len(part)] = learner.predict(feed.rows(part))
    return found


def _with_rate(make_learner: MakeLearner, state: State, rate: float) -> BatchLearner:
    learner = make_learner(rate)
    learner.load_state(state)
    return learner


def _check_labels(label: NDArray[np.uint8]) -> None:
    clicks = int(label.sum())
    if clicks in (0, len(label)):
        raise DataError(
            f"the {len(label)} validation rows hold {clicks} clicks: without both clicks and others there "
            "is no AUC to stop on; give more rows, or other --shares or --split"
        )
