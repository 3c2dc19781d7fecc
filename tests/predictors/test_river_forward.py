"""Snapshots of river models: served without river, with the predictions of river."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from stream_ctr.batch import Batch, RowChanges
from stream_ctr.config.features import FeaturesConfig, FieldConfig
from stream_ctr.config.model import ModelConfig
from stream_ctr.datasets.base import Example, open_dataset
from stream_ctr.errors import StateError
from stream_ctr.features.keys.encoder import KeyEncoder
from stream_ctr.features.keys.value_batch import Features
from stream_ctr.features.rows.tables import FeatureTables
from stream_ctr.learners.river.learner import RiverLearner
from stream_ctr.learners.river.registry import NAMED, river_learner
from stream_ctr.pipeline.from_examples import direct_batches
from stream_ctr.predictors.export import snapshot_content
from stream_ctr.predictors.river_forward import RiverForward, RiverModel
from stream_ctr.predictors.snapshot import MANIFEST, SnapshotContent, path_of, write_snapshot
from stream_ctr.state.state import State
from tests.predictors.test_predictor import LEARNED_FIELDS, predictor_of, random_features
from tests.support.snapshots import example_snapshot

SERVED = ("river-ftrl", "river-lr", "river-fm")


class Arm:
    """A river arm's parts, and river's own model that learns the same, apart from ours."""

    def __init__(self, name: str, fields: tuple[FieldConfig, ...] = LEARNED_FIELDS) -> None:
        self.fields = fields
        self.encoder = KeyEncoder(fields)
        self.tables = FeatureTables(
            self.encoder.slot_field, len(fields), FeaturesConfig(fields=fields, minimum_count=2)
        )
        self.learner = river_learner(name, seed=3)
        self.plain: Any = NAMED[name](3)
        self._feature: dict[int, tuple[int, int]] = {}
        self._met: set[tuple[int, int]] = set()

    def learn(self, examples: list[Example]) -> None:
        for batch in direct_batches(examples, self.encoder, self.tables, 64):
            self.learner.learn(batch)
            for b in range(len(batch)):
                self._plain_event(batch, b)

    def _plain_event(self, batch: Batch, b: int) -> None:
        changes: RowChanges = batch.changes
        for k in np.flatnonzero(changes.event == b):
            self._feature[int(changes.row[k])] = (int(changes.field[k]), int(changes.key[k]))
        x = self.named(batch.rows[b])
        self.plain.learn_one(x, bool(batch.label[b]))
        self._met |= x.keys()

    def named(self, rows: NDArray[np.int64]) -> dict[tuple[int, int], float]:
        return {self._feature[row]: 1.0 for row in rows.tolist() if row >= 0}

    def says(self, keys: NDArray[np.uint64]) -> list[float]:
        """river's predict_proba_one, about features that it has learned."""
        met = self._met
        return [
            self.plain.predict_proba_one({name: 1.0 for name in self.named(rows) if name in met})[True]
            for rows in self.tables.lookup(keys)
        ]

    def content(self) -> SnapshotContent:
        return snapshot_content(
            ModelConfig(),
            self.fields,
            self.learner.weights(),
            self.tables.lookup_arrays(),
            self.encoder.state(),
            event_time_ms=77,
        )


def examples(events: int, seed: int) -> list[Example]:
    found = random_features(events, seed)
    labels = np.random.default_rng(seed).random(events)
    return [
        Example(str(n), n, "", dict(features), int(label < (0.6 if "1" in str(features["site"]) else 0.1)))
        for n, (features, label) in enumerate(zip(found, labels, strict=True))
    ]


@pytest.mark.parametrize("name", SERVED)
def test_a_snapshot_predicts_what_river_predicts(tmp_path: Path, name: str) -> None:
    arm = Arm(name)
    for step in range(2):
        arm.learn(examples(150, seed=step))
        predictor = predictor_of(tmp_path, arm.content())
        unknown: Features = {"site": "never seen", "tags": ["x", "y"]}
        keys = predictor.encode([*random_features(80, seed=9), {}, unknown])
        found = predictor.probabilities(keys)
        np.testing.assert_allclose(found, arm.says(keys), rtol=2e-7)
        np.testing.assert_allclose(found, arm.learner.predict(arm.tables.lookup(keys)), rtol=2e-7)
        assert len(set(found.tolist())) > 20
        logit = np.log(found.astype(np.float64) / (1.0 - found))
        np.testing.assert_allclose(predictor.logits(keys), logit, atol=1e-5)


def test_real_events_are_served_as_river_predicts_them(tmp_path: Path, data_folder: Path) -> None:
    for name in SERVED:
        dataset = open_dataset("criteo", options={"rows": "137139"})
        rows = list(dataset.read(data_folder / "criteo_head" / "criteo_head.tsv.xz", 300))
        arm = Arm(name, dataset.fields)
        arm.learn(rows[:200])
        predictor = predictor_of(tmp_path / name, arm.content())
        keys = predictor.encode([example.features for example in rows[200:]])
        np.testing.assert_allclose(predictor.probabilities(keys), arm.says(keys), rtol=2e-7)


@pytest.mark.parametrize("name", SERVED)
def test_exporting_in_pieces_equals_exporting_at_once(name: str) -> None:
    piecewise, at_once = Arm(name), Arm(name)
    for step in range(3):
        piecewise.learn(examples(40, seed=step))
        at_once.learn(examples(40, seed=step))
        pieces = piecewise.learner.weights()
    assert pieces.equals(at_once.learner.weights())
    again = river_learner(name, seed=4)
    again.load_state(piecewise.learner.state())
    assert again.weights().equals(pieces)


@given(
    rows=st.lists(st.lists(st.integers(-1, 9), min_size=3, max_size=3), min_size=1, max_size=5),
    factors=st.integers(0, 3),
    seed=st.integers(0, 99),
)
def test_the_compiled_sums_are_those_of_the_formula(rows: list[list[int]], factors: int, seed: int) -> None:
    table = np.random.default_rng(seed).normal(0.0, 1.5, (10, 1 + factors))
    form = RiverModel("river-fm", "factorisation", factors) if factors else RiverModel("river-lr", "logistic")
    forward = RiverForward(form, {"intercept": np.array([0.25])}, table)
    expected = []
    for event in rows:
        shown = [table[row] for row in event if row >= 0]
        pairs = sum(float(a[1:] @ b[1:]) for i, a in enumerate(shown) for b in shown[:i])
        z = 0.25 + sum(float(each[0]) for each in shown) + pairs
        expected.append(1.0 / (1.0 + np.exp(-z)))
    found = forward.probabilities(np.array(rows, np.int64))
    np.testing.assert_allclose(found, expected, rtol=2e-7, atol=1e-7)


def test_extreme_sums_stay_probabilities_and_nan_stays_nan() -> None:
    table = np.array([[800.0], [-800.0], [np.nan]])
    forward = RiverForward(RiverModel("river-lr", "logistic"), {"intercept": np.zeros(1)}, table)
    found = forward.probabilities(np.array([[0], [1], [2], [-1]], np.int64))
    assert 0.0 < found[1] < 1e-30
    assert found[0] == np.nextafter(np.float32(1), np.float32(0))
    assert np.isnan(found[2])
    assert found[3] == 0.5


def test_before_the_first_event_every_probability_is_one_half(tmp_path: Path) -> None:
    arm = Arm("river-fm")
    predictor = predictor_of(tmp_path, arm.content())
    assert predictor.probabilities(predictor.encode([{}, {"site": "a"}])).tolist() == [0.5, 0.5]


def test_serving_a_river_model_imports_neither_river_nor_torch(tmp_path: Path) -> None:
    arm = Arm("river-fm")
    arm.learn(examples(30, seed=1))
    write_snapshot(tmp_path, arm.content())
    program = (
        "import sys; from pathlib import Path; from stream_ctr.predictors.predictor import Predictor; "
        "from stream_ctr.predictors.reader import load_snapshot; "
        "p = Predictor(load_snapshot(Path(sys.argv[1]))); p.probabilities(p.encode([{'age': 3}])); "
        "print([name for name in ('river', 'torch') if name in sys.modules])"
    )
    run = subprocess.run(
        [sys.executable, "-c", program, str(path_of(tmp_path, 1))], capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "[]"


def test_networks_are_still_written_in_the_first_format(tmp_path: Path) -> None:
    """So that a server of an earlier version goes on with the snapshots of a newer trainer."""
    write_snapshot(tmp_path / "network", example_snapshot())
    write_snapshot(tmp_path / "river", Arm("river-lr").content())
    network, river = (path_of(tmp_path / kind, 1) / MANIFEST for kind in ("network", "river"))
    assert b'"format": 1' in network.read_bytes()
    assert b'"river"' not in network.read_bytes()
    assert b'"format": 2' in river.read_bytes()


def broken(content: SnapshotContent) -> list[tuple[SnapshotContent, str]]:
    model = content.model
    assert isinstance(model, RiverModel)
    return [
        (replace(content, rows=content.rows[:, :-1]), r"float64 \[R, 9\]"),
        (replace(content, rows=content.rows.astype(np.float32)), "rows are float32"),
        (replace(content, dense={}), "dense parameters are nothing"),
        (replace(content, dense={"intercept": np.zeros(2)}), r"intercept \[1\]"),
        (replace(content, model=RiverModel("river-fm", "logistic", 8)), "logistic and has 8 factors"),
        (replace(content, rows=content.rows[:2]), "refers to rows beyond its 2"),
    ]


def test_arrays_that_do_not_match_the_model_are_rejected(tmp_path: Path) -> None:
    arm = Arm("river-fm")
    arm.learn(examples(30, seed=1))
    for number, (content, text) in enumerate(broken(arm.content())):
        with pytest.raises(StateError, match=text):
            predictor_of(tmp_path / str(number), content)


@pytest.mark.parametrize("name", ["river-tree", "river:naive_bayes.GaussianNB"])
def test_a_classifier_that_cannot_be_exported_is_reported(name: str) -> None:
    learner: RiverLearner = river_learner(name)
    with pytest.raises(StateError, match=f"{name} cannot serve from a snapshot; .* river-ftrl, river-lr"):
        learner.weights()
    no_rows = State({"intercept": np.zeros(1)}, {"river": {"name": "x", "form": "logistic"}})
    tables = FeatureTables(np.array([0], np.int32), 1, FeaturesConfig())
    with pytest.raises(StateError, match="these weights of a river model"):
        snapshot_content(ModelConfig(), (), no_rows, tables.lookup_arrays(), State(), 0)
