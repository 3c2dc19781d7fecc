"""The networks to compare: same rows, same initial weights, one difference."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from stream_ctr.analysis.rows import Rows, open_rows
from stream_ctr.analysis.training import Initial, same_base, train
from stream_ctr.config.model import ModelConfig
from stream_ctr.config.optimizer import OptimizerConfig
from stream_ctr.config.settings import Settings
from stream_ctr.errors import DataError, UsageError
from stream_ctr.models.build import build_network
from tests.support.analysis_networks import write_criteo

MODEL = ModelConfig(embedding=2, hidden=(4, 3), sml=False)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Rows:
    path = tmp_path_factory.mktemp("rows") / "rows.tsv"
    write_criteo(path, 90)
    return read(path, 64, 20)


def read(path: Path, events: int, held_out: int, steps: int | None = None) -> Rows:
    arguments = argparse.Namespace(dataset="criteo", path=str(path), option=[], config=None)
    return open_rows(arguments, Settings(), events=events, held_out=held_out, chunk=16, steps=steps)


def test_optimizers_on_one_base_differ_only_in_the_perturbation() -> None:
    own = {"method", "perturb", "rho", "rho_dense", "xi"}
    base = dataclasses.asdict(same_base("adam", 2e-3))
    assert (base["row_rate"], base["dense_rate"], base["counts"]) == (2e-3, 2e-3, "stream")
    for name in ("sam", "asam", "helen", "helen-m", "helen-b"):
        other = dataclasses.asdict(same_base(name, 2e-3, 0.02))
        assert {"method", "rho"} <= {key for key in base if base[key] != other[key]} <= own
        assert other["rho"] == other["rho_dense"] == 0.02
    assert same_base("asam", 2e-3).rho == 0.5
    with pytest.raises(UsageError, match=r"no optimizer named 'adan' .* did you mean 'adam'"):
        same_base("adan", 0.01)


def test_held_out_rows_follow_the_learned_ones_and_create_no_row(rows: Rows) -> None:
    assert [len(batch) for batch in rows.batches] == [16] * 4
    assert rows.events == 64
    own = rows.held_out
    assert [example.event_id for example in own.examples] == [f"criteo-{n}" for n in range(64, 84)]
    known = {int(row) for batch in rows.batches for row in batch.rows.ravel()} | set(range(39))
    assert {int(row) for row in own.rows.ravel()} <= known
    assert own.label.tolist() == [example.label for example in own.examples]


def test_later_passes_initialize_no_row_and_use_all_counts(rows: Rows) -> None:
    passes = list(rows.steps(6))
    assert passes[:4] == list(rows.batches)
    for first, again in zip(rows.batches, passes[4:], strict=False):
        assert np.array_equal(again.rows, first.rows)
        assert not len(again.changes.row)
    every = np.concatenate([batch.rows for batch in rows.batches])
    for slot in range(39):
        values, count = np.unique(every[:, slot], return_counts=True)
        share = dict(zip(values.tolist(), (count / count.max()).tolist(), strict=True))
        for row, ratio in zip(passes[4].rows[:, slot], passes[4].ratio[:, slot], strict=True):
            assert ratio == pytest.approx(share[int(row)])


def test_rows_beyond_the_steps_are_skipped_before_the_slice(tmp_path: Path) -> None:
    write_criteo(tmp_path / "rows.tsv", 90)
    few = read(tmp_path / "rows.tsv", 64, 20, steps=2)
    assert few.events == 32
    assert few.held_out.examples[0].event_id == "criteo-64"
    used = {int(row) for batch in few.batches for row in batch.rows.ravel()} | set(range(39))
    assert {int(row) for row in few.held_out.rows.ravel()} <= used


def test_too_few_rows_are_reported(tmp_path: Path) -> None:
    write_criteo(tmp_path / "rows.tsv", 30)
    with pytest.raises(DataError, match=r"contains 30 rows, fewer than --events 25 and --slice 6 require"):
        read(tmp_path / "rows.tsv", 25, 6)


def test_learning_by_event_differs_from_learning_in_batches(rows: Rows) -> None:
    def dense(by_event: bool, seed: int = 1) -> NDArray[np.float32]:
        optimizer = OptimizerConfig(dense_rule="sgd", dense_rate=0.1)
        model = dataclasses.replace(MODEL, backbone="deepfm")
        found = train(rows, model, optimizer, 4, by_event=by_event, seed=seed, device="cpu")
        assert found.skipped == 0
        return np.asarray(found.state.arrays["dense.weight"], np.float32)

    assert np.array_equal(dense(False), dense(False))
    assert not np.array_equal(dense(False), dense(True))
    assert not np.array_equal(dense(False), dense(False, seed=2))


def test_the_hidden_weights_have_the_requested_initialization(rows: Rows) -> None:
    def first_layers(initial: Initial) -> list[NDArray[np.float32]]:
        network = build_network(MODEL, 39)
        optimizer = OptimizerConfig(dense_rule="sgd", dense_rate=1e-30)
        found = train(
            rows,
            MODEL,
            optimizer,
            1,
            by_event=False,
            seed=1,
            device="cpu",
            initial=initial,
        )
        flat, at, views = found.state.arrays["dense.weight"].astype(np.float32), 0, []
        for _, size in zip(network.layout.parameters, network.layout.sizes, strict=True):
            views.append(flat[at : at + size])
            at += size
        return views

    he, xavier, torch = first_layers("he"), first_layers("xavier"), first_layers("torch")
    names = [parameter.name for parameter in build_network(MODEL, 39).layout.parameters]
    sizes = {"tower.1.weight": (78, 4), "tower.2.weight": (4, 3)}
    for number, name in enumerate(names):
        inputs, outputs = sizes.get(name, (0, 0))
        xavier_share = (inputs / (inputs + outputs)) ** 0.5 if inputs else 1.0
        torch_share = (1.0 / 6.0) ** 0.5 if inputs else 1.0
        np.testing.assert_allclose(xavier[number], xavier_share * he[number], rtol=1e-5, atol=1e-12)
        np.testing.assert_allclose(torch[number], torch_share * he[number], rtol=1e-5, atol=1e-12)
