"""Snapshots of every network are served; torch is used only without a compiled pass."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args, get_type_hints

import msgspec
import numpy as np
import pytest

from stream_ctr.config.model import FIRST_KEYS, ModelConfig
from stream_ctr.errors import StateError
from stream_ctr.predictors.forward import build_forward, is_compiled
from stream_ctr.predictors.predictor import Predictor
from stream_ctr.predictors.reader import load_snapshot
from stream_ctr.predictors.snapshot import MANIFEST, digest_of, path_of, write_snapshot
from stream_ctr.predictors.torch_forward import TorchForward
from tests.predictors.test_predictor import Trained, predictor_of, random_features
from tests.support.backbone_variants import BACKBONES, small
from tests.support.snapshots import FIELDS, SMALL, example_snapshot, random_dense, random_rows, random_table

SKIPS = get_args(get_type_hints(ModelConfig)["skip"])


def wide(**settings: Any) -> ModelConfig:
    """Wide enough, and with embeddings large enough, to tell events apart after a few updates."""
    return small(hidden=(24, 16), embedding_scale=1.0, **settings)


MODELS = [
    *(wide(backbone=name, sml=sml) for name in BACKBONES for sml in (False, True)),
    wide(backbone="dcnv2", cross_experts=2),
    wide(backbone="dlrm", bottom_fields=2, bottom=(16,)),
    *(wide(sml=True, skip=form) for form in SKIPS),
    *(wide(backbone=name, sml=True, skip="learned_scale") for name in BACKBONES[1:]),
    wide(sml=True, scale="scalar"),
    wide(sml=True, scale="low_rank"),
    wide(backbone="xdeepfm", sml=True, skip="meta_relu", scale="low_rank"),
]


@pytest.mark.parametrize("model", MODELS, ids=[f"{m.backbone}-{i}" for i, m in enumerate(MODELS)])
def test_a_snapshot_predicts_what_the_learner_predicts(tmp_path: Path, model: ModelConfig) -> None:
    trained = Trained(60, model)
    predictor = predictor_of(tmp_path, trained.content())
    keys = predictor.encode(random_features(60, 2))
    expected = trained.learner.predict(trained.tables.lookup(keys))
    np.testing.assert_allclose(predictor.probabilities(keys), expected, rtol=0, atol=1e-6)
    assert len(set(expected.tolist())) > 5, "the model says something"


def test_both_passes_agree_where_both_can_serve() -> None:
    dense, table = random_dense(SMALL, len(FIELDS)), random_table(SMALL, 50)
    rows = random_rows([0, 1, 1, 1, 2, 3], len(table), 1100)  # more than one pass of torch
    one, other = build_forward(SMALL, FIELDS, dense, table), TorchForward(SMALL, FIELDS, dense, table)
    np.testing.assert_allclose(one.logits(rows), other.logits(rows), rtol=1e-4, atol=1e-4)
    assert other.logits(rows[:0]).shape == (0,)


def test_only_the_compiled_family_is_served_without_torch() -> None:
    assert is_compiled(ModelConfig(cross_layers=9, dropout=0.1))
    assert is_compiled(ModelConfig(scale="scalar"))
    assert not is_compiled(ModelConfig(scale="low_rank"))
    assert not is_compiled(ModelConfig(skip="tanh"))
    assert is_compiled(ModelConfig(skip="tanh", sml=False))


def test_serving_the_compiled_family_imports_no_torch(tmp_path: Path) -> None:
    write_snapshot(tmp_path, example_snapshot())
    program = (
        "import sys; from pathlib import Path; from stream_ctr.predictors.predictor import Predictor; "
        "from stream_ctr.predictors.reader import load_snapshot; "
        "p = Predictor(load_snapshot(Path(sys.argv[1]))); p.probabilities(p.encode([{'age': 3}])); "
        "print('torch' in sys.modules)"
    )
    run = subprocess.run(
        [sys.executable, "-c", program, str(path_of(tmp_path, 1))], capture_output=True, text=True, check=True
    )
    assert run.stdout.split() == ["False"]


def test_arrays_of_another_network_are_refused_by_name(tmp_path: Path) -> None:
    content = Trained(5, small(backbone="deepfm")).content()
    for other, message in (
        (replace(content, model=small(backbone="dcn")), r"do not match its model: .*cross\.1\.weight"),
        (replace(content, rows=content.rows[:, :3]), r"rows are float32 .* \[R, 4\]"),
        (replace(content, model=small(backbone="ipnn")), r"tower\.1\.weight is float32"),
        (replace(content, model=small(backbone="deepfm", embedding=0)), r"cannot be built: model\.embedding"),
    ):
        with pytest.raises(StateError, match=message):
            predictor_of(tmp_path, other)


def test_a_snapshot_older_than_a_setting_is_read(tmp_path: Path) -> None:
    version = write_snapshot(tmp_path, example_snapshot())
    path = path_of(tmp_path, version) / MANIFEST
    table = msgspec.json.decode(path.read_bytes())
    table["model"] = {key: table["model"][key] for key in FIRST_KEYS}
    table["seal"] = digest_of({**table, "seal": ""})
    path.write_bytes(msgspec.json.encode(table))
    assert Predictor(load_snapshot(path.parent)).snapshot.manifest.model == SMALL
    table["model"]["slope"] = 0.3
    path.write_bytes(msgspec.json.encode(table))
    with pytest.raises(StateError, match="its seal does not match"):
        load_snapshot(path.parent)
