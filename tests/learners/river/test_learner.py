"""river's classifiers under the learner contract: inputs, predictions and saved state."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from river import base, linear_model, optim

from stream_ctr.batch import LEARN, Batch, RowChanges
from stream_ctr.config.learner import LearnerConfig
from stream_ctr.config.model import ModelConfig
from stream_ctr.config.optimizer import OptimizerConfig
from stream_ctr.errors import ModelError, StateError
from stream_ctr.learners.build import build_learner
from stream_ctr.learners.river.codecs import codec_of
from stream_ctr.learners.river.inputs import ClickRates, OneHot
from stream_ctr.learners.river.learner import RiverLearner, click_probability
from stream_ctr.learners.river.registry import NAMED, check_river_name, river_learner
from stream_ctr.predictors.river_forward import LEAST, MOST
from stream_ctr.state.state import State
from tests.support.learner_events import MULTI, SINGLE, make_batch, one_event, part

Probabilities = dict[base.typing.ClfTarget, float]
FTRL = linear_model.LogisticRegression(optimizer=optim.FTRLProximal(alpha=0.2))
SGD = linear_model.LogisticRegression(optimizer=optim.SGD(0.3))


def current_keys(batch: Batch) -> list[dict[int, int]]:
    """The key of every row at each event."""
    keys: dict[int, int] = {}
    found = []
    for b in range(len(batch)):
        for k in np.flatnonzero(batch.changes.event == b):
            keys[int(batch.changes.row[k])] = int(batch.changes.key[k])
        found.append(dict(keys))
    return found


@pytest.mark.parametrize("model", [FTRL, SGD], ids=["ftrl", "sgd"])
def test_probabilities_are_those_of_river_over_named_values(model: linear_model.LogisticRegression) -> None:
    batch = make_batch(MULTI, 200, seed=1)
    own = model.clone()
    plain: base.Classifier = model.clone()
    learn: Callable[..., None] = plain.learn_one
    result = RiverLearner("own", own, OneHot(), codec_of(own)).learn(batch)
    for b, key_of in enumerate(current_keys(batch)):
        x: dict[Hashable, float] = {
            f"{MULTI.slot_field[s]}/{key_of.get(row, 0)}": 1.0
            for s, row in enumerate(batch.rows[b].tolist())
            if row >= 0
        }
        assert result.probability[b] == pytest.approx(plain.predict_proba_one(x)[True], rel=1e-6)
        if batch.action[b] & LEARN:
            learn(x, bool(batch.label[b]), float(batch.weight[b]))


def test_factorisation_machine_predicts_by_its_formula() -> None:
    """Rendle 2010, eq. 1, over the features that were learned before."""
    batch = make_batch(SINGLE, 120, seed=2, learn_only=True)
    learner = river_learner("river-fm")
    learner.learn(part(batch, 0, 119))
    state = learner.state()
    saved = state.part("classifier")
    place = {
        (int(f), int(k)): i
        for i, (f, k) in enumerate(zip(saved.arrays["field"], saved.arrays["key"], strict=True))
    }
    key_of = current_keys(batch)[118]
    last = replace(part(batch, 119, 120), changes=RowChanges.none())
    present = [
        place[(SINGLE.slot_field[s], key_of.get(row, 0))]
        for s, row in enumerate(last.rows[0].tolist())
        if row >= 0 and (SINGLE.slot_field[s], key_of.get(row, 0)) in place
    ]
    assert len(present) >= 3
    z = float(str(saved.values["intercept"])) + sum(saved.arrays["weight"][present])
    for i, one in enumerate(present):
        for other in present[i + 1 :]:
            z += float(np.dot(saved.arrays["latent"][one], saved.arrays["latent"][other]))
    assert learner.predict(last.rows)[0] == pytest.approx(1.0 / (1.0 + math.exp(-z)), rel=1e-6)


class Recorder(base.Classifier):
    """Records its inputs."""

    def __init__(self, answer: Any = None) -> None:
        self.answer = answer
        self.seen: list[dict[Any, Any]] = []

    def learn_one(self, x: dict[base.typing.FeatureName, Any], y: base.typing.ClfTarget) -> None:
        self.seen.append(x)

    def predict_proba_one(self, x: dict[base.typing.FeatureName, Any], **kwargs: Any) -> Probabilities:
        found: Probabilities = self.answer
        return found


def test_trees_see_the_click_rate_of_each_value_before_the_event() -> None:
    batch = make_batch(MULTI, 150, seed=3, learn_only=True)
    recorder = Recorder()
    RiverLearner("recorder", recorder, ClickRates()).learn(batch)
    keys = current_keys(batch)
    past: list[tuple[list[tuple[int, int, int]], bool]] = []  # a value that returns has a new row
    for b, seen in enumerate(recorder.seen):
        event = [
            (MULTI.slot_field[s], row, keys[b].get(row, 0))
            for s, row in enumerate(batch.rows[b].tolist())
            if row >= 0
        ]
        rate = (sum(clicked for _, clicked in past) + 1) / (len(past) + 2)
        expected: dict[int, list[float]] = {}
        for value in event:
            labels = [clicked for values, clicked in past if value in values]
            p = (sum(labels) + 10 * rate) / (len(labels) + 10)
            expected.setdefault(value[0], []).append(math.log(p / (1 - p)))
        assert seen == pytest.approx({field: sum(z) / len(z) for field, z in expected.items()}, rel=1e-9)
        past.append((event, bool(batch.label[b])))


@pytest.mark.parametrize(
    ("answer", "p"),
    [
        (None, 0.5),
        ({}, 0.5),
        ({True: math.nan, False: 0.5}, 0.5),
        ({True: math.inf, False: 0.5}, 0.5),
        ({True: 0.0, False: 0.0}, 0.5),
        ({False: 1.0}, LEAST),
        ({True: 1.0}, MOST),
        ({True: 1.5, False: 0.5}, 0.75),
        ({True: 7.0}, MOST),
        ({True: -0.2}, LEAST),
        ({np.bool_(True): 0.3, np.bool_(False): 0.7}, 0.3),
    ],
)
def test_every_result_of_a_classifier_becomes_a_probability(answer: Any, p: float) -> None:
    assert click_probability(answer) == p
    batch = make_batch(SINGLE, 3, seed=1)
    result = RiverLearner("recorder", Recorder(answer), ClickRates()).learn(batch)
    np.testing.assert_array_equal(result.probability, np.full(3, p, np.float32))
    assert ((result.probability > 0) & (result.probability < 1)).all()


class Labels(base.Classifier):
    """Gives no probabilities, takes no weights, and fails on demand."""

    def __init__(self) -> None:
        self.learned = 0
        self.broken = False

    def learn_one(self, x: dict[base.typing.FeatureName, Any], y: base.typing.ClfTarget) -> None:
        if self.broken:
            raise ZeroDivisionError("no\nweight")
        self.learned += 1

    def predict_one(
        self, x: dict[base.typing.FeatureName, Any], **kwargs: Any
    ) -> base.typing.ClfTarget | None:
        return self.learned % 2 == 1 if self.learned else None


def test_labels_count_as_certain_and_weights_as_one() -> None:
    batch = make_batch(SINGLE, 4, seed=1, learn_only=True)
    batch = replace(batch, weight=np.array([2.0, 0.0, 0.5, 1.0], np.float32))
    model = Labels()
    result = RiverLearner("labels", model, ClickRates()).learn(batch)
    assert model.learned == 3
    np.testing.assert_array_equal(result.probability, np.array([0.5, MOST, MOST, LEAST], np.float32))


def test_classifier_that_fails_is_named_with_its_reason() -> None:
    model = Labels()
    learner = RiverLearner("river:x.Labels", model, ClickRates())
    batch = make_batch(SINGLE, 4, seed=1, learn_only=True)
    learner.learn(part(batch, 0, 2))
    model.broken = True
    with pytest.raises(
        ModelError, match=r"^river:x\.Labels could not learn event 3 \(ZeroDivisionError: no w"
    ):
        learner.learn(part(batch, 2, 4))


@pytest.mark.parametrize("name", ["river-ftrl", "river-tree"])
def test_a_reassigned_row_is_a_new_feature(name: str) -> None:
    learner = river_learner(name)
    batch = make_batch(SINGLE, 60, seed=1, learn_only=True)
    learner.learn(batch)
    inputs = learner._inputs
    row = int(batch.rows[59, 0])
    alone = np.array([row, -1, -1, -1])
    fresh = np.array([1_000_000, -1, -1, -1])
    before = inputs.features(alone)
    changes = RowChanges(*(np.array([v], t) for v, t in ((0, "i8"), (row, "i8"), (0, "i4"), (99, "u8"))))
    learner.learn(
        replace(one_event(batch, 59), rows=alone[None], action=np.ones(1, np.uint8), changes=changes)
    )
    assert inputs.features(alone) != before
    if name == "river-tree":
        assert list(inputs.features(alone).values()) == list(inputs.features(fresh).values())
    else:
        nothing = np.array([[-1, -1, -1, -1]])
        assert learner.predict(alone[None]) == learner.predict(nothing)


@pytest.mark.parametrize("name", [*NAMED, "river:naive_bayes.GaussianNB", "river:facto.FFMClassifier"])
def test_named_classifiers_learn_and_skip_nan_labels(name: str) -> None:
    learner, again = river_learner(name, seed=5), river_learner(name, seed=5)
    batch = make_batch(SINGLE, 100, seed=1)
    result = learner.learn(batch)
    assert len(np.unique(result.probability)) > 5
    np.testing.assert_array_equal(again.learn(batch).probability, result.probability)
    before = learner.predict(batch.rows)
    assert learner.learn(one_event(batch, 3, label=np.nan)).skipped.tolist() == [True]
    np.testing.assert_array_equal(learner.predict(batch.rows), before)


@pytest.mark.parametrize("name", sorted(NAMED))
def test_only_classifiers_with_a_saved_state_can_be_arms(name: str) -> None:
    config = LearnerConfig(kind="river", river=name)
    if name in ("river-ftrl", "river-lr", "river-fm"):
        assert build_learner(ModelConfig(), OptimizerConfig(), config, [0], 1).state().values["river"] == name
        return
    with pytest.raises(ModelError, match=f"'{name}' cannot be saved.*river-ftrl, river-lr or river-fm"):
        build_learner(ModelConfig(), OptimizerConfig(), config, [0], 1)
    learner = river_learner(name)
    learner.learn(make_batch(SINGLE, 1, seed=1))
    with pytest.raises(StateError, match=f"{name} cannot be saved"):
        learner.state()
    with pytest.raises(StateError, match=f"no state of {name} can be loaded"):
        river_learner(name).load_state(State())


def trained(name: str) -> RiverLearner:
    learner = river_learner(name)
    learner.learn(make_batch(SINGLE, 60, seed=4))
    return learner


@pytest.mark.parametrize("name", ["river-ftrl", "river-lr", "river-fm"])
def test_a_damaged_state_is_rejected_and_changes_nothing(name: str) -> None:
    state = trained(name).state()
    learner = trained(name)
    for array in state.arrays:
        cut = {**state.arrays, array: state.arrays[array][:-1]}
        with pytest.raises(StateError, match="the file is damaged"):
            learner.load_state(State(cut, state.values))
        typed = {**state.arrays, array: state.arrays[array].astype(np.complex64)}
        with pytest.raises(StateError, match="complex64"):
            learner.load_state(State(typed, state.values))
        gone = {key: value for key, value in state.arrays.items() if key != array}
        with pytest.raises(StateError, match="missing"):
            learner.load_state(State(gone, state.values))
    values: Any = state.values
    for key in values["classifier"]:
        broken = {**values, "classifier": {**values["classifier"], key: "x"}}
        with pytest.raises(StateError, match=key):
            learner.load_state(State(state.arrays, broken))
    assert learner.state().equals(state)


def test_the_state_of_another_learner_is_rejected() -> None:
    with pytest.raises(StateError, match="the saved learner is river-ftrl, this one is river-lr"):
        river_learner("river-lr").load_state(trained("river-ftrl").state())
    with pytest.raises(StateError, match="the saved learner is a network, this one is river-lr"):
        river_learner("river-lr").load_state(State())


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("river-flt", "did you mean 'river-ftrl'"),
        ("vw", "; choose river-ftrl"),
        ("river:tree.HoeffdingTre", "similar ones are tree.HoeffdingTreeClassifier"),
        ("river:os.path", "river has no class with this path"),
        ("river:", "river has no class with this path"),
        ("river:linear_model.LinearRegression", "is not a single-label classifier"),
        ("river:multioutput.ClassifierChain", "is not a single-label classifier"),
        ("river:ensemble.VotingClassifier", "needs the arguments models"),
    ],
)
def test_an_unknown_classifier_is_rejected_in_one_line(name: str, says: str) -> None:
    with pytest.raises(ModelError, match=says) as caught:
        check_river_name(name)
    assert "\n" not in str(caught.value)
