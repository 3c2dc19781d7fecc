"""From a trainer's parts through a snapshot to probabilities."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from stream_ctr.batch import LEARN, PREDICT, Batch
from stream_ctr.config.features import FeaturesConfig, FieldConfig
from stream_ctr.config.learner import LearnerConfig
from stream_ctr.config.model import ModelConfig
from stream_ctr.config.optimizer import OptimizerConfig
from stream_ctr.errors import RecordError, StateError
from stream_ctr.features.keys.encoder import KeyEncoder
from stream_ctr.features.keys.value_batch import Features
from stream_ctr.features.rows.tables import FeatureTables
from stream_ctr.learners.torch.learner import TorchLearner
from stream_ctr.predictors.export import snapshot_content
from stream_ctr.predictors.predictor import Predictor
from stream_ctr.predictors.reader import load_snapshot
from stream_ctr.predictors.snapshot import SnapshotContent, path_of, write_snapshot
from tests.support.snapshots import FIELDS, SMALL, example_snapshot

LEARNED_FIELDS = (*FIELDS, FieldConfig("speed", "float", buckets=4))


def predictor_of(folder: Path, content: SnapshotContent, previous: Predictor | None = None) -> Predictor:
    version = write_snapshot(folder, content)
    return Predictor(load_snapshot(path_of(folder, version)), previous)


def random_features(events: int, seed: int) -> list[Features]:
    random = np.random.default_rng(seed)
    return [
        {
            "site": f"site {random.integers(20)}",
            "tags": [f"tag {n}" for n in random.integers(0, 30, random.integers(0, 5))],
            "age": int(random.integers(0, 90)) if random.random() < 0.8 else None,
            "price": float(random.exponential(8.0)),
            "speed": float(random.normal()),
        }
        for _ in range(events)
    ]


class Trained:
    """A trainer's parts after some hundred events."""

    def __init__(self, events: int = 400, model: ModelConfig = SMALL) -> None:
        self.model = model
        self.encoder = KeyEncoder(LEARNED_FIELDS)
        self.tables = FeatureTables(
            self.encoder.slot_field,
            len(LEARNED_FIELDS),
            FeaturesConfig(fields=LEARNED_FIELDS, minimum_count=2),
        )
        self.learner = TorchLearner(
            model,
            OptimizerConfig(row_rate=0.3, dense_rate=0.02),
            LearnerConfig(device="cpu"),
            self.encoder.slot_field.tolist(),
            len(LEARNED_FIELDS),
        )
        keys = np.stack([self.encoder.keys(features) for features in random_features(events, 1)])
        action = np.full(events, PREDICT | LEARN, np.uint8)
        times = np.arange(events, dtype=np.int64)
        encoded = self.tables.encode(keys, action, times)
        nothing: NDArray[np.float32] = np.full(events, np.nan, np.float32)
        label = (keys[:, 0] % np.uint64(3) == 0).astype(np.float32)
        self.learner.learn(
            Batch(
                encoded.rows,
                encoded.ratio,
                label,
                np.ones(events, np.float32),
                action,
                nothing,
                times,
                times,
                nothing,
                encoded.changes,
            )
        )

    def content(self) -> SnapshotContent:
        return snapshot_content(
            self.model,
            LEARNED_FIELDS,
            self.learner.state(),
            self.tables.lookup_arrays(),
            self.encoder.state(),
            event_time_ms=77,
            model_version="seven",
        )


def test_a_snapshot_of_a_trainer_predicts_what_the_trainer_predicts(tmp_path: Path) -> None:
    trained = Trained()
    before = (trained.encoder.state(), trained.tables.state(), trained.learner.state())
    predictor = predictor_of(tmp_path, trained.content())
    features = random_features(200, 2)
    keys = predictor.encode(features)
    assert keys.tobytes() == np.stack([trained.encoder.peek_keys(one) for one in features]).tobytes()
    expected = trained.learner.predict(trained.tables.lookup(keys))
    found = predictor.probabilities(keys)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
    assert expected.std() > 0.05, "the model says something"
    assert predictor.model_version == "seven"
    after = (trained.encoder.state(), trained.tables.state(), trained.learner.state())
    assert all(a.equals(b) for a, b in zip(after, before, strict=True))


def test_predicting_changes_nothing(tmp_path: Path) -> None:
    predictor = predictor_of(tmp_path, Trained().content())
    features = random_features(50, 3)
    first = predictor.probabilities(predictor.encode(features))
    for seed in range(4, 8):
        predictor.probabilities(predictor.encode(random_features(100, seed)))
    assert predictor.probabilities(predictor.encode(features)).tobytes() == first.tobytes()


def test_an_unknown_value_uses_the_default_row_of_its_field(tmp_path: Path) -> None:
    predictor = predictor_of(tmp_path, example_snapshot())
    rows = predictor.rows(predictor.encode([{"site": "nobody knows", "tags": ["x", "y"]}]))
    slots = KeyEncoder(FIELDS).slot_field.tolist()
    assert rows[0, slots.index(0)] == 0
    assert sorted(rows[0, 1:4].tolist()) == [-1, -1, 1]


def test_features_outside_the_schema_are_refused(tmp_path: Path) -> None:
    predictor = predictor_of(tmp_path, example_snapshot())
    with pytest.raises(RecordError, match="sight"):
        predictor.encode([{"sight": "x"}])


def test_a_request_is_predicted_as_its_merged_candidates(tmp_path: Path) -> None:
    predictor = predictor_of(tmp_path, example_snapshot())
    context: Features = {"site": "news", "age": 31}
    own: list[Features] = [{"tags": ["a"]}, {"site": "sport", "price": 2.0}, {"age": None}]
    merged = predictor.encode([{**context, **features} for features in own])
    keys = predictor.encode_request(context, own)
    assert keys.tobytes() == merged.tobytes()


def test_each_snapshot_has_its_own_learned_boundaries(tmp_path: Path) -> None:
    young, old = Trained(300), Trained(600)
    first = predictor_of(tmp_path / "a", young.content())
    second = predictor_of(tmp_path / "b", old.content(), previous=first)
    features = random_features(300, 9)
    assert first.encode(features).tobytes() == young.encoder.peek_keys_many(features).tobytes()
    assert second.encode(features).tobytes() == old.encoder.peek_keys_many(features).tobytes()
    assert first.encode(features).tobytes() != second.encode(features).tobytes()
    assert not second.shares_keys(first)


def test_predictors_share_keys_when_the_fields_alone_decide(tmp_path: Path) -> None:
    first = predictor_of(tmp_path / "a", example_snapshot(1))
    second = predictor_of(tmp_path / "b", example_snapshot(2), previous=first)
    assert second.shares_keys(first)
    other = replace(example_snapshot(), fields=(*FIELDS[:3], replace(FIELDS[3], boundaries=(2.0,))))
    assert not predictor_of(tmp_path / "c", other, previous=first).shares_keys(first)


def damaged_tables() -> list[tuple[str, NDArray[np.uint64], NDArray[np.int32]]]:
    arrays = example_snapshot().vocabulary
    keys, rows = arrays["table_keys"], arrays["table_rows"]
    beyond, below = rows.copy(), rows.copy()
    beyond[keys != 0] += 1
    below[keys != 0] -= 100
    return [
        ("not a table", keys[:1000], rows[:1000]),
        ("not a table", keys, rows[:512]),
        ("not a table", np.where(keys == 0, np.uint64(1), keys), rows),
        ("not a table", keys.astype(np.int64), rows),
        ("not a table", keys[:0], rows[:0]),
        ("beyond its", keys, beyond),
        ("beyond its", keys, below),
    ]


@pytest.mark.parametrize(("text", "keys", "rows"), damaged_tables())
def test_a_vocabulary_unsafe_for_compiled_code_is_rejected(
    tmp_path: Path, text: str, keys: NDArray[np.uint64], rows: NDArray[np.int32]
) -> None:
    content = replace(example_snapshot(), vocabulary={"table_keys": keys, "table_rows": rows})
    with pytest.raises(StateError, match=text):
        predictor_of(tmp_path, content)
    with pytest.raises(StateError, match="only"):
        predictor_of(tmp_path / "b", replace(content, vocabulary={"only": keys}))
