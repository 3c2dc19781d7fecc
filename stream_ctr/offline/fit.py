"""Training in epochs with early stopping on the validation AUC; keeps the weights of the best epoch."""

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
    """A learner that makes one update per batch, along the mean gradient."""

    def learn_batch(self, batch: Batch) -> LearnResult:
        """Apply the batch's row changes, then one update of the mean loss; probabilities from before it."""
        ...

    def predict(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Click probabilities [B] of rows [B, S]."""
        ...

    def state(self) -> State:
        """A copy of weights and optimizer state."""
        ...

    def load_state(self, state: State) -> None:
        """Restore ``state``."""
        ...


MakeLearner = Callable[[float], BatchLearner]
"""Makes a learner whose learning rates are the configured ones times a factor."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Progress of a fit, reported after every batch."""

    epoch: int
    """From 1."""
    rows: int
    """Training rows learned in this epoch."""
    of: int
    """Training rows per epoch."""
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
    """Factor on the configured learning rates during this epoch."""
    seconds: float
    """Wall time of training and validation."""


@dataclass(frozen=True, slots=True)
class Fit:
    """Result of a fit."""

    epochs: list[Epoch]
    best: Epoch
    state: State
    """The learner's state after the best epoch."""
    test: Scores | None
    """Scores on the test rows with the best epoch's weights; None without test rows."""
    batch_size: int
    updates: int
    """Updates over all epochs."""
    skipped: int
    """Updates skipped because they were not finite."""
    seconds: float
    """Wall time over all epochs."""


def fit(
    make_learner: MakeLearner,
    feed: Feed,
    part: NDArray[np.uint8],
    protocol: BatchProtocol,
    rates: tuple[float, ...],
    progress: Callable[[Progress], None] = lambda at: None,
) -> Fit:
    """Train until the validation AUC stops rising; ``part`` [N] is the output of the split.

    An epoch that does not improve the best AUC reduces the learning rates; ``patience`` such epochs in a row
    end the training. ``rates`` are the configured learning rates; none is reduced below 1e-6.

    Raises:
        DataError: the validation rows are all clicks or all non-clicks.
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
            f"after {len(epochs)} epochs the predictions are not finite; reduce the learning rates or radii"
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
            f"the {len(label)} validation rows have {clicks} clicks: early stopping needs clicks and "
            "non-clicks for the AUC; provide more rows, or change --shares or --split"
        )
