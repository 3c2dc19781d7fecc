"""One update from a whole batch: behaviour shared with streams, and batch-only settings."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
import torch

from stream_ctr.batch import LEARN, PREDICT, Batch, RowChanges
from stream_ctr.config.learner import LearnerConfig
from stream_ctr.config.model import ModelConfig
from stream_ctr.config.optimizer import BaseRule, OptimizerConfig
from stream_ctr.errors import StateError
from stream_ctr.learners.torch.learner import TorchLearner
from stream_ctr.optim.count_ratios import count_ratios
from tests.support.learner_events import MULTI, SINGLE, Schema, chunks, make_batch, one_event, part
from tests.support.optimizer_oracle import Oracle

CPU = LearnerConfig(device="cpu", seed=5)
MODEL = ModelConfig(embedding=4, hidden=(6, 5), embedding_scale=0.3)
HELEN = OptimizerConfig(method="helen", perturb="both", rho=0.3, rho_dense=0.4, dense_rate=0.01)
schemas = pytest.mark.parametrize("schema", [SINGLE, MULTI], ids=["single", "multi"])


@pytest.fixture(autouse=True)
def _oracle_in_float64() -> Iterator[None]:
    """PyTorch's NAdam keeps its product of momenta in the default type."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def make(
    schema: Schema, optimizer: OptimizerConfig = HELEN, dtype: torch.dtype = torch.float32
) -> TorchLearner:
    return TorchLearner(MODEL, optimizer, CPU, schema.slot_field, schema.fields, dtype=dtype)


def without_recycling(schema: Schema, events: int, seed: int) -> Batch:
    """A stream in which no row is ever reassigned to another key."""
    batch = make_batch(schema, 16, seed=seed)
    again = np.random.default_rng(seed).integers(0, 16, events - 16)
    order = np.concatenate([np.arange(16), again])
    columns = {
        name: getattr(batch, name)[order]
        for name in ("rows", "ratio", "label", "weight", "action", "served", "time_ms", "impression", "truth")
    }
    return Batch(**columns, changes=batch.changes)


BATCHED = [
    HELEN,
    replace(HELEN, row_norm="table", dense_norm="global", row_rule="nadam", l2=0.02, warm_up_events=3),
    replace(HELEN, xi=0.2, counts="batch", row_rule="radam", dense_rule="adam"),
    replace(HELEN, counts="fixed", rows="dense", row_rule="adam", dense_rule="sgd", l2=0.02),
    replace(HELEN, method="asam", rho=0.5, row_rule="rmsprop", dense_rule="nadam"),
    replace(HELEN, method="sam", rho=0.5, rows="dense", row_rule="nadam", dense_rule="radam"),
    replace(HELEN, method="base", row_rule="sgd", dense_rule="rmsprop"),
]


@schemas
@pytest.mark.parametrize("optimizer", BATCHED)
def test_step_is_that_of_the_mean_loss(schema: Schema, optimizer: OptimizerConfig) -> None:
    learner = make(schema, optimizer, torch.float64)
    start = learner.state()
    oracle = Oracle(
        MODEL, optimizer, schema.slot_field, CPU.seed, start.values["layout"], start.arrays["dense.weight"]
    )
    for batch in chunks(without_recycling(schema, 45, seed=3), 9):
        result = learner.learn_batch(batch)
        assert not result.skipped.any()
        np.testing.assert_allclose(result.probability, oracle.learn_batch(batch), rtol=1e-6)
    state = learner.state()
    dense = np.concatenate([w.detach().numpy().ravel() for w in oracle.p.values()])
    np.testing.assert_allclose(state.arrays["dense.weight"], dense, rtol=1e-8, atol=1e-11)
    rows = np.stack([oracle.row[row].detach().numpy() for row in range(len(oracle.row))])
    np.testing.assert_allclose(state.arrays["rows.weight"], rows, rtol=1e-8, atol=1e-11)
    assert state.values["learned"] == 5


@schemas
@pytest.mark.parametrize("optimizer", [HELEN, BATCHED[1], BATCHED[2], BATCHED[4]])
def test_batch_of_one_event_is_a_step_of_the_stream_bit_for_bit(
    schema: Schema, optimizer: OptimizerConfig
) -> None:
    batch = make_batch(schema, 40, seed=4)
    streamed, batched = make(schema, optimizer), make(schema, optimizer)
    expected = streamed.learn(batch).probability
    found = np.concatenate([batched.learn_batch(piece).probability for piece in chunks(batch, 1)])
    assert streamed.state().equals(batched.state())
    learns = (batch.action & LEARN) > 0
    np.testing.assert_array_equal(found[learns], expected[learns])
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_counts_of_a_batch_of_one_make_helen_sam_for_each_row() -> None:
    batch = part(make_batch(SINGLE, 40, seed=8), 0, 16)
    batch.rows[:] = np.where(batch.rows < SINGLE.fields, batch.rows.max(axis=0), batch.rows)
    batch.changes.event[:] = 0  # every row exists from the first event on
    batch_counts, row_sam = make(SINGLE, replace(HELEN, counts="batch")), make(SINGLE, replace(HELEN, xi=1.0))
    for learner in (batch_counts, row_sam):
        learner.learn(batch)
    assert batch_counts.state().equals(row_sam.state())
    running = make(SINGLE)
    running.learn(batch)
    assert not running.state().equals(row_sam.state())


def test_ratios_of_known_counts_exclude_default_rows() -> None:
    count = np.array([50.0, 50.0, 10.0, 4.0, 8.0, 2.0, 0.0])
    field = np.array([0, 1, 0, 0, 1, 1, 1])
    expected = [0.0, 0.0, 1.0, 0.4, 1.0, 0.25, 0.0]
    np.testing.assert_array_equal(count_ratios(count, field, 2, 2), np.array(expected, np.float32))
    assert count_ratios(count[:2], field[:2], 2, 2).tolist() == [0.0, 0.0]


def test_predicted_events_change_nothing() -> None:
    batch = without_recycling(MULTI, 40, seed=6)
    both, learned = make(MULTI, replace(HELEN, row_rule="adam")), make(MULTI, replace(HELEN, row_rule="adam"))
    ready = replace(part(batch, 0, 16), action=np.full(16, PREDICT, np.uint8))
    for learner in (both, learned):
        learner.learn_batch(ready)
    assert both.state().values["learned"] == 0
    rest = part(batch, 16, 40)
    learns = (rest.action & LEARN) > 0
    assert 0 < learns.sum() < 24
    expected = both.predict(rest.rows)
    result = both.learn_batch(rest)
    columns = ("rows", "ratio", "label", "weight", "action", "served", "time_ms", "impression", "truth")
    learned.learn_batch(
        Batch(**{name: getattr(rest, name)[learns] for name in columns}, changes=RowChanges.none())
    )
    assert both.state().equals(learned.state())
    np.testing.assert_allclose(result.probability, expected, rtol=1e-5)


@pytest.mark.parametrize("optimizer", [HELEN, BATCHED[3], BATCHED[4]])
def test_one_non_finite_event_skips_the_whole_batch(optimizer: OptimizerConfig) -> None:
    batch = without_recycling(SINGLE, 30, seed=7)
    learner = make(SINGLE, optimizer)
    learner.learn_batch(batch)
    before = learner.state()
    weight = batch.weight.copy()
    weight[np.flatnonzero(batch.action & LEARN)[3]] = np.inf
    result = learner.learn_batch(replace(batch, weight=weight, changes=RowChanges.none()))
    np.testing.assert_array_equal(result.skipped, (batch.action & LEARN) > 0)
    assert np.isfinite(result.probability).all()
    assert learner.state().equals(before)


@pytest.mark.parametrize("rows", ["lazy", "dense"])
def test_dense_mode_steps_all_rows_and_lazy_mode_only_touched_ones(rows: Literal["lazy", "dense"]) -> None:
    batch = without_recycling(SINGLE, 30, seed=9)
    learner = make(SINGLE, replace(HELEN, rows=rows, row_rule="adam"))
    learner.learn_batch(batch)
    before = learner.state().arrays
    learner.learn_batch(one_event(batch, 20, label=1.0))
    after = learner.state().arrays
    moved = (before["rows.weight"] != after["rows.weight"]).any(axis=1)
    used = np.isin(np.arange(len(moved)), batch.rows[20])
    # A non-zero first moment moves its row without a new gradient, if the row is stepped.
    waiting = (before["rows.mean"] != 0.0).any(axis=1) & ~used
    assert waiting.sum() > 10
    assert moved[used].any()
    assert moved[waiting].all() if rows == "dense" else not moved[~used].any()
    stepped = after["rows.step"][:, 0] - before["rows.step"][:, 0]
    np.testing.assert_array_equal(stepped, np.ones(len(used)) if rows == "dense" else used)


def test_a_row_reassigned_inside_a_batch_is_rejected_and_changes_nothing() -> None:
    batch = without_recycling(SINGLE, 30, seed=9)
    row = int(batch.rows[2, 0])
    late = RowChanges(
        np.append(batch.changes.event, 20),
        np.append(batch.changes.row, row),
        np.append(batch.changes.field, np.int32(0)),
        np.append(batch.changes.key, np.uint64(77)),
    )
    learner = make(SINGLE)
    with pytest.raises(StateError, match=rf"row {row} is used by event \d+ of the batch .* for event 20"):
        learner.learn_batch(replace(batch, changes=late))
    assert learner.state().values["learned"] == 0


def test_an_empty_batch_changes_nothing() -> None:
    learner = make(SINGLE)
    before = learner.state()
    assert len(learner.learn_batch(part(make_batch(SINGLE, 3, seed=1), 0, 0)).probability) == 0
    assert learner.state().equals(before)


RULES: list[BaseRule] = ["sgd", "adagrad", "rmsprop", "adam", "nadam", "radam"]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("method", ["asam", "helen"])
def test_a_saved_state_of_every_rule_resumes_bit_for_bit(rule: BaseRule, method: str) -> None:
    optimizer = replace(
        HELEN, method="asam" if method == "asam" else "helen", row_rule=rule, dense_rule=rule, l2=0.01
    )
    batch = make_batch(MULTI, 40, seed=10)
    whole, resumed = make(MULTI, optimizer), make(MULTI, optimizer)
    whole.learn(part(batch, 0, 25))
    resumed.load_state(whole.state())
    for learner in (whole, resumed):
        learner.learn(part(batch, 25, 40))
    assert resumed.state().equals(whole.state())


def test_a_stream_continues_from_a_batch_run() -> None:
    batch = without_recycling(SINGLE, 40, seed=11)
    history, stream = replace(HELEN, rows="dense", counts="fixed", row_rule="adam"), HELEN
    trained = make(SINGLE, history)
    trained.learn_batch(part(batch, 0, 30))
    going_on = make(SINGLE, replace(stream, row_rule="adam"))
    going_on.load_state(trained.state())
    going_on.learn(part(batch, 30, 40))
    steps = int(((batch.action[30:] & LEARN) > 0).sum())
    assert going_on.state().values["learned"] == 1 + steps
    assert not going_on.state().equals(trained.state())
