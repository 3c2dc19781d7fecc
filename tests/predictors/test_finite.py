"""Snapshots of diverged models are detected before they serve."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_ctr.config.model import ModelConfig
from stream_ctr.errors import StateError
from stream_ctr.models.build import build_network
from stream_ctr.predictors.predictor import Predictor
from stream_ctr.predictors.reader import SnapshotReader, open_fixed
from stream_ctr.predictors.river_forward import RiverModel
from stream_ctr.predictors.snapshot import FrozenContent, SnapshotContent, path_of, versions, write_snapshot
from stream_ctr.state.state import Arrays
from tests.support.snapshots import FIELDS, SMALL, example_snapshot, random_dense, random_rows, random_table

SLOTS = [0, 1, 1, 1, 2, 3]


def predictor_of(folder: Path, content: FrozenContent) -> Predictor:
    return Predictor(open_fixed(path_of(folder, write_snapshot(folder, content))))


def scaled(content: SnapshotContent, factor: float, *names: str) -> SnapshotContent:
    """The same with large weights, all of them finite."""
    dense = {
        name: (array * np.float32(factor) if not names or name in names else array)
        for name, array in content.dense.items()
    }
    assert all(np.isfinite(array).all() for array in dense.values())
    return replace(content, dense=dense)


def check_refused(predictor: Predictor) -> None:
    with pytest.raises(StateError, match=r"diverged: \d+ of \d+ predictions are not finite"):
        predictor.check_finite()


@pytest.mark.parametrize("factor", [1e-6, 1.0, 1e3])
def test_a_finite_model_passes(tmp_path: Path, factor: float) -> None:
    predictor_of(tmp_path, scaled(example_snapshot(), factor)).check_finite()


@pytest.mark.parametrize(
    "names", [(), ("tower.1.weight", "tower.2.weight"), ("tower.2.weight", "sml.2.scale")]
)
def test_finite_weights_with_non_finite_predictions_are_found(tmp_path: Path, names: tuple[str, ...]) -> None:
    predictor = predictor_of(tmp_path, scaled(example_snapshot(), 1e25, *names))
    with np.errstate(all="ignore"):
        p = predictor.probabilities(predictor.encode([{"site": "news", "age": 31}]))
    assert np.isnan(p).all(), "the case is one"
    check_refused(predictor)


def test_one_row_among_many_is_found(tmp_path: Path) -> None:
    """What most events never meet: a value whose row alone overflows."""
    content = example_snapshot()
    rows = np.concatenate([content.rows, random_table(SMALL, 70_000)])
    rows[69_000] = np.float32(3e38)
    check_refused(predictor_of(tmp_path, replace(content, rows=rows)))


def test_a_non_finite_weight_is_found(tmp_path: Path) -> None:
    for place in ("rows", "dense"):
        content = example_snapshot()
        (content.rows if place == "rows" else content.dense["output.bias"])[-1] = np.nan
        check_refused(predictor_of(tmp_path, content))


@pytest.mark.parametrize(
    "model",
    [
        ModelConfig(embedding=4, hidden=(8, 6), backbone="wide_deep"),
        ModelConfig(embedding=4, hidden=(8, 6), backbone="ipnn"),
        ModelConfig(embedding=4, hidden=(8, 6), backbone="deepfm"),
        ModelConfig(embedding=4, hidden=(8, 6), backbone="dcn"),
        ModelConfig(embedding=4, hidden=(8, 6), backbone="dcnv2", cross_experts=2, cross_rank=3),
        ModelConfig(embedding=4, hidden=(8, 6), backbone="dlrm"),
        ModelConfig(embedding=4, hidden=(8, 6), backbone="xdeepfm", cin=(5, 5)),
        ModelConfig(embedding=4, hidden=(8, 6), backbone="autoint", attention_width=4),
        ModelConfig(embedding=4, hidden=(8, 6), scale="low_rank", scale_rank=2),
        ModelConfig(embedding=4, hidden=(8, 6), skip="relu"),
        ModelConfig(embedding=4, hidden=(64,) * 20),
    ],
    ids=lambda model: f"{model.backbone}-{model.scale}-{model.skip}-{len(model.hidden)}",
)
def test_every_backbone_passes_if_finite_and_is_rejected_if_not(tmp_path: Path, model: ModelConfig) -> None:
    network = build_network(model, len(FIELDS))
    random = np.random.default_rng(5)
    dense = {
        item.name: random.normal(0, 0.5, item.shape).astype(np.float32) for item in network.layout.parameters
    }
    rows = random.normal(0, 1, (len(example_snapshot().rows), network.row_width)).astype(np.float32)
    content = replace(example_snapshot(), model=model, dense=dense, rows=rows)
    predictor_of(tmp_path / "sound", content).check_finite()
    check_refused(predictor_of(tmp_path / "diverged", scaled(replace(content, rows=rows * 1e20), 1e25)))


def test_a_river_model(tmp_path: Path) -> None:
    model = RiverModel("river-fm", "factorisation", 2)
    rows = np.random.default_rng(5).normal(0, 1, (len(example_snapshot().rows), 3))

    def weighing(factor: float) -> FrozenContent:
        like = example_snapshot()
        dense: Arrays = {"intercept": np.zeros(1)}
        weights = rows * factor
        return FrozenContent(
            model, like.fields, dense, weights, like.vocabulary, like.encoder, like.event_time_ms
        )

    predictor_of(tmp_path / "sound", weighing(1.0)).check_finite()
    check_refused(predictor_of(tmp_path / "diverged", weighing(1e200)))


@given(st.integers(0, 10**6), st.floats(-3, 12))
@settings(max_examples=40, deadline=None)
def test_models_that_pass_predict_finite_numbers(
    tmp_path_factory: pytest.TempPathFactory, seed: int, magnitude: float
) -> None:
    """Whatever rows are asked for, and however large the weights are."""
    content = example_snapshot(seed)
    content = scaled(replace(content, dense=random_dense(SMALL, 4, seed)), 10.0**magnitude)
    predictor = predictor_of(tmp_path_factory.mktemp("drawn"), content)
    try:
        predictor.check_finite()
    except StateError:
        return
    rows = random_rows(SLOTS, len(content.rows), 3000, seed)
    with np.errstate(all="ignore"):
        assert np.isfinite(predictor._forward.probabilities(rows)).all()


def test_a_rejected_snapshot_is_not_published_and_the_last_one_stays(tmp_path: Path) -> None:
    write_snapshot(tmp_path, example_snapshot())
    reader = SnapshotReader(tmp_path)
    assert reader.poll()

    def check(folder: Path) -> None:
        Predictor(open_fixed(folder)).check_finite()

    with pytest.raises(StateError, match="diverged"):
        write_snapshot(tmp_path, scaled(example_snapshot(), 1e25), check=check)
    assert versions(tmp_path) == [1]
    assert not reader.poll()
    assert (reader.error, reader.failures) == ("", 0)
    assert write_snapshot(tmp_path, example_snapshot(2), check=check) == 2
    assert reader.poll()
