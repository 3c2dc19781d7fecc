"""SIGKILL at any moment loses nothing: the final state equals that of a run without faults bit for bit."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from stream_ctr.daemon.checkpoint import CheckpointStore, Loaded
from stream_ctr.state.state import State
from tests.support.faulty_streams import write_config, write_stream
from tests.support.state_parts import without_decisions

ROUNDS = int(os.environ.get("STREAM_CTR_TEST_ROUNDS", "20"))
SEED = int(os.environ.get("STREAM_CTR_TEST_SEED", "0")) or int.from_bytes(os.urandom(4), "little")
OPERATIONS = 23
"""File operations of one checkpoint, the naming of its folder among them."""


def run_plan(config: Path, plan: list[dict[str, Any]]) -> list[int]:
    """Exit statuses of the processes of a plan; -9 is a kill."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.killed_trainers", str(config)],
        input=json.dumps(plan),
        capture_output=True,
        text=True,
        timeout=280,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    statuses: list[int] = json.loads(done.stdout)
    assert set(statuses) <= {0, -9}, done.stderr
    return statuses


def final(folder: Path, state: str) -> Loaded:
    loaded = CheckpointStore(folder / state / "main" / "checkpoints", 1000).load()
    assert loaded is not None
    assert not loaded.damaged
    return loaded


def assert_equal_bits(one: Loaded, other: Loaded) -> None:
    assert one.manifest.positions == other.manifest.positions
    assert one.manifest.emitted == other.manifest.emitted
    assert_equal_parts(one.parts, other.parts)


def assert_equal_parts(one: dict[str, State], other: dict[str, State]) -> None:
    assert one.keys() == other.keys()
    for name, state in one.items():
        assert state.values == other[name].values, name
        assert state.equals(other[name]), name


@pytest.mark.slow
def test_killed_at_random_moments(tmp_path: Path) -> None:
    print(f"seed {SEED}: repeat with STREAM_CTR_TEST_SEED={SEED}")
    generator = random.Random(SEED)
    write_stream(tmp_path, 600)
    entries = sorted(generator.randrange(1, 700) for _ in range(ROUNDS))
    plan: list[dict[str, Any]] = [
        {"entries": count, "operation": generator.randrange(1, OPERATIONS)}
        if number % 2
        else {"entries": count, "after_us": generator.randrange(1, 20_000)}
        for number, count in enumerate(entries)
    ]
    disturbed = write_config(tmp_path, "disturbed")
    statuses = run_plan(disturbed, [*plan, {}])
    assert statuses[-1] == 0
    killed = [moment for moment, status in zip(plan, statuses, strict=False) if status == -9]
    print(f"{len(killed)} kills, {sum('operation' in moment for moment in killed)} inside a checkpoint")
    assert len(killed) == ROUNDS
    # The undisturbed run: same log, same order journal.
    (tmp_path / "undisturbed" / "main").mkdir(parents=True)
    shutil.copy(tmp_path / "disturbed" / "main" / "journal", tmp_path / "undisturbed" / "main" / "journal")
    assert run_plan(write_config(tmp_path, "undisturbed"), [{}]) == [0]
    assert_equal_bits(final(tmp_path, "disturbed"), final(tmp_path, "undisturbed"))


@pytest.mark.slow
def test_killed_at_every_operation_of_a_checkpoint(tmp_path: Path) -> None:
    write_stream(tmp_path, 200)
    plan = [{"entries": 8 * k, "operation": k} for k in range(1, OPERATIONS)]
    statuses = run_plan(write_config(tmp_path, "disturbed"), [*plan, {}])
    assert statuses == [-9] * len(plan) + [0]
    (tmp_path / "undisturbed" / "main").mkdir(parents=True)
    shutil.copy(tmp_path / "disturbed" / "main" / "journal", tmp_path / "undisturbed" / "main" / "journal")
    assert run_plan(write_config(tmp_path, "undisturbed"), [{}]) == [0]
    assert_equal_bits(final(tmp_path, "disturbed"), final(tmp_path, "undisturbed"))


@pytest.mark.slow
def test_killed_around_the_joiners_segments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before, while and after a segment is written, and before the checkpoint that lists it."""
    write_stream(tmp_path, 400)
    assert run_plan(write_config(tmp_path, "in-memory"), [{}]) == [0]
    monkeypatch.setenv("STREAM_CTR_JOIN__MEMORY_BYTES", "16384")
    plan: list[dict[str, Any]] = [{"segment": k} for k in range(1, 13)]
    plan += [{"entries": 150 + 10 * k, "operation": k} for k in range(1, OPERATIONS + 4, 4)]
    statuses = run_plan(write_config(tmp_path, "disturbed"), [*plan, {}])
    assert statuses[-1] == 0
    assert statuses.count(-9) > 12
    (tmp_path / "undisturbed" / "main").mkdir(parents=True)
    shutil.copy(tmp_path / "disturbed" / "main" / "journal", tmp_path / "undisturbed" / "main" / "journal")
    assert run_plan(write_config(tmp_path, "undisturbed"), [{}]) == [0]
    disturbed, undisturbed = final(tmp_path, "disturbed"), final(tmp_path, "undisturbed")
    assert disturbed.manifest.segments
    assert disturbed.manifest.segments == undisturbed.manifest.segments
    assert_equal_bits(disturbed, undisturbed)
    for name, state in final(tmp_path, "in-memory").parts.items():
        if name != "pipeline":
            assert state.equals(disturbed.parts[name]), "learning does not depend on the memory budget"


@pytest.mark.slow
def test_chunks_of_any_size_give_equal_bits(tmp_path: Path) -> None:
    write_stream(tmp_path, 150)
    states = []
    for chunk in (1, 7, 256):
        os.environ["STREAM_CTR_TRAIN__CHUNK"] = str(chunk)
        try:
            assert run_plan(write_config(tmp_path, f"chunk-{chunk}"), [{}]) == [0]
        finally:
            del os.environ["STREAM_CTR_TRAIN__CHUNK"]
        states.append(final(tmp_path, f"chunk-{chunk}"))
    for other in states[1:]:
        assert other.manifest.positions == states[0].manifest.positions
        assert_equal_parts(without_decisions(states[0].parts), without_decisions(other.parts))
