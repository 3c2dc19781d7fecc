"""Epochs, early stopping and the kept weights, with the real learner."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from stream_ctr.config.features import FeaturesConfig
from stream_ctr.config.learner import LearnerConfig
from stream_ctr.config.model import ModelConfig
from stream_ctr.config.optimizer import OptimizerConfig
from stream_ctr.errors import DataError, ModelError
from stream_ctr.learners.build import build_batch_learner
from stream_ctr.offline.fit import Fit, predict
from stream_ctr.offline.presets import batch_preset
from stream_ctr.offline.protocol import BatchProtocol
from stream_ctr.offline.run import Prepared, prepare, run, with_rate
from stream_ctr.offline.scores import score
from stream_ctr.offline.split import TEST, VALIDATION
from tests.support.planted_dataset import Made, columns, prepared

MODEL = ModelConfig(embedding=4, hidden=(8,), sml=False, embedding_scale=0.1)
FAST = with_rate(batch_preset("adam"), 30.0)
"""A learner that learns and overfits within a few epochs."""
CPU = LearnerConfig(device="cpu")
PROTOCOL = BatchProtocol(epochs=12, patience=3, rate_factor=1.0, batch_size=64)


def fitted(
    made: Prepared,
    protocol: BatchProtocol = PROTOCOL,
    optimizer: OptimizerConfig = FAST,
    model: ModelConfig = MODEL,
) -> Fit:
    return run(made, protocol, model, optimizer, CPU)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return prepared(tmp_path_factory.mktemp("columns"), PROTOCOL)


@pytest.fixture(scope="module")
def fit(made: Prepared) -> Fit:
    return fitted(made)


def test_the_best_epoch_is_kept_and_patience_ends_the_fit(made: Prepared, fit: Fit) -> None:
    aucs = [epoch.validation.auc for epoch in fit.epochs]
    assert fit.best.validation.auc == max(aucs) > 0.6
    assert fit.best.epoch == 1 + int(np.argmax(aucs))
    assert len(fit.epochs) == fit.best.epoch + 3 < 12, "overfits, and is stopped"
    assert fit.epochs[-1].training_log_loss < fit.epochs[0].training_log_loss
    # The weights equal those of a fit that ends at this epoch.
    ended = fitted(made, replace(PROTOCOL, epochs=fit.best.epoch))
    assert fit.state.equals(ended.state)
    assert fit.test == ended.test


def test_scores_are_those_of_the_kept_weights(made: Prepared, fit: Fit) -> None:
    encoded = made.feed.encoded
    learner = build_batch_learner(MODEL, FAST, CPU, encoded.slot_field.tolist(), len(encoded.fields))
    learner.load_state(fit.state)
    for part, scores in ((VALIDATION, fit.best.validation), (TEST, fit.test)):
        index = np.flatnonzero(made.part == part)
        probability = learner.predict(made.feed.rows(index))
        assert np.array_equal(probability, predict(learner, made.feed, index))
        assert score(probability, encoded.label[index]) == scores


def test_a_fit_is_a_function_of_its_settings(made: Prepared, fit: Fit) -> None:
    again, other = fitted(made), fitted(made, replace(PROTOCOL, seed=2))
    assert fit.state.equals(again.state)
    assert [e.validation for e in fit.epochs] == [e.validation for e in again.epochs]
    assert not fit.state.equals(other.state)


def test_every_training_row_is_learned_once_per_epoch(made: Prepared, fit: Fit) -> None:
    training = made.sizes()["training"]
    assert fit.updates == len(fit.epochs) * -(-training // 64)
    progress: list[tuple[int, int]] = []
    run(
        made,
        replace(PROTOCOL, epochs=2, patience=5),
        MODEL,
        FAST,
        CPU,
        lambda at: progress.append((at.epoch, at.rows)),
    )
    assert [epoch for epoch, rows in progress if rows == training] == [1, 2]


def test_a_worse_epoch_reduces_the_rates(made: Prepared, fit: Fit) -> None:
    reduced = fitted(made, replace(PROTOCOL, rate_factor=0.1))
    best, rate, expected = -1.0, 1.0, []
    for epoch in reduced.epochs:
        expected.append(rate)
        if epoch.validation.auc > best + PROTOCOL.minimum_gain:
            best = epoch.validation.auc
        else:
            rate = max(0.1 * rate, 1e-6 / min(FAST.row_rate, FAST.dense_rate))
    assert [epoch.rate for epoch in reduced.epochs] == pytest.approx(expected)
    assert expected[-1] < 1.0
    assert all(epoch.rate == 1.0 for epoch in fit.epochs)


def test_no_rate_goes_below_the_published_floor(made: Prepared) -> None:
    slow = with_rate(batch_preset("adam"), 2e-3)  # 2e-6
    flat = fitted(made, replace(PROTOCOL, rate_factor=1e-3, minimum_gain=0.5, patience=4), slow)
    assert [epoch.rate for epoch in flat.epochs] == [1.0, 1.0, 0.5, 0.5, 0.5]


@pytest.mark.parametrize("name", ["sam", "helen"])
def test_two_passes_dense_rows_and_dropout_work_in_the_protocol(made: Prepared, name: str) -> None:
    protocol = replace(PROTOCOL, epochs=1)
    plain = fitted(made, protocol, replace(FAST, method="base"))
    optimizer = replace(batch_preset(name), row_rate=FAST.row_rate, dense_rate=FAST.dense_rate)
    states = [
        plain.state,
        fitted(made, protocol, optimizer).state,
        fitted(made, protocol, replace(optimizer, rows="dense")).state,
        fitted(made, protocol, optimizer, replace(MODEL, dropout=0.3)).state,
    ]
    for number, state in enumerate(states):
        assert not any(state.equals(other) for other in states[:number])


def test_predictions_are_made_without_dropout(made: Prepared) -> None:
    encoded = made.feed.encoded
    slots = encoded.slot_field.tolist()
    first = made.feed.batch(np.arange(32), first=True)
    rows = made.feed.rows(np.arange(200))
    found = []
    for rate in (0.0, 0.5):
        learner = build_batch_learner(replace(MODEL, dropout=rate), FAST, CPU, slots, len(encoded.fields))
        learner.learn_batch(replace(first, action=np.full(32, 1, np.uint8)))  # rows are made, nothing learned
        found.append(learner.predict(rows))
    assert np.array_equal(found[0], found[1])


def test_the_same_masks_are_used_in_both_passes(made: Prepared) -> None:
    """A perturbation of length 0 changes nothing, also with dropout."""
    protocol, model = replace(PROTOCOL, epochs=1), replace(MODEL, dropout=0.4)
    tiny = replace(batch_preset("helen"), rho=1e-30, rho_dense=1e-30, xi=1.0)
    one, two = fitted(made, protocol, batch_preset("adam"), model), fitted(made, protocol, tiny, model)
    assert one.state.equals(two.state)


def test_validation_rows_without_a_click_are_rejected(tmp_path: Path) -> None:
    nobody = prepared(tmp_path, PROTOCOL, Made(positive=False))
    with pytest.raises(DataError, match=r"the \d+ validation rows have 0 clicks"):
        fitted(nobody)


def test_divergence_is_reported(made: Prepared) -> None:
    with pytest.raises(ModelError, match="after 3 epochs the predictions are not finite"):
        fitted(made, PROTOCOL, with_rate(replace(FAST, row_rule="sgd", dense_rule="sgd"), 1e30))


def test_without_test_rows_there_is_no_test(tmp_path: Path) -> None:
    protocol = replace(PROTOCOL, epochs=1, shares=(9, 1, 0))
    assert fitted(prepare(columns(tmp_path), protocol, FeaturesConfig()), protocol).test is None
