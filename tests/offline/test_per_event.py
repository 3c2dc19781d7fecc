"""Optimizer state in units of single events: equal to the accumulators of a stream over the same events."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from stream_ctr.batch import LEARN, PREDICT, Batch, RowChanges
from stream_ctr.config.learner import LearnerConfig
from stream_ctr.config.model import ModelConfig
from stream_ctr.config.optimizer import BaseRule, OptimizerConfig
from stream_ctr.learners.torch.learner import TorchLearner
from stream_ctr.offline.presets import batch_preset
from stream_ctr.offline.warm_start import per_event

SIZE = 8
EVENTS = 64 * SIZE
FIELDS = 2
MODEL = ModelConfig(embedding=3, hidden=(4,), sml=False, embedding_scale=0.5)


def optimizer(rule: BaseRule) -> OptimizerConfig:
    """Steps too small to move anything, so that both ways see the same gradients."""
    still = replace(batch_preset("adam"), row_rule=rule, dense_rule=rule, counts="stream")
    return replace(still, row_rate=1e-12, dense_rate=1e-12, row_initial=1e-3, dense_initial=1e-4)


def events() -> Batch:
    """Every row occurs once per batch of SIZE events: event b has row b % SIZE of each field."""
    place = np.arange(EVENTS) % SIZE
    rows = np.stack([FIELDS + place, FIELDS + SIZE + place], axis=1)
    used = FIELDS + FIELDS * SIZE
    field = np.concatenate([[0, 1], np.repeat([0, 1], SIZE)]).astype(np.int32)
    key = np.arange(used, dtype=np.uint64) * (np.arange(used) >= FIELDS)
    nan = np.full(EVENTS, np.nan, np.float32)
    return Batch(
        rows=rows,
        ratio=np.ones(rows.shape, np.float32),
        label=(np.random.default_rng(5).random(EVENTS) < 0.5).astype(np.float32),
        weight=np.ones(EVENTS, np.float32),
        action=np.full(EVENTS, PREDICT | LEARN, np.uint8),
        served=nan,
        time_ms=np.zeros(EVENTS, np.int64),
        impression=np.arange(EVENTS),
        truth=nan,
        changes=RowChanges(np.zeros(used, np.int64), np.arange(used), field, key.astype(np.uint64)),
    )


def part(batch: Batch, start: int) -> Batch:
    """SIZE events of it; the first ones bring all rows."""
    chosen = slice(start, start + SIZE)
    names = ("rows", "ratio", "label", "weight", "action", "served", "time_ms", "impression", "truth")
    columns = {name: getattr(batch, name)[chosen] for name in names}
    return Batch(**columns, changes=batch.changes if start == 0 else RowChanges.none())


@pytest.mark.parametrize("rule", ["sgd", "adagrad", "rmsprop", "adam"])
def test_accumulators_are_those_of_a_stream_over_the_same_events(rule: BaseRule) -> None:
    batch, config = events(), optimizer(rule)
    cpu = LearnerConfig(device="cpu")
    streamed = TorchLearner(MODEL, config, cpu, [0, 1], FIELDS)
    streamed.learn(batch)
    batched = TorchLearner(MODEL, config, cpu, [0, 1], FIELDS)
    for start in range(0, EVENTS, SIZE):
        batched.learn_batch(part(batch, start))
    before = batched.state()
    found, expected = per_event(before, config, SIZE), streamed.state()
    assert found.arrays.keys() == expected.arrays.keys()
    assert found.values == before.values
    for name, array in found.arrays.items():
        if name in ("rows.square", "rows.mean"):
            # In both ways, a row sees each event alone.
            assert np.allclose(array, expected.arrays[name], rtol=1e-3, atol=1e-7), name
        elif name == "dense.square":
            # Only in expectation: the gradients of a batch scatter more than their mean.
            ratio = array.sum() / expected.arrays[name].sum()
            if rule == "adam":  # averages from 0 on, over fewer steps: what the bias correction makes of them
                ratio *= (1.0 - 0.999**EVENTS) / (1.0 - 0.999 ** (EVENTS // SIZE))
            assert 0.4 < ratio < 2.5, name
            assert before.arrays[name].sum() < array.sum() or rule == "sgd"
        else:
            assert np.array_equal(array, before.arrays[name]), name


def test_a_batch_size_of_one_changes_nothing() -> None:
    learner = TorchLearner(MODEL, optimizer("adam"), LearnerConfig(device="cpu"), [0, 1], FIELDS)
    learner.learn_batch(part(events(), 0))
    assert per_event(learner.state(), optimizer("adam"), 1).equals(learner.state())
