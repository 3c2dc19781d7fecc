"""Skip logits attached to a network that was trained without them: predictions stay the same."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from stream_ctr.cli import main
from stream_ctr.config.features import slot_fields
from stream_ctr.config.learner import LearnerConfig
from stream_ctr.config.model import ModelConfig
from stream_ctr.config.settings import load_settings
from stream_ctr.daemon.checkpoint import CheckpointStore
from stream_ctr.daemon.process import StateLock
from stream_ctr.datasets.base import resolve_fields
from stream_ctr.learners.build import build_learner
from tests.support.faulty_streams import write_config, write_stream

TORCH = '[learner]\nkind = "torch"\ndevice = "cpu"\n'


def config(folder: Path, model: str) -> Path:
    """A configuration of the state folder ``folder/state`` with more settings of the model."""
    path = write_config(folder, "state", TORCH)
    path.write_text(path.read_text("utf-8").replace("[model]\n", f"[model]\n{model}\n"), "utf-8")
    return path


def train(path: Path) -> int:
    return main(["train", "--config", str(path), "--until-idle", "0.2"])


def attach(folder: Path, path: Path) -> int:
    state = str(folder / "state" / "main")
    return main(["checkpoint", "attach-sml", state, "--config", str(path), "--json"])


def newest(folder: Path) -> CheckpointStore:
    return CheckpointStore(folder / "state" / "main" / "checkpoints", 1000)


@pytest.mark.parametrize(
    ("base", "skips"),
    [
        ("sml = false", "sml = true"),
        (
            'backbone = "deepfm"\nsml = false',
            'backbone = "deepfm"\nsml = true\nskip = "meta_sigmoid"\nscale = "low_rank"\nscale_rank = 2',
        ),
    ],
)
def test_attached_skip_logits_change_no_bit_and_are_learned(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], base: str, skips: str
) -> None:
    write_stream(tmp_path, 120)
    assert train(config(tmp_path, base)) == 0
    before = newest(tmp_path).load()
    assert before is not None
    capsys.readouterr()
    path = config(tmp_path, skips)
    assert attach(tmp_path, path) == 0
    report = json.loads(capsys.readouterr().out)
    after = newest(tmp_path).load()
    assert after is not None
    assert after.manifest.version == before.manifest.version + 1
    assert report["folder"].endswith(f"{after.manifest.version:012d}")
    old, new = before.parts["learner"], after.parts["learner"]
    assert report["dense_parameters"] + report["skip_parameters"] == new.arrays["dense.weight"].size
    for name, array in old.arrays.items():
        if name.startswith("rows."):
            np.testing.assert_array_equal(new.arrays[name], array)
    assert {k: v.values for k, v in after.parts.items() if k != "learner"} == {
        k: v.values for k, v in before.parts.items() if k != "learner"
    }

    settings = load_settings(path)
    fields = resolve_fields(settings.features)
    slots = slot_fields(fields)
    rows = np.random.default_rng(1).integers(0, len(old.arrays["rows.weight"]), (200, len(slots)))
    predicted = []
    for text, state in ((base, old), (skips, new)):
        arm = load_settings(config(tmp_path, text)).arm(None)
        learner = build_learner(arm.model, arm.optimizer, arm.learner, slots, len(fields))
        learner.load_state(state)
        predicted.append(learner.predict(rows))
    assert predicted[0].tobytes() == predicted[1].tobytes()

    assert train(config(tmp_path, skips)) == 0  # resumes: nothing of the log is read again
    write_stream_on = newest(tmp_path).load()
    assert write_stream_on is not None
    assert write_stream_on.manifest.identity == after.manifest.identity


def test_attaching_fails_with_the_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_stream(tmp_path, 20)
    assert attach(tmp_path, config(tmp_path, "sml = true")) == 1
    assert "no checkpoint" in capsys.readouterr().err
    assert train(config(tmp_path, "sml = false")) == 0
    versions = newest(tmp_path).versions()
    for model, status, message in (
        ("sml = false", 2, "model.sml = false for arm 'main'"),
        ('backbone = "dcn"', 1, 'model.backbone = "dnn" (now "dcn")'),
        ("base_rate = 0.1", 1, "model.base_rate = 0.5 (now 0.1)"),
    ):
        capsys.readouterr()
        assert attach(tmp_path, config(tmp_path, model)) == status
        assert message in capsys.readouterr().err
    with StateLock(tmp_path / "state" / "main"):
        assert attach(tmp_path, config(tmp_path, "sml = true")) == 1
    assert "in use by process" in capsys.readouterr().err
    assert newest(tmp_path).versions() == versions
    assert attach(tmp_path, config(tmp_path, "sml = true")) == 0
    capsys.readouterr()
    assert attach(tmp_path, config(tmp_path, "sml = true")) == 1
    assert "already has skip logits" in capsys.readouterr().err


def test_an_attached_skip_has_a_gradient() -> None:
    # with W_i = 0 the skips still learn: their gradient is tanh(s x), not 0
    from stream_ctr.config.optimizer import OptimizerConfig
    from stream_ctr.training.attach_sml import attach_sml
    from tests.support.learner_events import SINGLE, make_batch

    models = [ModelConfig(embedding=4, hidden=(6,), sml=sml, embedding_scale=0.3) for sml in (False, True)]
    learner = LearnerConfig(kind="torch", device="cpu")
    base, fresh = (build_learner(m, OptimizerConfig(), learner, SINGLE.slot_field, 4) for m in models)
    batch = make_batch(SINGLE, 60, seed=1)
    base.learn(batch)
    state = attach_sml(base.state(), fresh.state())
    fresh.load_state(state)
    fresh.learn(make_batch(SINGLE, 60, seed=1))
    moved = fresh.state().arrays["dense.weight"] != state.arrays["dense.weight"]
    assert moved[-6:].any()
