"""States that an earlier version wrote: they load, are saved again with the same bits, and go on alike.

``tests/golden/data`` holds files that were written once, by version 0.1.0 before its modules were moved: a
checkpoint, journal and snapshot of every kind of learner that runs on a CPU, states of the joining process
and of the watcher, and the log that all of them were made from. A failing test means that a deployment
could not be upgraded. :mod:`tests.support.golden_states` describes the files;
:mod:`tests.support.write_golden_states` says when they may be written again, and how.

What must be equal:

* A state that is loaded and saved again: every bit and value, on every machine. Of the manifest, the version
  (each checkpoint has its own), the time of writing, the software's version, and the files' digests and the
  seal may differ; the last two follow from the others and from the order of arrays in their file. Parts that
  nothing was read from are no longer written; :func:`.as_later_versions_keep_it` names them.
* A run to the end of the log: integers, keys, rows and texts exactly. Floats may differ in their last bits
  where a CPU has other vector or fused instructions; here within 1e-5 of the largest number of their array.
  Accumulators in bfloat16 have 8 bits, and a last bit may be drawn the other way: there it is within 1e-2.
* On the machine that wrote the files everything is equal bit for bit. This compares so:

    STREAM_CTR_TEST_GOLDEN_EXACT=1 pytest tests/golden

Not covered: the kinds ``cuda`` and ``cuda-fused``, which refuse a machine without a GPU. Both inherit
``state`` and ``load_state`` from the torch learner and never change them, so a checkpoint of theirs has the
layout of a stored one with the same network and optimizer: ``torch-first-order``, ``torch-asam`` and
``compiled-helen``. Neither has second turns. Rows do not expire in this version, so no state records it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.golden_states import (
    ALL,
    DATA,
    JOIN,
    TRAINERS,
    WATCH,
    Golden,
    as_later_versions_keep_it,
    close_values,
    differences,
    figures_of,
    labelled_topic,
    predictions,
    read_checkpoint,
    report_of,
    resume,
    run,
    same_bits,
    snapshot_arrays,
    sums_of,
    tolerance,
    unpack,
    versions,
    without_sentences,
    without_unused_counters,
)

Stored = Callable[[Golden], Path]

OF_THE_CHECKPOINT = ("version", "created_ms", "software", "files", "seal")
"""Fields of a checkpoint's manifest that are of the writing, not of the state."""
OF_THE_SNAPSHOT = ("version", "created_ms", "seal")
"""The same of a snapshot's."""


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the stored logs."""
    folder = tmp_path_factory.mktemp("logs")
    unpack(DATA / "log.tar.xz", folder)
    return folder


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Stored:
    """Gives the folder of an unpacked golden state, which no test writes to."""
    there: dict[str, Path] = {}

    def folder(golden: Golden) -> Path:
        if golden.name not in there:
            there[golden.name] = tmp_path_factory.mktemp(golden.name)
            unpack(golden.archive, there[golden.name])
        return there[golden.name]

    return folder


@pytest.fixture(scope="module")
def joined(logs: Path, stored: Stored, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Folder of the joining process that went on from its stored state to the log's end; what it printed."""
    folder = tmp_path_factory.mktemp("joined")
    return folder, resume(JOIN, stored(JOIN) / "state", logs / "full.db", folder)


def checkpoints(folder: Path, golden: Golden) -> Path:
    return folder / "state" / golden.arm / "checkpoints"


def expected_of(stored: Stored, golden: Golden) -> dict[str, Any]:
    expected: dict[str, Any] = json.loads((stored(golden) / "expected.json").read_bytes())
    return expected


def without(table: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: value for name, value in table.items() if name not in names}


def assert_stored_end(stored: Stored, golden: Golden, folder: Path) -> None:
    """The newest checkpoint below ``folder`` is the one that the stored run ended with."""
    found = read_checkpoint(versions(checkpoints(folder, golden))[-1])
    end = as_later_versions_keep_it(golden, read_checkpoint(stored(golden) / "end"))
    assert found.manifest["positions"] == end.manifest["positions"]
    assert differences(found, end, tolerance(golden.tolerance)) == []


def test_every_archive_belongs_to_a_golden_state() -> None:
    assert {path.name for path in DATA.iterdir()} == {"log.tar.xz", *(golden.archive.name for golden in ALL)}


@pytest.mark.parametrize("golden", ALL, ids=lambda golden: golden.name)
def test_a_stored_configuration_is_the_one_that_runs(stored: Stored, golden: Golden) -> None:
    assert (stored(golden) / "config.toml").read_text("utf-8") == golden.config


@pytest.mark.parametrize("golden", ALL, ids=lambda golden: golden.name)
def test_a_stored_checkpoint_is_whole_and_shows_its_content(stored: Stored, golden: Golden) -> None:
    folder = stored(golden) / "state" / golden.arm
    (version,) = versions(folder / "checkpoints")
    shown = json.loads(run("checkpoint", "verify", str(folder), "--json"))
    assert [(row["version"], row["whole"]) for row in shown["versions"]] == [(int(version.name), True)]
    saved = read_checkpoint(version)
    shown = json.loads(run("checkpoint", "inspect", str(folder), "--json"))
    assert shown["damaged"] == []
    assert shown["identity"] == saved.manifest["identity"]
    assert shown["positions"] == {
        f"{topic}/{at}": offset for topic, at, offset in saved.manifest["positions"]
    }
    assert shown["arrays"] == {
        name: f"{array.dtype} {list(array.shape)}" for name, array in saved.arrays.items()
    }


@pytest.mark.parametrize("golden", ALL, ids=lambda golden: golden.name)
def test_a_stored_state_is_saved_again_bit_for_bit(
    golden: Golden, logs: Path, stored: Stored, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The job saves in each round of its loop; in the first one there is nothing new to apply."""
    monkeypatch.setenv("STREAM_CTR_TRAIN__CHECKPOINT_SECONDS", "0")
    monkeypatch.setenv("STREAM_CTR_TRAIN__SNAPSHOT_SECONDS", "1e-9")
    resume(golden, stored(golden) / "state", logs / "half.db", tmp_path)
    before, after = map(read_checkpoint, versions(checkpoints(tmp_path, golden))[:2])
    assert after.manifest["version"] == before.manifest["version"] + 1
    assert without(after.manifest, OF_THE_CHECKPOINT) == without(before.manifest, OF_THE_CHECKPOINT)
    assert differences(after, as_later_versions_keep_it(golden, before)) == []
    if golden in TRAINERS:
        assert_same_snapshot(versions(tmp_path / "state" / golden.arm / "snapshots")[0], stored(golden))


def assert_same_snapshot(found: Path, stored: Path) -> None:
    """What the trainer published from the stored checkpoint is the stored snapshot."""
    here, there = (json.loads((each / "snapshot.json").read_bytes()) for each in (found, stored / "snapshot"))
    assert without(here, OF_THE_SNAPSHOT) == without(there, OF_THE_SNAPSHOT)
    saved = snapshot_arrays(stored / "snapshot")
    for name, array in snapshot_arrays(found).items():
        assert list(same_bits(name, array, saved[name])) == []


@pytest.mark.parametrize("golden", TRAINERS, ids=lambda golden: golden.name)
def test_a_trainer_goes_on_to_the_stored_end(
    golden: Golden, logs: Path, stored: Stored, joined: tuple[Path, str], tmp_path: Path
) -> None:
    log = joined[0] / "log.db" if golden.reads_labelled else logs / "full.db"
    figures = figures_of(resume(golden, stored(golden) / "state", log, tmp_path))
    expected = expected_of(stored, golden)["figures"]
    assert list(close_values("figures", figures, expected, tolerance(golden.tolerance))) == []
    assert_stored_end(stored, golden, tmp_path)


@pytest.mark.parametrize("golden", TRAINERS, ids=lambda golden: golden.name)
def test_a_stored_snapshot_predicts_as_it_did(golden: Golden, logs: Path, stored: Stored) -> None:
    folder = stored(golden) / "snapshot"
    shown = json.loads(run("snapshot", "verify", str(folder), "--json"))
    assert [row["whole"] for row in shown["versions"]] == [True]
    requests = json.loads((logs / "requests.json").read_bytes())
    expected = expected_of(stored, golden)["predictions"]
    assert len(expected) == 20
    assert len(set(expected)) > 10
    found = predictions(folder, requests)
    np.testing.assert_allclose(found, expected, rtol=tolerance(1e-6))


@pytest.mark.parametrize("golden", TRAINERS, ids=lambda golden: golden.name)
def test_a_stored_snapshot_holds_what_its_file_says(golden: Golden, stored: Stored) -> None:
    """The arrays as the server maps them are those that another reader of the format finds."""
    from safetensors.numpy import load_file

    folder = stored(golden) / "snapshot"
    found, saved = snapshot_arrays(folder), load_file(folder / "arrays.safetensors")
    assert found.keys() == saved.keys()
    assert [words for name in saved for words in same_bits(name, found[name], saved[name])] == []


def test_the_joining_process_goes_on_to_the_stored_end(stored: Stored, joined: tuple[Path, str]) -> None:
    folder, printed = joined
    expected = expected_of(stored, JOIN)
    figures = expected["figures"]
    figures["outcomes"] = without_unused_counters(figures["outcomes"])
    assert figures_of(printed) == figures
    assert labelled_topic(folder / "log.db") == expected["labelled"]
    assert_stored_end(stored, JOIN, folder)


def test_the_watcher_goes_on_to_the_stored_end(logs: Path, stored: Stored, tmp_path: Path) -> None:
    resume(WATCH, stored(WATCH) / "state", logs / "full.db", tmp_path)
    expected = expected_of(stored, WATCH)
    assert sums_of(tmp_path) == expected["sums"]
    report = without_sentences(expected["report"])
    report["progress"]["outcomes"] = without_unused_counters(report["progress"]["outcomes"])
    assert list(close_values("report", without_sentences(report_of(tmp_path)), report, tolerance(1e-9))) == []
    assert_stored_end(stored, WATCH, tmp_path)
