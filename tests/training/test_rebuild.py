"""Arms of classifiers without a state: every start learns the log again, and comes to the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from stream_ctr.config.learner import LearnerConfig
from stream_ctr.config.model import ModelConfig
from stream_ctr.config.optimizer import OptimizerConfig
from stream_ctr.daemon.checkpoint import SEGMENTS, CheckpointStore
from stream_ctr.errors import ModelError, OffsetRangeError
from stream_ctr.events.open import open_log
from stream_ctr.learners.build import build_learner
from stream_ctr.state.state import State
from stream_ctr.training.core import Core
from tests.support.faulty_streams import extend_stream, write_config, write_stream
from tests.training.test_publisher import FEATURES, learn

BAYES = """
[learner]
kind = "river"
river = "river:naive_bayes.GaussianNB"
rebuild = true
"""


def write_bayes(folder: Path) -> Path:
    config = write_config(folder, "state", BAYES)
    text = config.read_text("utf-8").replace("[join]\n", "[join]\nmemory_bytes = 16384\n")
    config.write_text(text.replace("snapshot_seconds = 0", "snapshot_seconds = 0.01"), "utf-8")
    return config


def outcome(core: Core) -> tuple[State, list[float]]:
    """Pipeline and metrics of a run, and the learner's predictions."""
    rows = core.pipeline.tables.lookup(core.pipeline.key_encoder.peek_keys_many(FEATURES))
    parts = {"pipeline": core.pipeline.state(), "metrics": core.metrics.state()}
    return State.gather(parts), core.learner.predict(rows).tolist()


def test_every_start_learns_the_log_again_with_the_same_result(tmp_path: Path) -> None:
    write_stream(tmp_path, 100)
    config = write_bayes(tmp_path)
    first = learn(config, "main")
    log = open_log(f"sqlite:///{tmp_path}/clicks.db")
    extend_stream(log, 1000, 1060)
    log.close()
    longer = learn(config, "main")
    again = learn(config, "main")
    (state, predicted), (same, predicted_again) = outcome(longer), outcome(again)
    assert same.equals(state)
    assert predicted_again == predicted
    assert longer.learned == again.learned > first.learned > 50
    assert len(np.unique(predicted)) > 1
    checkpoints = CheckpointStore(tmp_path / "state" / "main" / "checkpoints", 3)
    loaded = checkpoints.load()
    assert loaded is not None
    assert loaded.manifest.emitted == 0, "the only checkpoint is that of the start"
    used = {segment.name for segment in again.pipeline.stage.segments()}
    assert {path.name for path in (checkpoints.folder / SEGMENTS).iterdir()} == used
    assert not (tmp_path / "state" / "main" / "snapshots").exists()


def test_another_log_is_rejected(tmp_path: Path) -> None:
    write_stream(tmp_path, 30)
    config = write_bayes(tmp_path)
    learn(config, "main")
    for path in tmp_path.glob("clicks.db*"):
        path.unlink()
    write_stream(tmp_path, 30)
    with pytest.raises(OffsetRangeError, match="its offsets refer to other events"):
        learn(config, "main")


@pytest.mark.parametrize(
    ("learner", "says"),
    [
        (
            LearnerConfig(kind="river", river="river-lr", rebuild=True),
            "river-lr can be saved: remove it",
        ),
        (LearnerConfig(kind="river", river="river-tree"), "learner.rebuild = true"),
        (LearnerConfig(rebuild=True), "is only for learner.kind = 'river'"),
    ],
)
def test_rebuilding_is_for_what_cannot_be_saved(learner: LearnerConfig, says: str) -> None:
    with pytest.raises(ModelError, match=says):
        build_learner(ModelConfig(), OptimizerConfig(), learner, [0], 1)
