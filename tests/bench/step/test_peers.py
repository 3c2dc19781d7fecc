"""Peers of the learning step: each learns the same rows, and a failing peer is reported in the table."""

from __future__ import annotations

import importlib
from functools import partial

import numpy as np
import pytest

from stream_ctr.batch import Batch
from stream_ctr.bench.step.data import FIELDS, step_batches
from stream_ctr.bench.step.entries import HELEN, HELEN_ADAM, Entry, Runs
from stream_ctr.bench.step.measure import CHUNK, StepBench, _make, _run
from stream_ctr.bench.step.peers import VOWPAL_WABBIT, DeepRiver, VowpalWabbit
from stream_ctr.bench.step.peers_torch import CompiledTorch
from stream_ctr.bench.step.report import as_json
from stream_ctr.config.learner import LearnerConfig
from stream_ctr.config.model import ModelConfig
from stream_ctr.config.optimizer import OptimizerConfig
from stream_ctr.errors import ModelError
from stream_ctr.learners.base import LearnResult
from stream_ctr.learners.torch.learner import TorchLearner


class Breaks:
    """A peer that works for one chunk."""

    chunks = 0

    def learn(self, batch: Batch) -> LearnResult:
        self.chunks += 1
        if self.chunks > 1:
            raise RuntimeError("no C++ compiler\nwas found")
        return LearnResult(
            np.full(len(batch), 0.5, np.float32), np.zeros(len(batch), bool), np.zeros(len(batch))
        )


def missing_package() -> Runs:
    importlib.import_module("a_package_that_nobody_has")
    raise AssertionError


def test_a_failing_peer_is_reported_without_results() -> None:
    (first, second), _ = step_batches(None, 2 * CHUNK, CHUNK)
    breaks = Entry("torch.compile", "128-64 SML", "helen", 512, Breaks, foreign=True)
    absent = Entry("peer", "linear", "sgd", 512, missing_package, foreign=True)
    for entry in (breaks, absent):
        _make(entry)
    for batch in (first, second):
        if breaks.running is not None:
            _run(breaks, batch, timed=True)
    rows = as_json(StepBench([breaks, absent], "Zipf rows", 512, 512, first.label))
    assert rows[0]["missing"] == "does not run here: RuntimeError: no C++ compiler was found"
    assert rows[0]["events_per_second"] is None
    assert rows[1]["missing"] == "not installed: a_package_that_nobody_has"


def test_a_failure_of_an_own_learner_is_raised() -> None:
    def broken() -> Runs:
        raise ModelError("of our own")

    with pytest.raises(ModelError, match="of our own"):
        _make(Entry("compiled", "128-64 SML", "helen", 512, broken))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("optimizer", [HELEN, HELEN_ADAM], ids=["adagrad", "adam"])
def test_the_step_through_torch_compile_is_the_torch_learner_s(optimizer: OptimizerConfig) -> None:
    model = ModelConfig(embedding=4, hidden=(8, 4))
    batches, _ = step_batches(None, 2 * CHUNK, CHUNK)
    slots = list(range(FIELDS))
    reference = TorchLearner(model, optimizer, LearnerConfig(device="cpu"), slots, FIELDS)
    compiled = CompiledTorch(model, optimizer, FIELDS)
    for batch in batches:
        np.testing.assert_allclose(
            compiled.learn(batch).probability, reference.learn(batch).probability, atol=2e-5
        )


@pytest.mark.parametrize("kind", VOWPAL_WABBIT)
def test_vowpal_wabbit_predicts_before_it_learns(kind: str) -> None:
    vowpalwabbit = pytest.importorskip("vowpalwabbit", reason="a peer of the bench, in the extra [peers]")
    batches, _ = step_batches(None, CHUNK, CHUNK)
    asked = vowpalwabbit.Workspace(VOWPAL_WABBIT[kind])
    expected = []
    for rows, label in zip(batches[0].rows.tolist(), batches[0].label.tolist(), strict=True):
        features = " ".join(map(str, rows))
        unlabelled = asked.parse(f"| {features}")
        expected.append(asked.predict(unlabelled))
        asked.finish_example(unlabelled)
        labelled = asked.parse(f"{1 if label else -1} | {features}")
        asked.learn(labelled)
        asked.finish_example(labelled)
    found = VowpalWabbit(kind).learn(batches[0]).probability
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert np.ptp(found) > 0.01


def test_deep_river_learns_the_rows() -> None:
    pytest.importorskip("deep_river", reason="a peer of the bench that asks for older packages than ours")
    batches, _ = step_batches(None, CHUNK, CHUNK)
    peer = partial(DeepRiver(FIELDS).learn, batches[0])
    first, last = peer().probability, [peer().probability for _ in range(8)][-1]
    label = batches[0].label > 0.5
    assert last[label].mean() - last[~label].mean() > first[label].mean() - first[~label].mean()
