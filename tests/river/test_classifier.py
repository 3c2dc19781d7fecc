"""The classifier in river: pipelines, delays, dataframes, copies and rejected input."""

from __future__ import annotations

import copy
import datetime
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from river import base, compose, datasets, evaluate, linear_model, metrics, preprocessing, stream

from stream_ctr.config.model import ModelConfig
from stream_ctr.config.optimizer import OptimizerConfig
from stream_ctr.errors import RecordError, StateError, UsageError
from stream_ctr.river import CTRClassifier

LogLoss: Callable[[], Any] = metrics.LogLoss
SMALL = ModelConfig(embedding=4, hidden=(8,))
Event = tuple[dict[Any, Any], bool]


def small(**parameters: Any) -> CTRClassifier:
    return CTRClassifier(**{"model": SMALL, "fields": 12, **parameters})


def mixed_events(count: int, seed: int = 1) -> list[Event]:
    """Numbers, texts, bools and lists that appear and disappear; the label depends on all of them."""
    rng = np.random.default_rng(seed)
    events: list[Event] = []
    for number in range(count):
        ad, age = int(rng.integers(6)), float(rng.normal(40, 12))
        tags = [f"t{t}" for t in rng.integers(5, size=rng.integers(4))]
        score = (ad % 2) * 2 - 1 + (age - 40) / 12 + (1.5 if "t1" in tags else -0.5)
        x: dict[Any, Any] = {"ad": f"ad{ad}", "age": age, "tags": tags, "new": bool(number % 3)}
        for name in list(x):
            if rng.random() < 0.1:
                del x[name]
        if number > count // 2:
            x["late"] = "y" if score > 0 else "n"
        events.append((x, bool(rng.random() < 1 / (1 + np.exp(-2 * score)))))
    return events


def table(*data: Any, **options: Any) -> Any:
    """A pandas dataframe, typed for river."""
    return pd.DataFrame(*data, **options)


def column(*data: Any) -> Any:
    """A pandas series."""
    return pd.Series(*data)


def probabilities(model: CTRClassifier, events: list[Event]) -> list[float]:
    found = []
    for x, y in events:
        found.append(model.predict_proba_one(x)[True])
        model.learn_one(x, y)
    return found


@pytest.mark.parametrize("kind", ["compiled", "torch"])
def test_it_learns_raw_dicts(kind: str) -> None:
    events = mixed_events(400)
    p = np.array(probabilities(small(kind=kind), events))[200:]
    y = np.array([label for _, label in events])[200:]
    loss = -np.where(y, np.log(p), np.log(1 - p)).mean()
    rate = y.mean()
    assert loss < 0.93 * -(rate * np.log(rate) + (1 - rate) * np.log(1 - rate))


def test_both_learners_agree() -> None:
    events = mixed_events(150)
    one, other = (
        probabilities(small(kind=kind, optimizer="helen"), events) for kind in ("compiled", "torch")
    )
    np.testing.assert_allclose(one, other, atol=1e-4)


def test_beats_rivers_scaled_logistic_regression_on_its_own_dataset() -> None:
    def loss(model: base.Classifier | compose.Pipeline) -> float:
        return float(evaluate.progressive_val_score(datasets.Phishing(), model, LogLoss()).get())

    plain = preprocessing.StandardScaler() | linear_model.LogisticRegression()
    assert loss(CTRClassifier(fields=10)) < loss(plain)


@pytest.mark.parametrize("kind", ["compiled", "torch"])
def test_many_rows_at_once_are_the_same_rows_one_by_one(kind: str) -> None:
    events = mixed_events(90)
    one, many = small(kind=kind), small(kind=kind)
    for start in range(0, len(events), 30):
        part = events[start : start + 30]
        for x, y in part:
            one.learn_one(x, y, w=0.5)
        X = table([x for x, _ in part], index=range(100, 100 + len(part)))
        half = column([0.5] * len(part))
        many.learn_many(X, column([y for _, y in part]), w=half if start else 0.5)
        assert many.state().equals(one.state())
        frame: Any = many.predict_proba_many(X)
        assert list(frame.index) == list(X.index)
        expected = [one.predict_proba_one(x) for x, _ in part]
        np.testing.assert_allclose(frame[True].to_numpy(), [each[True] for each in expected], rtol=1e-6)
        labels: Any = many.predict_many(X)
        assert labels.tolist() == [one.predict_one(x) for x, _ in part]
    nothing: Any = many.predict_proba_many(X[:0])
    assert nothing.shape == (0, 2)


def test_weight_counts() -> None:
    events = mixed_events(60)
    plain, heavy, none = small(), small(), small()
    for x, y in events:
        plain.learn_one(x, y)
        heavy.learn_one(x, y, w=5.0)
        none.learn_one(x, y, w=0.0)
    x = events[-1][0]
    p, p_heavy, p_none = (model.predict_proba_one(x)[True] for model in (plain, heavy, none))
    assert p_none == pytest.approx(0.5, abs=0.01)
    assert p != p_heavy


@pytest.mark.parametrize("kind", ["compiled", "torch"])
def test_in_pipelines(kind: str) -> None:
    events = [({"age": 40.0, **x}, y) for x, y in mixed_events(120)]
    tail = compose.Select("age") | preprocessing.StandardScaler()
    parts: Any = compose.TransformerUnion(compose.Discard("age"), tail)
    whole = parts | small(kind=kind)
    named = compose.Pipeline(("scale", preprocessing.StandardScaler()), ("ctr", small(kind=kind)))
    for model, stream_ in ((whole, events), (named, list(datasets.Phishing().take(120)))):
        assert isinstance(model, base.Classifier)
        for x, y in stream_:
            assert set(model.predict_proba_one(x)) == {False, True}
            model.learn_one(x, y)
        pipeline: Any = model
        learned = list(pipeline.steps.values())[-1]
        assert learned.state().values["totals"] == {"learned": 120, "skipped": 0}


@pytest.mark.parametrize("kind", ["compiled", "torch"])
def test_progressive_validation_with_delay_learns_each_label_when_it_arrives(kind: str) -> None:
    events = mixed_events(100)
    start = datetime.datetime(2026, 1, 1)
    dated = [({**x, "at": start + datetime.timedelta(minutes=i)}, y) for i, (x, y) in enumerate(events)]

    def without_time(x: dict[Any, Any]) -> dict[Any, Any]:
        return {name: value for name, value in x.items() if name != "at"}

    model = compose.FuncTransformer(without_time) | small(kind=kind)
    metric = evaluate.progressive_val_score(
        dated, model, LogLoss(), moment="at", delay=datetime.timedelta(minutes=7)
    )
    expected, by_hand = LogLoss(), small(kind=kind)
    waiting: dict[int, float] = {}
    for i, x, y in stream.simulate_qa(dated, "at", datetime.timedelta(minutes=7)):
        if y is None:
            waiting[i] = by_hand.predict_proba_one(without_time(x))[True]
        else:
            expected.update(y, {True: waiting.pop(i)})
            by_hand.learn_one(without_time(x), y)
    assert metric.get() == pytest.approx(expected.get(), rel=1e-12)
    at_once = evaluate.progressive_val_score(events, small(kind=kind), LogLoss())
    assert metric.get() != at_once.get()
    by_number = evaluate.progressive_val_score(events, small(kind=kind), LogLoss(), delay=5)
    assert by_number.get() != at_once.get()


@pytest.mark.parametrize("kind", ["compiled", "torch"])
def test_copies_continue_equally_and_independently(kind: str) -> None:
    events = mixed_events(160)
    model = small(kind=kind)
    probabilities(model, events[:80])
    copies = [
        copy.deepcopy(model),
        pickle.loads(pickle.dumps(model)),  # noqa: S301
        model.clone(include_attributes=True),
    ]
    saved = small(kind=kind)
    saved.load_state(model.state())
    expected = probabilities(model, events[80:])
    for other in (*copies, saved):
        assert probabilities(other, events[80:]) == expected
        assert other.state().equals(model.state())
    fresh = model.clone()
    assert fresh.feature_names == []
    assert fresh.predict_proba_one(events[0][0]) == {False: 0.5, True: 0.5}
    assert model.clone({"seed": 9}).seed == 9


def test_features_keep_their_fields_in_order_of_appearance() -> None:
    model = small(fields=4)
    model.learn_one({"b": 1, "a": "x"}, True)
    model.learn_one({"d": 1, "c": "x"}, True)
    assert model.feature_names == ["a", "b", "c"]


def test_memory_usage_includes_embedding_rows() -> None:
    model = small()
    before = model._raw_memory_usage
    for number in range(4000):
        model.learn_one({"user": f"u{number}"}, False)
    assert model._raw_memory_usage - before > 4000 * 2 * 4 * 4  # weight and accumulator of 4 float32 each


@pytest.mark.parametrize("label", ["yes", 2, None, float("nan"), [1], np.array([0, 1])])
def test_an_invalid_label_is_rejected(label: Any) -> None:
    with pytest.raises(UsageError, match="y must be True or False"):
        small().learn_one({"a": 1}, label)


@pytest.mark.parametrize("label", [True, 1, 1.0, np.bool_(True), np.int64(1)])
def test_labels_of_every_kind(label: Any) -> None:
    one, other = small(), small()
    one.learn_one({"a": 1}, label)
    other.learn_one({"a": 1}, True)
    assert one.state().equals(other.state())


def test_rejected_input_changes_nothing() -> None:
    model = small()
    probabilities(model, mixed_events(10))
    before = model.state()
    good = table({"a": ["x", "y"]})
    with pytest.raises(RecordError, match="feature 'a'"):
        model.learn_one({"b": "new", "a": b"x"}, True)
    with pytest.raises(RecordError, match="feature 'a'"):
        model.predict_proba_one({"a": {}})
    with pytest.raises(UsageError, match="2 rows, 1 labels"):
        model.learn_many(good, column([True]))
    with pytest.raises(UsageError, match="y must be True or False"):
        model.learn_many(good, column([True, None]))
    with pytest.raises(RecordError, match="feature 'a'"):
        model.learn_many(table({"a": ["x", b"y"]}), column([True, False]))
    for weight in (-1.0, float("nan"), float("inf")):
        with pytest.raises(UsageError, match="w must be a finite number"):
            model.learn_one({"a": 1}, True, w=weight)
    assert model.state().equals(before)


@pytest.mark.parametrize(
    ("parameters", "says"),
    [
        ({"optimizer": "hellen"}, "did you mean 'helen'"),
        ({"kind": "fast"}, "kind = 'fast' is unknown"),
        ({"kind": "river"}, "kind = 'river' is unknown"),
        ({"device": "tpu"}, "'tpu'"),
        ({"fields": 1}, "fields must be at least 2, got 1"),
        ({"model": ModelConfig(hidden=())}, "model.hidden is empty"),
        ({"optimizer": OptimizerConfig(rho=-1.0, method="helen")}, "rho"),
    ],
)
def test_invalid_settings_are_rejected(parameters: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        CTRClassifier(**parameters)


def test_the_state_of_another_model_is_rejected() -> None:
    other = CTRClassifier(model=ModelConfig(embedding=4, hidden=(6,)), fields=12)
    with pytest.raises(StateError):
        other.load_state(small().state())
