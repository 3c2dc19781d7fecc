"""Reward model for off-policy evaluation: the default learner, which predicts each row before learning it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import islice

import numpy as np

from stream_ctr.config.features import FeaturesConfig
from stream_ctr.config.learner import LearnerConfig
from stream_ctr.config.model import ModelConfig
from stream_ctr.config.optimizer import OptimizerConfig
from stream_ctr.datasets.open_bandit import OPEN_BANDIT_FIELDS, Round
from stream_ctr.errors import DataError
from stream_ctr.experiments.statistics.off_policy import Logged
from stream_ctr.features.keys.encoder import KeyEncoder
from stream_ctr.features.rows.tables import FeatureTables
from stream_ctr.learners.build import build_learner
from stream_ctr.pipeline.from_examples import direct_batches

CHUNK = 50
"""Rows per chunk. All rows of a chunk are scored before any of them is learned."""


def against_uniform(rounds: Iterable[Round], progress: Callable[[int], object]) -> Logged:
    """The log's rows with the uniform policy as the target; ``progress`` receives the number of rows done.

    Every candidate item of a row is scored with weights learned from earlier rows only.

    Raises:
        DataError: the log is empty, or a row has no propensity.
    """
    encoder = KeyEncoder(OPEN_BANDIT_FIELDS)
    tables = FeatureTables(encoder.slot_field, len(OPEN_BANDIT_FIELDS), FeaturesConfig())
    slots = encoder.slot_field.tolist()
    learner = build_learner(ModelConfig(), OptimizerConfig(), LearnerConfig(), slots, len(OPEN_BANDIT_FIELDS))
    columns: list[tuple[float, float, float, float, float]] = []
    users: dict[str, int] = {}
    cluster: list[int] = []
    remaining = iter(rounds)
    while chunk := list(islice(remaining, CHUNK)):
        keys = encoder.peek_keys_many([each.shown.features for each in chunk])
        shown = learner.predict(tables.lookup(keys)).tolist()
        for each, predicted in zip(chunk, shown, strict=True):
            candidates = encoder.peek_keys_many(list(each.candidates()))
            expected = float(learner.predict(tables.lookup(candidates)).mean())
            propensity = each.shown.propensity
            columns.append(
                (
                    float(each.shown.label),
                    np.nan if propensity is None else propensity,
                    1.0 / len(candidates),
                    predicted,
                    expected,
                )
            )
            cluster.append(users.setdefault(each.shown.user, len(users)))
        for batch in direct_batches([each.shown for each in chunk], encoder, tables, CHUNK):
            learner.learn(batch)
        progress(len(columns))
    if not columns:
        raise DataError("the log contains no rows")
    reward, propensities, target, scored, averages = np.array(columns, np.float64).T
    return Logged(reward, propensities, target, scored, averages, np.array(cluster, np.int64))
