"""The reference learner against the papers' formulas; restoring states and skipping updates."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
import torch

from stream_ctr.batch import LEARN, Batch, RowChanges
from stream_ctr.config.learner import LearnerConfig
from stream_ctr.config.model import ModelConfig
from stream_ctr.config.optimizer import OptimizerConfig
from stream_ctr.errors import ModelError, StateError
from stream_ctr.learners.compiled.rows import FIRST_CAPACITY
from stream_ctr.learners.torch.learner import TorchLearner
from stream_ctr.state.state import State
from tests.support.learner_events import MULTI, SINGLE, Schema, chunks, make_batch, one_event, part
from tests.support.optimizer_oracle import Oracle

CPU = LearnerConfig(device="cpu", seed=5)
MODEL = ModelConfig(embedding=4, hidden=(6, 5), embedding_scale=0.3)
HELEN = OptimizerConfig(method="helen", perturb="both", rho=0.3, rho_dense=0.4, dense_rate=0.01)


def make(
    schema: Schema,
    model: ModelConfig = MODEL,
    optimizer: OptimizerConfig = HELEN,
    dtype: torch.dtype = torch.float32,
) -> TorchLearner:
    return TorchLearner(model, optimizer, CPU, schema.slot_field, schema.fields, dtype=dtype)


OPTIMIZERS = [
    HELEN,
    replace(HELEN, xi=0.5, perturb="embedding", row_rule="sgd", dense_rule="sgd"),
    replace(HELEN, row_norm="table", dense_norm="global", row_rule="adam", row_rate=0.03),
    replace(HELEN, perturb="dense", dense_rule="adagrad", row_initial=0.1, dense_initial=0.02, l2=0.01),
    replace(HELEN, warm_up_events=20, row_rule="sgd", l2=0.02),
    replace(HELEN, method="sam", rho=0.5),
    replace(HELEN, method="base", row_rule="adam", dense_rule="adam"),
    replace(HELEN, method="asam", rho=0.5, eta=0.02, row_rule="rmsprop", dense_rule="nadam"),
    replace(HELEN, row_rule="nadam", dense_rule="radam", l2=0.01),
    replace(HELEN, xi=0.5, counts="batch", row_rule="radam", dense_rule="rmsprop"),
    replace(
        HELEN,
        method="revisit",
        row_initial=0.05,
        dense_rule="adagrad",
        dense_initial=0.05,
        revisit_after=13,
        revisit_rows=0.6,
        revisit_dense=0.3,
    ),
    replace(HELEN, method="revisit", row_rule="sgd", dense_rule="sgd", revisit_after=1, revisit_rows=0.8),
]
MODELS = [
    MODEL,
    replace(MODEL, scale="scalar", pooling="sum", beta=0.0, slope=0.1),
    replace(MODEL, sml=False),
    replace(MODEL, sml=False, hidden=()),
]


@pytest.fixture(autouse=True)
def _oracle_in_float64() -> Iterator[None]:
    """PyTorch's NAdam keeps its product of momenta in the default type."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def check_against_oracle(schema: Schema, model: ModelConfig, optimizer: OptimizerConfig) -> None:
    learner = make(schema, model, optimizer, torch.float64)
    start = learner.state()
    oracle = Oracle(
        model, optimizer, schema.slot_field, CPU.seed, start.values["layout"], start.arrays["dense.weight"]
    )
    batch = make_batch(schema, 60, seed=3)
    result = learner.learn(batch)
    expected = oracle.learn(batch)
    assert not result.skipped.any()
    np.testing.assert_allclose(result.probability, expected, rtol=1e-6)
    state = learner.state()
    dense = np.concatenate([w.detach().numpy().ravel() for w in oracle.p.values()])
    np.testing.assert_allclose(state.arrays["dense.weight"], dense, rtol=1e-8, atol=1e-11)
    rows = np.stack([oracle.row[row].detach().numpy() for row in range(len(oracle.row))])
    np.testing.assert_allclose(state.arrays["rows.weight"], rows, rtol=1e-8, atol=1e-11)
    assert np.abs(dense - start.arrays["dense.weight"]).max() > 1e-3  # it has learned something


@pytest.mark.parametrize("schema", [SINGLE, MULTI], ids=["single", "multi"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_steps_are_those_of_algorithm_1(schema: Schema, optimizer: OptimizerConfig) -> None:
    check_against_oracle(schema, MODEL, optimizer)


@pytest.mark.parametrize("schema", [SINGLE, MULTI], ids=["single", "multi"])
@pytest.mark.parametrize("model", MODELS)
def test_every_network_takes_the_steps_of_algorithm_1(schema: Schema, model: ModelConfig) -> None:
    check_against_oracle(schema, model, HELEN)


def learned(optimizer: OptimizerConfig, schema: Schema = SINGLE, batch: Batch | None = None) -> State:
    learner = make(schema, optimizer=optimizer)
    learner.learn(batch if batch is not None else make_batch(schema, 150, seed=8))
    return learner.state()


@pytest.mark.parametrize("method", ["sam", "asam", "helen"])
def test_radius_zero_is_the_base_rule_bit_for_bit(method: Literal["sam", "asam", "helen"]) -> None:
    zero = replace(HELEN, method=method, rho=0.0, rho_dense=0.0)
    assert learned(zero).equals(learned(replace(HELEN, method="base")))


def test_second_pass_with_radii_still_at_zero_is_the_base_rule_bit_for_bit() -> None:
    # the first event of a warm-up runs both passes with every radius zero
    batch = part(make_batch(SINGLE, 5, seed=8, learn_only=True), 0, 1)
    warming = replace(HELEN, warm_up_events=1000)
    assert learned(warming, batch=batch).equals(learned(replace(HELEN, method="base"), batch=batch))
    assert not learned(HELEN, batch=batch).equals(learned(replace(HELEN, method="base"), batch=batch))


def test_xi_1_is_sam_for_each_row_whatever_the_counts() -> None:
    batch = make_batch(MULTI, 60, seed=8)
    frequent = replace(batch, ratio=np.ones_like(batch.ratio))
    rare = replace(batch, ratio=np.zeros_like(batch.ratio))
    everywhere = replace(HELEN, xi=1.0)
    expected = learned(replace(HELEN, xi=0.0), MULTI, frequent)
    assert learned(everywhere, MULTI, batch).equals(expected)
    assert learned(everywhere, MULTI, rare).equals(expected)
    assert not learned(replace(HELEN, xi=0.0), MULTI, rare).equals(expected)


def test_row_and_table_norm_agree_with_one_value_a_field_and_differ_with_several() -> None:
    table = replace(HELEN, row_norm="table")
    assert learned(table, SINGLE).equals(learned(HELEN, SINGLE))
    assert not learned(table, MULTI).equals(learned(HELEN, MULTI))


def test_a_row_with_count_zero_moves_only_by_xi() -> None:
    batch = make_batch(SINGLE, 60, seed=8)
    rare = replace(batch, ratio=np.zeros_like(batch.ratio))
    assert learned(replace(HELEN, xi=0.0), batch=rare).equals(
        learned(replace(HELEN, perturb="dense"), batch=rare)
    )


def test_zero_gradient_leaves_the_perturbation_zero_and_the_weights_finite() -> None:
    model = replace(MODEL, sml=False, embedding_scale=0.0)
    learner = make(SINGLE, model)
    batch = make_batch(SINGLE, 30, seed=1, learn_only=True)
    result = learner.learn(
        batch
    )  # rows of zeros: no unit of the first layer is active, no row has a gradient
    assert not result.skipped.any()
    assert np.isfinite(learner.state().arrays["rows.weight"]).all()


BIG = 1e30
"""Weight of an event whose squared gradients overflow float32 while the gradients do not."""


@pytest.mark.parametrize(
    "columns",
    [{"label": np.nan}, {"weight": np.inf}, {"weight": np.nan}, {"weight": BIG}],
    ids=["label-nan", "weight-inf", "weight-nan", "square-overflows"],
)
@pytest.mark.parametrize("optimizer", [HELEN, replace(HELEN, method="base"), replace(HELEN, l2=0.1)])
def test_a_non_finite_update_changes_no_bit_and_is_flagged(
    columns: dict[str, float], optimizer: OptimizerConfig
) -> None:
    batch = make_batch(SINGLE, 60, seed=2)
    learner = make(SINGLE, optimizer=optimizer)
    learner.learn(batch)
    before = learner.state()
    result = learner.learn(one_event(batch, 59, **columns))
    assert result.skipped.tolist() == [True]
    assert np.isfinite(result.probability).all()
    assert learner.state().equals(before)
    assert learner.learn(one_event(batch, 59, label=1.0, weight=1.0)).skipped.tolist() == [False]
    assert not learner.state().equals(before)


def test_a_non_finite_second_pass_changes_no_bit_and_is_flagged() -> None:
    batch = make_batch(SINGLE, 60, seed=2)
    linear = replace(MODEL, sml=False, hidden=())
    # squares of gradients of 1e15 are finite, until the perturbed weights multiply them by 1e6
    heavy = one_event(batch, 59, label=1.0, weight=1e15)
    for radius, skipped in ((0.0, False), (1e6, True)):
        learner = make(SINGLE, linear, replace(HELEN, rho_dense=radius))
        learner.learn(replace(batch, action=np.ones_like(batch.action)))
        before = learner.state()
        assert learner.learn(heavy).skipped.tolist() == [skipped]
        assert learner.state().equals(before) == skipped


def test_untouched_rows_do_not_change() -> None:
    batch = make_batch(SINGLE, 60, seed=2, learn_only=True)
    learner = make(SINGLE, optimizer=replace(HELEN, row_rule="adam", l2=0.1))
    learner.learn(batch)
    before = learner.state()
    learner.learn(one_event(batch, 10))
    after = learner.state()
    untouched = np.setdiff1d(np.arange(len(before.arrays["rows.weight"])), batch.rows[10])
    for name in before.arrays:
        if name.startswith("rows."):
            assert np.array_equal(before.arrays[name][untouched], after.arrays[name][untouched]), name
    assert not np.array_equal(
        before.arrays["rows.weight"][batch.rows[10]], after.arrays["rows.weight"][batch.rows[10]]
    )


def test_table_grows_beyond_its_first_capacity_and_state_holds_the_rows_in_use() -> None:
    batch = make_batch(SINGLE, 20, seed=4, learn_only=True)
    first = int(batch.changes.row.max()) + 1
    many = 2 * FIRST_CAPACITY
    new = np.arange(first, first + many)
    grown = replace(
        batch,
        rows=np.where(np.arange(20)[:, None] < 10, batch.rows, new[-20:, None] - np.arange(4) * 20),
        changes=RowChanges(
            np.concatenate([batch.changes.event[batch.changes.event <= 10], np.full(many, 10)]),
            np.concatenate([batch.changes.row[batch.changes.event <= 10], new]),
            np.concatenate([batch.changes.field[batch.changes.event <= 10], np.zeros(many, np.int32)]),
            np.concatenate([batch.changes.key[batch.changes.event <= 10], new.astype(np.uint64)]),
        ),
    )
    whole, parts = make(SINGLE), make(SINGLE)
    whole.learn(grown)
    for piece in chunks(grown, 3):
        parts.learn(piece)
    assert len(whole.state().arrays["rows.weight"]) == first + many
    assert whole.state().equals(parts.state())


def test_uninitialised_rows_are_rejected() -> None:
    batch = make_batch(SINGLE, 10, seed=4)
    foreign = replace(batch, rows=np.where(batch.rows == batch.rows.max(), 4711, batch.rows))
    with pytest.raises(StateError, match=r"uses row 4711, the learner has \d+ rows"):
        make(SINGLE).learn(foreign)


def test_a_batch_of_another_schema_is_rejected() -> None:
    with pytest.raises(StateError, match="5 slots, this learner's schema has 4"):
        make(SINGLE).learn(make_batch(MULTI, 10, seed=4))


@pytest.mark.parametrize(
    ("model", "optimizer", "message"),
    [
        (replace(MODEL, hidden=(7, 5)), HELEN, "dense parameters"),
        (replace(MODEL, embedding=3), HELEN, "dense parameters"),
        (MODEL, replace(HELEN, dense_rule="sgd"), "dense optimizer state"),
        (MODEL, replace(HELEN, row_rule="adam"), "the saved rows hold"),
    ],
)
def test_state_of_another_model_or_optimizer_is_rejected_and_changes_nothing(
    model: ModelConfig, optimizer: OptimizerConfig, message: str
) -> None:
    learner = make(SINGLE, model, optimizer)
    before = learner.state()
    with pytest.raises(StateError, match=message):
        learner.load_state(learned(HELEN))
    assert learner.state().equals(before)


def test_state_with_an_array_of_another_shape_names_both_shapes() -> None:
    state = learned(HELEN)
    wrong = State({**state.arrays, "rows.weight": state.arrays["rows.weight"][:, :3]}, state.values)
    with pytest.raises(
        StateError, match=r"rows.weight is float32 \[\d+, 3\], this model needs float32 \[\d+, 4\]"
    ):
        make(SINGLE).load_state(wrong)


def test_incompatible_settings_are_rejected() -> None:
    with pytest.raises(ModelError, match=r"optimizer\.rho must be .* got -0\.1"):
        make(SINGLE, optimizer=replace(HELEN, rho=-0.1))


def test_deep_network_with_skip_logits_learns_where_the_plain_one_is_blind() -> None:
    # depth 40: the paper's plain network collapses at 27 layers (Fig. 5)
    deep = ModelConfig(embedding=4, hidden=(8,) * 40, embedding_scale=0.3)
    batch = make_batch(SINGLE, 40, seed=6, learn_only=True)
    moved = {}
    for sml in (True, False):
        learner = make(SINGLE, replace(deep, sml=sml), replace(HELEN, row_rule="sgd", row_rate=0.1))
        result = learner.learn(batch)
        assert not result.skipped.any()
        assert np.isfinite(result.probability).all()
        start = make(SINGLE, replace(deep, sml=sml))
        start.learn(replace(batch, action=np.ones_like(batch.action)))
        rows = [each.state().arrays["rows.weight"] for each in (learner, start)]
        moved[sml] = float(np.abs(rows[0] - rows[1]).mean())
    assert moved[True] > 100 * moved[False]


def test_depth_100_with_skip_logits_stays_finite() -> None:
    learner = make(SINGLE, ModelConfig(embedding=4, hidden=(8,) * 100))
    result = learner.learn(make_batch(SINGLE, 15, seed=6))
    assert not result.skipped.any()
    assert np.isfinite(result.probability).all()
    assert all(np.isfinite(array).all() for array in learner.state().arrays.values())


def test_denormals_are_enabled_again_after_a_step() -> None:
    make(SINGLE).learn(make_batch(SINGLE, 3, seed=1))
    smallest = torch.tensor([1e-40])
    assert float(smallest * 1.0) > 0.0


def test_learning_reduces_the_loss() -> None:
    batch = make_batch(SINGLE, 700, seed=9, learn_only=True, values=6)
    learner = make(SINGLE, replace(MODEL, embedding_scale=0.05), replace(HELEN, rho=0.01, rho_dense=0.01))
    p, y = learner.learn(batch).probability.astype(np.float64), batch.label
    assert (batch.action & LEARN).all()
    late = slice(300, None)
    loss = -np.mean(np.where(y[late] > 0, np.log(p[late]), np.log1p(-p[late])))
    rate = float(y[late].mean())
    entropy = -(rate * np.log(rate) + (1 - rate) * np.log(1 - rate))
    assert loss < 0.97 * entropy
