"""The snapshots of each arm predict what its trainer predicts."""

from __future__ import annotations

import io
import json
import math
import threading
from pathlib import Path

import numpy as np
import pytest

from stream_ctr.config.settings import load_settings
from stream_ctr.events.log import Record
from stream_ctr.events.open import open_log
from stream_ctr.events.records import FeatureValue
from stream_ctr.predictors.predictor import Predictor
from stream_ctr.predictors.reader import SnapshotReader, load_snapshot
from stream_ctr.predictors.snapshot import path_of, versions
from stream_ctr.reporting.progress import Reporter
from stream_ctr.training.core import Core
from stream_ctr.training.trainer import Trainer
from tests.support.faulty_streams import extend_stream, write_config, write_stream

ARMS = """
[[experiment.arms]]
name = "plain"
weight = 0.5
model = {embedding = 4, hidden = [8, 4], sml = false}
[[experiment.arms]]
name = "meta"
weight = 0.5
"""
FEATURES: list[dict[str, FeatureValue]] = [
    {"ad": "a1", "age": 30, "price": 2.5, "tags": ["x", "y"]},
    {"ad": "a2", "age": None, "price": 80.0, "tags": []},
    {"ad": "never seen", "age": 5, "tags": ["never", "w"]},
]


def learn(config: Path, arm: str) -> Core:
    settings = load_settings(config)
    log = open_log(settings.log.url)
    try:
        with Reporter("test", quiet=True) as reporter:
            trainer = Trainer(settings, settings.arm(arm), log, reporter)
            trainer.run(threading.Event(), until_idle=0.0)
            return trainer.core
    finally:
        log.close()


def test_each_arm_publishes_snapshots_that_predict_as_its_learner(tmp_path: Path) -> None:
    write_stream(tmp_path, 150)
    config = write_config(tmp_path, "state", ARMS)
    text = config.read_text("utf-8").replace("snapshot_seconds = 0", "snapshot_seconds = 0.05")
    config.write_text(text, "utf-8")
    answers = {}
    for arm in ("plain", "meta"):
        reader = SnapshotReader(tmp_path / "state" / arm / "snapshots")
        assert not reader.poll()
        versions = []
        for extent in (0, 1):
            if extent:
                log = open_log(f"sqlite:///{tmp_path}/clicks.db")
                start = sum(log.end_offsets("impressions").values())
                extend_stream(log, 1000 + start, 1030 + start)
                log.close()
            core = learn(config, arm)
            assert reader.poll(), reader.error
            assert reader.current is not None
            versions.append(reader.current.version)
            predictor = Predictor(reader.current)
            served = predictor.probabilities(predictor.encode(FEATURES))
            rows = core.pipeline.tables.lookup(core.pipeline.key_encoder.peek_keys_many(FEATURES))
            np.testing.assert_allclose(served, core.learner.predict(rows), rtol=1e-5)
            assert reader.current.manifest.model_version == f"{arm}-{core.learned}"
        assert versions == sorted(set(versions))
        answers[arm] = served
    assert not np.allclose(answers["plain"], answers["meta"])


@pytest.mark.parametrize("name", ["river-ftrl", "river-fm"])
def test_a_river_arm_publishes_snapshots_that_predict_as_its_learner(tmp_path: Path, name: str) -> None:
    write_stream(tmp_path, 80)
    config = write_config(tmp_path, "state", f'[learner]\nkind = "river"\nriver = "{name}"\n')
    text = config.read_text("utf-8").replace("snapshot_seconds = 0", "snapshot_seconds = 0.01")
    config.write_text(text, "utf-8")
    reader = SnapshotReader(tmp_path / "state" / "main" / "snapshots")
    for extent in (0, 1):
        if extent:
            log = open_log(f"sqlite:///{tmp_path}/clicks.db")
            extend_stream(log, 1000, 1040)
            log.close()
        core = learn(config, "main")
        assert reader.poll(), reader.error
        assert reader.current is not None
        predictor = Predictor(reader.current)
        rows = core.pipeline.tables.lookup(core.pipeline.key_encoder.peek_keys_many(FEATURES))
        found = predictor.probabilities(predictor.encode(FEATURES))
        np.testing.assert_allclose(found, core.learner.predict(rows), rtol=2e-7)
        assert len(set(found.tolist())) == 3


def test_a_diverged_model_is_reported_once_and_not_published(tmp_path: Path) -> None:
    write_stream(tmp_path, 150)
    config = write_config(tmp_path, "state", "[optimizer]\ndense_rate = 1e15\nrow_rate = 1e15\n")
    text = config.read_text("utf-8").replace("snapshot_seconds = 0", "snapshot_seconds = 0.001")
    config.write_text(text, "utf-8")
    settings, reported = load_settings(config), io.StringIO()
    log = open_log(settings.log.url)
    try:
        with Reporter("test", stream=reported, line_seconds=1e9) as reporter:
            trainer = Trainer(settings, settings.arm("main"), log, reporter)
            trainer.run(threading.Event(), until_idle=0.0)
    finally:
        log.close()
    reasons = [
        line["reason"] for line in map(json.loads, reported.getvalue().splitlines()) if "reason" in line
    ]
    diverged = [reason for reason in reasons if "diverged" in reason]
    assert len(diverged) == 1, "reported once, however often publishing is tried"
    published = versions(tmp_path / "state" / "main" / "snapshots")
    folder = tmp_path / "state" / "main" / "snapshots"
    for version in published:
        Predictor(load_snapshot(path_of(folder, version))).check_finite()


def test_the_metrics_score_the_served_probability(tmp_path: Path) -> None:
    """An impression with the arm's served probability is scored with it, not with the trainer's own."""
    write_stream(tmp_path, 0)
    log = open_log(f"sqlite:///{tmp_path}/clicks.db")
    values = [
        {"v": 1, "event_id": f"s{n}", "ts_ms": 10**12 + n, "features": {"ad": "a"}, "p": {"main": 0.25}}
        for n in range(20)
    ]
    records = [Record(str(v["event_id"]).encode(), json.dumps(v).encode(), 10**12) for v in values]
    log.append("impressions", records)
    log.close()
    core = learn(write_config(tmp_path, "state"), "main")
    result = core.metrics.result("lifetime")
    assert result.events == 20
    assert result.log_loss == pytest.approx(-math.log(0.75), rel=1e-12)
