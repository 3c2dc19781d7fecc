"""The benchmark of the learning step: what it runs, what it claims, and how it says so."""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from stream_ctr.bench.command import Bench
from stream_ctr.bench.machine import describe_machine
from stream_ctr.bench.step import CHUNK, MINIMUM_EVENTS, StepBench, measure
from stream_ctr.bench.step_data import FIELDS, step_batches, zipf_examples
from stream_ctr.bench.step_entries import FLAGSHIP, Entry, model_name
from stream_ctr.bench.step_floor import move_state
from stream_ctr.bench.step_report import as_json, print_table
from stream_ctr.cli import main
from stream_ctr.errors import DataError, UsageError
from stream_ctr.learners.river_names import river_learner


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


def test_the_faster_torch_of_the_same_model_is_the_measure(bench: StepBench) -> None:
    bench.entries.append(entry("torch.compile", "helen", [5e-3]))
    bench.entries.append(entry("torch.compile", "helen", [1e-6], model="400-400 SML"))
    bench.entries.append(entry("torch.compile", "base", [], "does not run here"))
    rows = as_json(bench)
    assert (rows[0]["eager"], rows[0]["ratio_to_eager"]) == ("torch.compile", 50.0)
    assert (rows[3]["eager"], rows[3]["ratio_to_eager"]) == (None, None)


def test_rows_have_names_of_their_own_and_one_is_the_flagship(bench: StepBench) -> None:
    bench.entries.append(entry("compiled", "helen", [1e-3], model="400-400 SML"))
    names = [row["name"] for row in as_json(bench)]
    assert names[0] == "flagship"
    assert len(set(names)) == len(names)
    required = {"learner", "model", "optimizer", "events_per_second", "ratio_to_eager", "ratio_to_floor"}
    assert all(required | {"log_loss", "machine"} <= row.keys() for row in as_json(bench))


def test_what_does_not_exist_is_null_and_a_missing_peer_is_a_line(
    bench: StepBench, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = as_json(bench)
    assert rows[3]["ratio_to_eager"] is None
    assert rows[3]["ratio_to_floor"] is None
    assert rows[4]["missing"] == "not installed: river"
    assert rows[4]["events_per_second"] is None
    print_table(bench)
    assert "river" in capsys.readouterr().out


def test_floor_reads_the_weights_as_often_as_told_and_writes_all_once() -> None:
    rows = np.array([[0, 2], [2, 1]], np.int64)
    table = np.zeros((4, 6), np.float32)
    dense = np.ones((3, 5), np.float32)
    total = move_state(rows, table, dense, 4, 1, np.float32(1.0))
    assert total == 4 * 5 * 1.0 + 4 * 5 * 2.0  # the second event reads what the first wrote
    np.testing.assert_array_equal(dense, 3.0)
    np.testing.assert_array_equal(table[:, 0], [1.0, 1.0, 2.0, 0.0])
    np.testing.assert_array_equal(table, np.repeat(table[:, :1], 6, 1))


def test_zipf_rows_are_the_same_every_time_and_have_something_to_learn() -> None:
    assert list(zipf_examples(50)) == list(zipf_examples(50))
    labels = [example.label for example in zipf_examples(2000)]
    assert 0.1 < np.mean(labels) < 0.6
    batches, _ = step_batches(None, 2 * CHUNK + 7, CHUNK)
    assert [len(batch) for batch in batches] == [CHUNK, CHUNK]
    assert batches[0].rows.shape[1] == FIELDS


def test_file_without_a_whole_chunk_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "short.tsv"
    path.write_text("\t".join(["1", *["2"] * 13, *["ab"] * 26]) + "\n")
    with pytest.raises(DataError, match=r"short\.tsv: holds fewer than the 256 rows"):
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


def test_too_few_events_are_refused() -> None:
    parser = argparse.ArgumentParser()
    command = Bench()
    command.add_arguments(parser)
    with pytest.raises(UsageError, match="--events 10: must be at least 1024"):
        command.run(parser.parse_args(["step", "--events", "10"]))


@pytest.mark.parametrize("wrong", ["", "128-", "128-0", "-5", "axb", "128-99999"])
def test_a_tower_that_is_none_is_refused(wrong: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "step", f"--models={wrong}"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_machine_is_described_in_plain_texts() -> None:
    described = describe_machine()
    assert {"processor", "cores", "python", "torch", "numba", "commit"} <= described.keys()
    assert json.loads(json.dumps(described)) == described
