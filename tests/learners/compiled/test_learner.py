"""The compiled learner against the reference learner and the papers' formulas, and its own guarantees."""

from __future__ import annotations

import dataclasses
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from stream_ctr.batch import LEARN, PREDICT, Batch, RowChanges
from stream_ctr.config.learner import LearnerConfig
from stream_ctr.config.model import ModelConfig
from stream_ctr.config.optimizer import OptimizerConfig
from stream_ctr.errors import ModelError, StateError
from stream_ctr.learners.base import Learner
from stream_ctr.learners.compiled import passes
from stream_ctr.learners.compiled.learner import CompiledLearner
from stream_ctr.learners.compiled.rows import FIRST_CAPACITY
from stream_ctr.learners.compiled.support import why_not_compiled
from stream_ctr.learners.torch.learner import TorchLearner
from stream_ctr.state.state import State
from tests.support.learner_events import MULTI, SINGLE, Schema, chunks, make_batch, one_event, part
from tests.support.optimizer_oracle import Oracle

CPU = LearnerConfig(device="cpu", seed=5)
MODEL = ModelConfig(embedding=4, hidden=(7, 6), embedding_scale=0.3)
HELEN = OptimizerConfig(
    method="helen",
    perturb="both",
    rho=0.3,
    rho_dense=0.4,
    row_rule="adagrad",
    row_rate=0.02,
    dense_rule="adam",
    dense_rate=0.01,
)
REVISIT = OptimizerConfig(
    method="revisit",
    row_rate=0.05,
    row_initial=0.05,
    dense_rate=0.01,
    dense_initial=0.05,
    revisit_after=13,
    revisit_rows=0.6,
    revisit_dense=0.3,
)
OPTIMIZERS = [
    HELEN,
    replace(HELEN, xi=0.5, perturb="embedding", row_rule="sgd", dense_rule="sgd"),
    replace(HELEN, row_norm="table", dense_norm="global", row_rule="adam", row_rate=0.03),
    replace(HELEN, perturb="dense", dense_rule="adagrad", row_initial=0.1, dense_initial=0.02, l2=0.01),
    replace(HELEN, warm_up_events=20, row_rule="sgd", l2=0.02),
    replace(HELEN, method="sam", rho=0.5, row_rule="adam", l2=0.01),
    replace(HELEN, method="base", row_rule="adam", dense_rule="adagrad"),
    REVISIT,
    replace(REVISIT, row_rule="sgd", dense_rule="sgd", revisit_after=1, revisit_rows=0.8, revisit_dense=0.0),
]
MODELS = [
    MODEL,
    replace(MODEL, scale="scalar", pooling="sum", beta=0.0, slope=0.1),
    replace(MODEL, sml=False, hidden=(9, 8, 7)),
    replace(MODEL, sml=False, hidden=()),
    replace(MODEL, embedding=3, hidden=(1,), slope=-0.5),
]
OPTIMIZER_IDS = ["helen", "helen-m", "table", "dense", "warm-up", "sam", "base", "revisit", "at-once"]
MODEL_IDS = ["units", "scalar-sum", "dnn", "linear", "one-unit"]
schemas = pytest.mark.parametrize("schema", [SINGLE, MULTI], ids=["single", "multi"])
optimizers = pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=OPTIMIZER_IDS)
models = pytest.mark.parametrize("model", MODELS, ids=MODEL_IDS)


def make(
    schema: Schema = SINGLE, model: ModelConfig = MODEL, optimizer: OptimizerConfig = HELEN
) -> CompiledLearner:
    return CompiledLearner(model, optimizer, CPU, schema.slot_field, schema.fields)


def reference(
    schema: Schema = SINGLE, model: ModelConfig = MODEL, optimizer: OptimizerConfig = HELEN
) -> TorchLearner:
    return TorchLearner(model, optimizer, CPU, schema.slot_field, schema.fields)


def distances(one: State, other: State) -> dict[str, float]:
    """Norm of the difference over the norm, for each array; steps and touches must be equal."""
    assert one.values == other.values
    assert one.arrays.keys() == other.arrays.keys()
    found = {}
    for name, array in one.arrays.items():
        if array.dtype.kind == "i":
            np.testing.assert_array_equal(array, other.arrays[name])
            continue
        a, b = array.astype(np.float64), other.arrays[name].astype(np.float64)
        found[name] = float(np.linalg.norm(a - b)) / max(float(np.linalg.norm(b)), 1e-12)
    return found


# Against the formulas


def check_against_oracle(schema: Schema, model: ModelConfig, optimizer: OptimizerConfig) -> None:
    learner = CompiledLearner(model, optimizer, CPU, schema.slot_field, schema.fields, dtype=np.float64)
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


@schemas
@optimizers
def test_steps_are_those_of_algorithm_1(schema: Schema, optimizer: OptimizerConfig) -> None:
    check_against_oracle(schema, MODEL, optimizer)


@schemas
@models
def test_every_network_takes_the_steps_of_algorithm_1(schema: Schema, model: ModelConfig) -> None:
    check_against_oracle(schema, model, HELEN)


def test_tanh_is_that_of_the_library_in_single_precision() -> None:
    x = np.concatenate(
        [np.linspace(-12, 12, 100_001), np.geomspace(1e-30, 1e30, 2001), [0.0, np.inf, -np.inf, np.nan]]
    ).astype(np.float32)
    out = np.empty_like(x)
    passes.tanh(x, out)
    np.testing.assert_allclose(out, np.tanh(x.astype(np.float64)), rtol=5e-7)
    assert np.nanmax(np.abs(out)) <= 1.0


# Against the reference learner


@schemas
@optimizers
def test_first_ten_events_agree_element_by_element(schema: Schema, optimizer: OptimizerConfig) -> None:
    batch = make_batch(schema, 10, seed=21, learn_only=True)
    learner, expected = make(schema, optimizer=optimizer), reference(schema, optimizer=optimizer)
    assert learner.state().equals(expected.state())
    p, q = (each.learn(batch).probability for each in (learner, expected))
    np.testing.assert_allclose(p, q, rtol=1e-5)
    one, other = learner.state(), expected.state()
    assert one.values == other.values
    for name, array in one.arrays.items():
        np.testing.assert_allclose(array, other.arrays[name], rtol=1e-5, atol=1e-5, err_msg=name)


AGREEMENT = [
    (MULTI, MODEL, replace(REVISIT, revisit_after=500)),
    (SINGLE, replace(MODEL, hidden=(16, 8)), replace(HELEN, rho=0.01, rho_dense=0.01, dense_rate=1e-3)),
    (
        MULTI,
        replace(MODEL, scale="scalar"),
        replace(HELEN, method="sam", rho=0.02, row_rule="adam", row_rate=1e-3, dense_rate=1e-3),
    ),
    (
        MULTI,
        replace(MODEL, sml=False),
        replace(HELEN, method="base", dense_rule="adagrad", row_initial=0.01, dense_initial=0.01, l2=1e-5),
    ),
]


@pytest.mark.parametrize(("schema", "model", "optimizer"), AGREEMENT, ids=["revisit", "helen", "sam", "base"])
@pytest.mark.slow
def test_ten_thousand_events_agree(schema: Schema, model: ModelConfig, optimizer: OptimizerConfig) -> None:
    batch = make_batch(schema, 10_000, seed=22, values=40)
    learner, expected = make(schema, model, optimizer), reference(schema, model, optimizer)
    p, q = (each.learn(batch).probability.astype(np.float64) for each in (learner, expected))
    logit_p, logit_q = (np.log(each) - np.log1p(-each) for each in (p, q))
    np.testing.assert_allclose(logit_p, logit_q, atol=1e-4)
    assert max(distances(learner.state(), expected.state()).values()) < 1e-3


@schemas
@pytest.mark.parametrize("compiled_first", [True, False], ids=["compiled-torch", "torch-compiled"])
@pytest.mark.parametrize("optimizer", [HELEN, OPTIMIZERS[5], REVISIT], ids=["helen", "sam", "revisit"])
def test_checkpoints_are_interchangeable(
    schema: Schema, optimizer: OptimizerConfig, compiled_first: bool
) -> None:
    batch = make_batch(schema, 300, seed=23)
    first: Learner = make(schema, optimizer=optimizer)
    second: Learner = reference(schema, optimizer=optimizer)
    if not compiled_first:
        first, second = second, first
    first.learn(part(batch, 0, 170))
    second.learn(make_batch(schema, 40, seed=24))  # loading must replace everything learned before
    second.load_state(first.state())
    assert second.state().equals(first.state())
    p, q = (each.learn(part(batch, 170, 300)).probability for each in (first, second))
    np.testing.assert_allclose(p, q, rtol=1e-4)
    assert max(distances(second.state(), first.state()).values()) < 1e-4


def grown_batch() -> Batch:
    """A batch whose rows outgrow the table's first capacity twice, halfway through."""
    batch = make_batch(SINGLE, 20, seed=4, learn_only=True)
    first = int(batch.changes.row.max()) + 1
    new = np.arange(first, first + 3 * FIRST_CAPACITY)
    early = batch.changes.event <= 10
    zeros = np.zeros(len(new), np.int32)
    return replace(
        batch,
        rows=np.where(np.arange(20)[:, None] < 10, batch.rows, new[-20:, None] - np.arange(4) * 20),
        changes=RowChanges(
            np.concatenate([batch.changes.event[early], zeros + 10]),
            np.concatenate([batch.changes.row[early], new]),
            np.concatenate([batch.changes.field[early], zeros]),
            np.concatenate([batch.changes.key[early], new.astype(np.uint64)]),
        ),
    )


def test_a_grown_table_equals_that_of_the_reference_and_loads_there() -> None:
    grown = grown_batch()
    learner, expected = make(), reference()
    for each in (learner, expected):
        each.learn(grown)
    state = learner.state()
    assert len(state.arrays["rows.weight"]) > 3 * FIRST_CAPACITY
    assert max(distances(state, expected.state()).values()) < 1e-5
    resumed = reference()
    resumed.load_state(state)
    again = replace(grown, changes=RowChanges.none())
    np.testing.assert_allclose(resumed.learn(again).probability, learner.learn(again).probability, rtol=1e-4)
    pieces = make()
    for piece in chunks(grown, 3):
        pieces.learn(piece)
    assert pieces.state().equals(state)


# Its own guarantees


@schemas
@optimizers
def test_chunking_changes_no_bit(schema: Schema, optimizer: OptimizerConfig) -> None:
    batch = make_batch(schema, 300, seed=11)
    states, probabilities = [], []
    for size in (256, 1, 7):
        learner = make(schema, optimizer=optimizer)
        probabilities.append(np.concatenate([learner.learn(c).probability for c in chunks(batch, size)]))
        states.append(learner.state())
    assert states[0].equals(states[1])
    assert states[0].equals(states[2])
    np.testing.assert_array_equal(probabilities[0], probabilities[1])
    np.testing.assert_array_equal(probabilities[0], probabilities[2])


def test_wide_layers_are_learned_the_same_in_any_chunk() -> None:
    # widths around the kernels' blocks of 4 rows and a vector's 8 or 16 numbers, at any alignment
    model = ModelConfig(embedding=5, hidden=(67, 33, 18), embedding_scale=0.3)
    batch = make_batch(SINGLE, 60, seed=11)
    one, other = make(model=model), make(model=model)
    one.learn(batch)
    for piece in chunks(batch, 1):
        other.learn(piece)
    assert one.state().equals(other.state())
    expected = reference(model=model)
    expected.learn(batch)
    assert max(distances(one.state(), expected.state()).values()) < 1e-4


@pytest.mark.parametrize("method", ["sam", "helen"])
def test_radius_zero_is_the_base_rule_bit_for_bit(method: str) -> None:
    zero = replace(HELEN, method="sam" if method == "sam" else "helen", rho=0.0, rho_dense=0.0)
    batch = make_batch(SINGLE, 150, seed=8)
    states = []
    for optimizer in (zero, replace(HELEN, method="base"), replace(zero, rho=0.1)):
        learner = make(optimizer=optimizer)
        learner.learn(batch)
        states.append(learner.state())
    assert states[0].equals(states[1])
    assert not states[0].equals(states[2])


def test_second_pass_with_radii_still_at_zero_is_the_base_rule_bit_for_bit() -> None:
    batch = part(make_batch(SINGLE, 5, seed=8, learn_only=True), 0, 1)
    warming = make(optimizer=replace(HELEN, warm_up_events=9))
    base = make(optimizer=replace(HELEN, method="base"))
    for learner in (warming, base):
        learner.learn(batch)
    assert warming.state().equals(base.state())


BAD = [{"label": np.nan}, {"weight": np.inf}, {"weight": -np.inf}, {"weight": np.nan}, {"weight": 1e30}]
BAD_IDS = ["label-nan", "weight-inf", "weight-minus-inf", "weight-nan", "square-overflows"]


@pytest.mark.parametrize("columns", BAD, ids=BAD_IDS)
@schemas
@optimizers
def test_a_non_finite_update_changes_no_bit_and_is_flagged(
    columns: dict[str, float], schema: Schema, optimizer: OptimizerConfig
) -> None:
    batch = make_batch(schema, 60, seed=2)
    learner, expected = make(schema, optimizer=optimizer), reference(schema, optimizer=optimizer)
    learner.learn(batch)
    expected.load_state(learner.state())
    before = learner.state()
    bad = one_event(batch, 59, **columns)
    assert learner.learn(bad).skipped.tolist() == expected.learn(bad).skipped.tolist() == [True]
    assert learner.state().equals(before)
    good = one_event(batch, 59, label=1.0, weight=1.0)
    assert learner.learn(good).skipped.tolist() == [False]
    assert not learner.state().equals(before)


@pytest.mark.parametrize("weight", [1e16, 1e17, 1e18, 1e19, 1e20, 1e21])
def test_the_finite_limit_equals_that_of_the_reference(weight: float) -> None:
    batch = make_batch(SINGLE, 60, seed=2)
    learner, expected = make(), reference()
    learner.learn(batch)
    expected.load_state(learner.state())
    heavy = one_event(batch, 59, label=1.0, weight=weight)
    assert learner.learn(heavy).skipped.tolist() == expected.learn(heavy).skipped.tolist()
    assert all(np.isfinite(array).all() for array in learner.state().arrays.values())


def test_a_non_finite_second_pass_changes_no_bit_and_is_flagged() -> None:
    batch = make_batch(SINGLE, 60, seed=2)
    linear = replace(MODEL, sml=False, hidden=())
    heavy = one_event(batch, 59, label=1.0, weight=1e15)
    for radius, skipped in ((0.0, False), (1e6, True)):
        learner = make(model=linear, optimizer=replace(HELEN, rho_dense=radius))
        learner.learn(replace(batch, action=np.ones_like(batch.action)))
        before = learner.state()
        assert learner.learn(heavy).skipped.tolist() == [skipped]
        assert learner.state().equals(before) == skipped


def test_sums_of_squares_stop_growing_below_infinity() -> None:
    linear = replace(MODEL, sml=False, hidden=(), embedding_scale=1.0)
    batch = make_batch(SINGLE, 60, seed=2)
    learner = make(model=linear, optimizer=replace(HELEN, method="base", dense_rule="adagrad"))
    learner.learn(replace(batch, action=np.full_like(batch.action, PREDICT)))
    skipped = [learner.learn(one_event(batch, b, weight=1.5e19, label=1.0)).skipped for b in range(60)]
    assert not np.concatenate(skipped).all()
    state = learner.state()
    assert state.arrays["dense.square"].max() == np.finfo(np.float32).max
    assert all(np.isfinite(array).all() for array in state.arrays.values())


def test_nan_probabilities_are_reported_and_not_learned() -> None:
    batch = make_batch(SINGLE, 60, seed=2)
    learner, expected = make(), reference()
    learner.learn(batch)
    state = learner.state()
    state.arrays["rows.weight"][batch.rows[59, 0], 0] = np.nan
    for each in (learner, expected):
        each.load_state(state)
        result = each.learn(one_event(batch, 59, label=1.0))
        assert np.isnan(result.probability).all()
        assert result.skipped.all()
        assert each.state().equals(state)


def test_untouched_rows_do_not_change() -> None:
    batch = make_batch(SINGLE, 60, seed=2, learn_only=True)
    learner = make(optimizer=replace(HELEN, row_rule="adam", l2=0.1))
    learner.learn(batch)
    before = learner.state()
    learner.learn(one_event(batch, 10))
    after = learner.state()
    untouched = np.setdiff1d(np.arange(len(before.arrays["rows.weight"])), batch.rows[10])
    for name in before.arrays:
        if name.startswith("rows."):
            assert np.array_equal(before.arrays[name][untouched], after.arrays[name][untouched]), name
    touched = batch.rows[10]
    assert not np.array_equal(before.arrays["rows.weight"][touched], after.arrays["rows.weight"][touched])


@pytest.mark.parametrize("call", ["learn", "predict"])
def test_uninitialised_rows_are_rejected(call: str) -> None:
    batch = make_batch(SINGLE, 10, seed=4)
    rows = np.where(batch.rows == batch.rows.max(), 4711, batch.rows)
    learner = make()
    with pytest.raises(StateError, match=r"uses row 4711, the learner has \d+ rows"):
        learner.learn(replace(batch, rows=rows)) if call == "learn" else learner.predict(rows)


def test_a_batch_of_another_schema_is_rejected() -> None:
    batch = make_batch(MULTI, 10, seed=4)
    with pytest.raises(StateError, match="5 slots, this learner's schema has 4"):
        make().learn(batch)
    with pytest.raises(StateError, match="5 slots, this learner's schema has 4"):
        make().predict(batch.rows)


def test_state_of_another_model_or_optimizer_is_rejected_and_changes_nothing() -> None:
    saved = reference().state()
    for model, optimizer, message in (
        (replace(MODEL, hidden=(7, 5)), HELEN, "dense parameters"),
        (MODEL, replace(HELEN, dense_rule="sgd"), "dense optimizer state"),
        (MODEL, replace(HELEN, row_rule="adam"), "the saved rows hold"),
    ):
        learner = make(model=model, optimizer=optimizer)
        before = learner.state()
        with pytest.raises(StateError, match=message):
            learner.load_state(saved)
        assert learner.state().equals(before)
    short = State({**saved.arrays, "dense.weight": saved.arrays["dense.weight"][:-1]}, saved.values)
    with pytest.raises(
        StateError, match=r"dense\.weight is float32 \[\d+\], this model needs float32 \[\d+\]"
    ):
        make().load_state(short)


def test_read_only_and_strided_batches_are_learned_like_any_other() -> None:
    batch = make_batch(SINGLE, 40, seed=4)
    frozen = replace(batch, rows=np.asfortranarray(batch.rows), label=batch.label.copy())
    frozen.label.setflags(write=False)
    one, other = make(), make()
    one.learn(batch)
    other.learn(frozen)
    assert one.state().equals(other.state())


def test_denormals_are_enabled_again_after_a_step() -> None:
    learner = make()
    batch = make_batch(SINGLE, 3, seed=1)
    learner.learn(batch)
    learner.predict(batch.rows)
    assert float(np.array([1e-40], np.float32)[0] * np.float32(1.0)) > 0.0


def test_no_denormal_number_is_ever_stored() -> None:
    # the first moments of inactive units decay into denormals within about 900 events
    batch = make_batch(SINGLE, 60, seed=1, learn_only=True)
    learner = make(optimizer=replace(HELEN, method="base"))
    learner.learn(batch)
    state = learner.state()
    state.arrays["dense.mean"][:] = 1e-37
    learner.load_state(state)
    for b in range(0, 60, 2):
        learner.learn(one_event(batch, b, weight=0.0))
    mean = np.abs(learner.state().arrays["dense.mean"])
    assert mean.max() < 1e-37
    assert not ((mean > 0) & (mean < np.finfo(np.float32).tiny)).any()


@pytest.mark.parametrize(
    ("room", "name", "value"),
    [
        ("learner", "device", "cuda"),
        ("model", "backbone", "deepfm"),
        ("model", "scale", "low-rank"),
        ("optimizer", "dense_rule", "rmsprop"),
        ("optimizer", "method", "asam"),
    ],
)
def test_an_unsupported_setting_is_named(room: str, name: str, value: str) -> None:
    rooms: dict[str, Any] = {"model": MODEL, "optimizer": HELEN, "learner": CPU}
    rooms[room] = replace(rooms[room], **{name: value})
    reason = why_not_compiled(rooms["model"], rooms["optimizer"], rooms["learner"])
    assert reason == f"{room}.{name} = '{value}'"


def test_settings_of_other_learners_are_rejected_and_the_learner_is_named() -> None:
    with pytest.raises(ModelError, match=r"learner\.device = 'cuda'; set learner\.kind = \"torch\""):
        CompiledLearner(MODEL, HELEN, replace(CPU, device="cuda"), SINGLE.slot_field, SINGLE.fields)
    with pytest.raises(ModelError, match=r"must be between 0 and 1, got \[0, 2\]"):
        CompiledLearner(MODEL, HELEN, CPU, [0, 2], 2)


def test_every_setting_is_supported_or_must_have_its_default() -> None:
    assert why_not_compiled(ModelConfig(), OptimizerConfig(), LearnerConfig()) is None

    @dataclasses.dataclass(frozen=True, slots=True)
    class LaterConfig(OptimizerConfig):
        momentum: float = 0.0

    assert why_not_compiled(MODEL, LaterConfig(), CPU) is None
    assert why_not_compiled(MODEL, LaterConfig(momentum=0.5), CPU) == "optimizer.momentum = 0.5"


def test_incompatible_settings_are_rejected() -> None:
    with pytest.raises(ModelError, match=r"optimizer\.rho must be .* got -0\.1"):
        make(optimizer=replace(HELEN, rho=-0.1))


def test_learning_reduces_the_loss() -> None:
    batch = make_batch(SINGLE, 700, seed=9, learn_only=True, values=6)
    learner = make(
        model=replace(MODEL, embedding_scale=0.05), optimizer=replace(HELEN, rho=0.01, rho_dense=0.01)
    )
    p, y = learner.learn(batch).probability.astype(np.float64), batch.label
    assert (batch.action & LEARN).all()
    late = slice(300, None)
    loss = -np.mean(np.where(y[late] > 0, np.log(p[late]), np.log1p(-p[late])))
    rate = float(y[late].mean())
    entropy = -(rate * np.log(rate) + (1 - rate) * np.log(1 - rate))
    assert loss < 0.97 * entropy
