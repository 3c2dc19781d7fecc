"""The benchmark of growing vocabularies, with small sizes in the same processes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from stream_ctr.bench.machine import forget_peak, peak_bytes, resident_bytes
from stream_ctr.bench.scale.child import CHUNKS, DRAWS, OPTIMIZERS, Scale, answers, hashed
from stream_ctr.bench.scale.measure import Child, Size
from stream_ctr.bench.scale.report import row
from stream_ctr.cli import main
from stream_ctr.errors import StreamCTRError

CHECKPOINT = {"seconds": 1.0, "resident_bytes": 3, "peak_bytes": None, "file_bytes": 4}


def size(rows: int, seconds: list[list[float]]) -> Size:
    filled = {"seconds": 1.0, "ready_bytes": 1, "fill_peak_bytes": 2}
    return Size(rows, filled, dict.fromkeys(DRAWS, seconds), CHECKPOINT)


def test_ratios_compare_adjacent_chunks_and_the_budget_follows_its_formula() -> None:
    small = size(1_000, [[1e-6, 9e-6], [1e-6, 19e-6]])
    large = size(10_000_000, [[2e-6, 13e-6], [2e-6, 28e-6]])
    figures = row(large, small)
    assert figures["uniform"]["ratio_to_smallest"] == 1.5
    assert figures["uniform"]["microseconds"] == 22.5
    assert figures["uniform"]["encode_microseconds"] == 2.0
    # 4 B x (16 weights + 16 accumulators) and 48 B a row, and 600 MB
    assert figures["allowed_bytes"] == 10_000_000 * (4 * 32 + 48) + 600_000_000
    assert figures["checkpoint_peak_to_allowed"] is None


def test_a_vocabulary_of_the_size_asked_for_is_filled_and_drawn_from(tmp_path: Path) -> None:
    scale = Scale(39 * 300, OPTIMIZERS["base"])
    assert scale.rows == 39 * 300
    (measured, saved) = answers(scale, iter(["measure\n", f"checkpoint {tmp_path / 'here'}\n"]))
    assert {draw: np.shape(measured[draw]) for draw in DRAWS} == dict.fromkeys(DRAWS, (CHUNKS, 2))
    assert scale.rows == 39 * 300  # all events drew known values
    rows_bytes = 39 * 300 * 4 * 32
    assert saved["file_bytes"] > rows_bytes
    written = sum(path.stat().st_size for path in (tmp_path / "here").rglob("*") if path.is_file())
    assert written >= saved["file_bytes"]


def test_keys_are_different_and_spread() -> None:
    keys = hashed(np.arange(100_000))
    assert len(np.unique(keys)) == 100_000
    assert keys.min() > 0
    counts = np.bincount((keys >> np.uint64(60)).astype(np.int64), minlength=16)
    assert counts.max() < 1.1 * counts.min()


def test_freed_memory_still_counts_in_the_peak() -> None:
    before = resident_bytes()
    if before is None or not forget_peak():
        pytest.skip("this system does not tell a process its memory")
    block = np.ones(8_000_000)
    held = resident_bytes()
    assert held is not None
    assert held - before > 0.9 * block.nbytes
    del block
    peak = peak_bytes()
    assert peak is not None
    assert peak - before > 0.9 * 64_000_000
    assert forget_peak()
    after = peak_bytes()
    assert after is not None
    assert after < peak - 30_000_000


@pytest.mark.slow
def test_the_command_reports_and_draws(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "scale.png"
    small = ["--rows", "2000", "1000", "--rounds", "1", "--folder", str(tmp_path), "--plot", str(picture)]
    assert main(["bench", "scale", *small, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [each["rows"] for each in rows] == [39 * 25, 39 * 51]
    assert rows[0]["uniform"]["ratio_to_smallest"] == 1.0
    assert rows[1]["checkpoint_file_bytes"] > rows[0]["checkpoint_file_bytes"]
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in tmp_path.iterdir()] == ["scale.png"]


def test_a_process_that_ends_early_is_reported_with_its_reason() -> None:
    with Child(1_000, "no such optimizer") as child, pytest.raises(StreamCTRError, match="no such optimizer"):
        child.answer()


@pytest.mark.parametrize("wrong", [["--rows", "10"], ["--rounds", "0"], ["--folder", "/no/such/folder"]])
def test_invalid_settings_are_rejected(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "scale", *wrong]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
