"""One batch run of one model and optimizer over prepared data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from stream_ctr.config.features import FeaturesConfig
from stream_ctr.config.learner import LearnerConfig
from stream_ctr.config.model import ModelConfig
from stream_ctr.config.optimizer import OptimizerConfig
from stream_ctr.learners.build import build_batch_learner
from stream_ctr.offline.encoded import EncodedRows
from stream_ctr.offline.feed import Feed
from stream_ctr.offline.fit import BatchLearner, Fit, Progress, fit
from stream_ctr.offline.protocol import BatchProtocol, check_protocol
from stream_ctr.offline.split import PARTS, split_rows
from stream_ctr.offline.vocabulary import training_vocabulary


@dataclass(frozen=True, slots=True)
class Prepared:
    """Split and counted data, shared by all models, optimizers and seeds that are compared."""

    feed: Feed
    part: NDArray[np.uint8]
    """[N] TRAINING, VALIDATION or TEST."""
    features: FeaturesConfig
    """Feature configuration with the fields of the data."""

    def sizes(self) -> dict[str, int]:
        """Rows of each part by name."""
        counted = np.bincount(self.part, minlength=len(PARTS)).tolist()
        return dict(zip(PARTS, counted, strict=True))


def prepare(encoded: EncodedRows, protocol: BatchProtocol, features: FeaturesConfig) -> Prepared:
    """Split the rows and count the values of the training rows.

    Raises:
        UsageError: a setting of the protocol is outside its range.
        DataError: there are too few rows.
    """
    check_protocol(protocol)
    features = replace(features, preset="", fields=encoded.fields)
    part = split_rows(protocol, encoded.time_ms)
    vocabulary = training_vocabulary(encoded, part, features)
    return Prepared(Feed(encoded, vocabulary), part, features)


def run(
    prepared: Prepared,
    protocol: BatchProtocol,
    model: ModelConfig,
    optimizer: OptimizerConfig,
    learner: LearnerConfig,
    progress: Callable[[Progress], None] = lambda at: None,
) -> Fit:
    """Train and test one combination of model, optimizer and seed.

    Raises:
        ModelError: the settings are incompatible, or no epoch gave finite predictions.
        DataError: the AUC of the validation rows is undefined.
    """
    encoded = prepared.feed.encoded

    def make_learner(rate: float) -> BatchLearner:
        slots, fields = encoded.slot_field.tolist(), len(encoded.fields)
        return build_batch_learner(model, with_rate(optimizer, rate), learner, slots, fields)

    rates = (optimizer.row_rate, optimizer.dense_rate)
    return fit(make_learner, prepared.feed, prepared.part, protocol, rates, progress)


def with_rate(optimizer: OptimizerConfig, factor: float) -> OptimizerConfig:
    """The optimizer with all learning rates multiplied by ``factor``."""
    return replace(
        optimizer,
        row_rate=optimizer.row_rate * factor,
        dense_rate=optimizer.dense_rate * factor,
        first_order_rate=optimizer.first_order_rate * factor,
    )
