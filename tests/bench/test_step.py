"""The benchmark of the learning step: its entries, results and report."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from stream_ctr.bench.machine import describe_machine
from stream_ctr.bench.step.data import FIELDS, step_batches, zipf_examples
from stream_ctr.bench.step.entries import FLAGSHIP, Entry, model_name, network
from stream_ctr.bench.step.floor import move_state
from stream_ctr.bench.step.measure import CHUNK, MINIMUM_EVENTS, StepBench, measure
from stream_ctr.bench.step.profile import FORWARD, OPTIMIZERS, learn_timed
from stream_ctr.bench.step.report import as_json, print_table, variants_json
from stream_ctr.bench.step.variants import variants
from stream_ctr.cli import main
from stream_ctr.cli.dispatcher import BENCH
from stream_ctr.config.learner import LearnerConfig
from stream_ctr.config.optimizer import OptimizerConfig
from stream_ctr.errors import DataError, UsageError
from stream_ctr.learners.compiled.learner import CompiledLearner
from stream_ctr.learners.compiled.support import why_not_compiled
from stream_ctr.learners.river.registry import river_learner
from stream_ctr.optim.validation import check_optimizer, for_stream


def entry(
    learner: str,
    optimizer: str,
    seconds: list[float],
    missing: str = "",
    model: str = model_name(FLAGSHIP),
) -> Entry:
    make = partial(river_learner, "river-ftrl")
    return Entry(learner, model, optimizer, 1, make, missing=missing, seconds=seconds)


@pytest.fixture
def bench() -> StepBench:
    entries = [
        entry("compiled", "helen", [1e-4, 2e-4, 9e-4]),
        entry("memory floor", "helen", [1e-4, 1e-4, 3e-4]),
        entry("torch eager", "helen", [8e-3]),
        entry("compiled", "base", [1e-4]),
        entry("river", "ftrl", [], "not installed: river"),
    ]
    return StepBench(entries, "Zipf rows", 1000, 100, np.zeros(1000, np.float32))


def test_figures_are_medians_and_ratios_those_of_the_same_chunks(bench: StepBench) -> None:
    rows = as_json(bench)
    assert rows[0]["events_per_second"] == pytest.approx(5000.0)
    assert rows[0]["ratio_to_eager"] == 80.0
    assert rows[0]["ratio_to_floor"] == 2.0
    assert (rows[0]["microseconds_low"], rows[0]["microseconds_high"]) == (120.0, 760.0)
    assert rows[2]["ratio_to_floor"] == 80.0


def test_the_ratio_to_eager_uses_the_faster_torch_of_the_same_model(bench: StepBench) -> None:
    bench.entries.append(entry("torch.compile", "helen", [5e-3]))
    bench.entries.append(entry("torch.compile", "helen", [1e-6], model="400-400 SML"))
    bench.entries.append(entry("torch.compile", "base", [], "does not run here"))
    rows = as_json(bench)
    assert (rows[0]["eager"], rows[0]["ratio_to_eager"]) == ("torch.compile", 50.0)
    assert (rows[3]["eager"], rows[3]["ratio_to_eager"]) == (None, None)


def test_row_names_are_unique_and_one_is_the_flagship(bench: StepBench) -> None:
    bench.entries.append(entry("compiled", "helen", [1e-3], model="400-400 SML"))
    names = [row["name"] for row in as_json(bench)]
    assert names[0] == "flagship"
    assert len(set(names)) == len(names)
    required = {"learner", "model", "optimizer", "events_per_second", "ratio_to_eager", "ratio_to_floor"}
    assert all(required | {"log_loss", "machine"} <= row.keys() for row in as_json(bench))


def test_missing_values_are_null_and_a_missing_peer_is_reported(
    bench: StepBench, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = as_json(bench)
    assert rows[3]["ratio_to_eager"] is None
    assert rows[3]["ratio_to_floor"] is None
    assert rows[4]["missing"] == "not installed: river"
    assert rows[4]["events_per_second"] is None
    print_table(bench)
    assert "river" in capsys.readouterr().out


def test_the_floor_reads_weights_once_per_pass_and_writes_everything_once() -> None:
    rows = np.array([[0, 2], [2, 1]], np.int64)
    table = np.zeros((4, 6), np.float32)
    dense = np.ones((3, 5), np.float32)
    total = move_state(rows, table, dense, 4, 1, np.float32(1.0))
    assert total == 4 * 5 * 1.0 + 4 * 5 * 2.0  # the second event reads what the first wrote
    np.testing.assert_array_equal(dense, 3.0)
    np.testing.assert_array_equal(table[:, 0], [1.0, 1.0, 2.0, 0.0])
    np.testing.assert_array_equal(table, np.repeat(table[:, :1], 6, 1))


def test_zipf_rows_are_reproducible_and_learnable() -> None:
    assert list(zipf_examples(50)) == list(zipf_examples(50))
    labels = [example.label for example in zipf_examples(2000)]
    assert 0.1 < np.mean(labels) < 0.6
    batches, _ = step_batches(None, 2 * CHUNK + 7, CHUNK)
    assert [len(batch) for batch in batches] == [CHUNK, CHUNK]
    assert batches[0].rows.shape[1] == FIELDS


def test_a_file_shorter_than_one_chunk_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / "short.tsv"
    path.write_text("\t".join(["1", *["2"] * 13, *["ab"] * 26]) + "\n")
    with pytest.raises(DataError, match=r"short\.tsv: has fewer than 256 rows"):
        step_batches(str(path), 1000, CHUNK)


def test_all_learners_learn_the_same_rows_and_the_two_flagships_equally_well() -> None:
    bench = measure(None, MINIMUM_EVENTS, 300)
    rows = {(row["learner"], row["optimizer"]): row for row in as_json(bench)}
    assert bench.events == MINIMUM_EVENTS
    for optimizer in ("helen", "helen-adam"):
        compiled, eager = rows["compiled", optimizer], rows["torch eager", optimizer]
        assert compiled["log_loss"] == pytest.approx(eager["log_loss"], abs=1e-4)
        assert compiled["chunks"] == 2
        assert rows["memory floor", optimizer]["ratio_to_floor"] == 1.0
        assert rows["memory floor", optimizer]["log_loss"] is None
    assert rows["river", "ftrl"]["log_loss"] > 0.0


def test_variants_are_compared_with_the_default_by_event() -> None:
    label = np.tile(np.array([1.0, 0.0], np.float32), 3 * 1024)
    default, better = (
        entry("compiled", "revisit", [2e-4, 4e-4]),
        entry("compiled", "helen bfloat16", [1e-4, 1e-4]),
    )
    rng = np.random.default_rng(1)
    p = np.clip(np.where(label > 0, 0.6, 0.4) + rng.normal(0.0, 0.02, len(label)), 0.05, 0.95)
    default.probabilities = [p.astype(np.float32)]
    better.probabilities = [np.where(label > 0, p + 0.05, p - 0.05).astype(np.float32)]
    bench = StepBench([default, better], "Zipf rows", len(label), len(label), label)
    first, second = variants_json(bench, 0)
    assert (first["ratio_to_default"], first["difference"]) == (1.0, None)
    assert second["ratio_to_default"] == 0.375
    loss = [
        -np.log(np.where(label > 0, q, 1 - q).astype(np.float64))
        for q in (default.probabilities[0], better.probabilities[0])
    ]
    assert second["difference"] == pytest.approx(float((loss[1] - loss[0]).mean()), abs=1e-5)
    assert second["difference_low"] < second["difference"] < second["difference_high"] < 0.0
    late = variants_json(bench, 3 * 1024)[1]
    assert late["log_loss_tail"] == pytest.approx(float(loss[1][3 * 1024 :].mean()), abs=1e-5)
    assert late["difference"] is None  # three blocks: too few for an interval


def test_every_variant_is_valid_and_the_default_comes_first() -> None:
    found = variants()
    assert found[0].config() == for_stream(OptimizerConfig())
    configs = [variant.config() for variant in found]
    assert len({variant.name for variant in found}) == len(found)
    assert all(one != other for i, one in enumerate(configs) for other in configs[:i])
    for config in configs:
        check_optimizer(config)
        assert why_not_compiled(FLAGSHIP, config, LearnerConfig(device="cpu")) is None


@pytest.mark.slow
def test_the_profiled_step_is_the_learners_own_step() -> None:
    batches, _ = step_batches(None, 4 * CHUNK, CHUNK)
    for optimizer in (OPTIMIZERS["helen"], replace(OPTIMIZERS["revisit"], revisit_after=100)):
        plain, timed = (network(CompiledLearner, FLAGSHIP, optimizer) for _ in range(2))
        assert isinstance(timed, CompiledLearner)
        for batch in batches:
            plain.learn(batch)
            spent = learn_timed(timed, batch)
            assert (spent >= 0.0).all()
            assert (spent[:, FORWARD] > 0.0).all()
        one, other = plain.state(), timed.state()
        assert one.values == other.values
        for name, array in one.arrays.items():
            np.testing.assert_allclose(array, other.arrays[name], rtol=1e-3, atol=1e-4, err_msg=name)


@pytest.mark.parametrize("tail_from", ["-1", "900"])
def test_a_tail_that_starts_too_late_is_rejected(tail_from: str, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["bench", "step", "--variants", "--events", "1024", f"--tail-from={tail_from}"]
    assert main(command) == 2
    assert "must be from 0 to half of --events 1024" in capsys.readouterr().err


def test_too_few_events_are_rejected() -> None:
    parser = argparse.ArgumentParser()
    command = BENCH
    command.add_arguments(parser)
    with pytest.raises(UsageError, match="--events 10: must be at least 1024"):
        command.run(parser.parse_args(["step", "--events", "10"]))


@pytest.mark.parametrize("wrong", ["", "128-", "128-0", "-5", "axb", "128-99999"])
def test_invalid_hidden_widths_are_rejected(wrong: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "step", f"--models={wrong}"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_machine_is_described_in_plain_texts() -> None:
    described = describe_machine()
    assert {"processor", "cores", "python", "torch", "numba", "commit"} <= described.keys()
    assert json.loads(json.dumps(described)) == described
