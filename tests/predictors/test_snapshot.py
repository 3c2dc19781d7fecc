"""Snapshots on disk: round trip, and no fault unloads the current one."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stream_ctr.errors import StateError
from stream_ctr.predictors.export import snapshot_parts
from stream_ctr.predictors.reader import SnapshotReader, load_snapshot
from stream_ctr.predictors.snapshot import (
    ARRAYS,
    CURRENT,
    MANIFEST,
    SnapshotContent,
    path_of,
    read_current,
    versions,
    write_snapshot,
)
from stream_ctr.state.array_file import DTYPES
from stream_ctr.state.durable_files import Files
from stream_ctr.state.state import State
from tests.support.snapshots import FIELDS, SMALL, random_dense, random_table


def content(seed: int = 0, rows: int = 20) -> SnapshotContent:
    random = np.random.default_rng(seed)
    return SnapshotContent(
        model=SMALL,
        fields=FIELDS,
        dense=random_dense(SMALL, len(FIELDS), seed),
        rows=random_table(SMALL, rows, seed),
        vocabulary={
            "table_keys": random.integers(0, 2**63, 32).astype(np.uint64),
            "table_rows": random.integers(0, rows, 32),
            "flags": np.array([True, False, True]),
        },
        encoder=State({"field3.boundaries": np.array([0.1, 0.2])}, {"truncated": 3, "schema": ["a:float"]}),
        event_time_ms=1_700_000_000_123 + seed,
    )


def test_a_written_snapshot_is_mapped_bit_for_bit(tmp_path: Path) -> None:
    written = content()
    version = write_snapshot(tmp_path, written, created_ms=5)
    loaded = load_snapshot(path_of(tmp_path, version))
    assert State(loaded.dense).equals(State(written.dense))
    assert State(loaded.vocabulary).equals(State(written.vocabulary))
    assert loaded.encoder.equals(written.encoder)
    assert loaded.rows.tobytes() == written.rows.tobytes()
    manifest = loaded.manifest
    assert (manifest.model, manifest.fields) == (written.model, written.fields)
    assert (manifest.version, manifest.created_ms, manifest.event_time_ms) == (1, 5, written.event_time_ms)
    assert manifest.model_version == "1"


def test_arrays_are_mapped_read_only_and_aligned(tmp_path: Path) -> None:
    write_snapshot(tmp_path, content())
    for array in load_snapshot(path_of(tmp_path, 1)).arrays.values():
        assert not array.flags.writeable
        assert array.flags.aligned


def test_the_file_of_arrays_is_a_safetensors_file(tmp_path: Path) -> None:
    written = content()
    write_snapshot(tmp_path, written)
    others = safetensors.numpy.load_file(path_of(tmp_path, 1) / ARRAYS)
    assert State(others).equals(State(load_snapshot(path_of(tmp_path, 1)).arrays))


@given(
    shapes=st.lists(st.lists(st.integers(0, 4), max_size=3), min_size=1, max_size=6),
    codes=st.lists(st.sampled_from(sorted(DTYPES)), min_size=6, max_size=6),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
def test_arrays_of_all_dtypes_and_shapes_round_trip(
    tmp_path: Path, shapes: list[list[int]], codes: list[str]
) -> None:
    arrays = {
        f"array{i}": np.arange(int(np.prod(shape))).reshape(shape).astype(DTYPES[code])
        for i, (shape, code) in enumerate(zip(shapes, codes, strict=False))
    }
    version = write_snapshot(tmp_path, replace(content(), vocabulary=arrays))
    assert State(load_snapshot(path_of(tmp_path, version)).vocabulary).equals(State(arrays))


def test_arrays_in_another_memory_order_round_trip(tmp_path: Path) -> None:
    table = np.asfortranarray(random_table(SMALL, 9))
    write_snapshot(tmp_path, replace(content(), rows=table, vocabulary={"every_other": np.arange(10)[::2]}))
    loaded = load_snapshot(path_of(tmp_path, 1))
    np.testing.assert_array_equal(loaded.rows, table)
    np.testing.assert_array_equal(loaded.vocabulary["every_other"], [0, 2, 4, 6, 8])


def test_unsupported_content_is_rejected_and_leaves_no_files(tmp_path: Path) -> None:
    with pytest.raises(StateError, match="dtype object"):
        write_snapshot(tmp_path, replace(content(), vocabulary={"x": np.array([None])}))
    with pytest.raises(StateError, match="JSON changes them"):
        write_snapshot(tmp_path, replace(content(), encoder=State({}, {"x": float("nan")})))
    assert list(tmp_path.iterdir()) == []


def test_versions_rise_and_old_ones_go(tmp_path: Path) -> None:
    found = [write_snapshot(tmp_path, content(seed), kept=3) for seed in range(5)]
    assert found == [1, 2, 3, 4, 5]
    assert versions(tmp_path) == [3, 4, 5]
    assert (read_current(tmp_path) or (0, ""))[0] == 5


def test_versions_rise_also_when_the_folders_were_lost(tmp_path: Path) -> None:
    for seed in range(3):
        write_snapshot(tmp_path, content(seed))
    for version in versions(tmp_path):
        shutil.rmtree(path_of(tmp_path, version))
    assert write_snapshot(tmp_path, content()) == 4


def test_a_reader_keeps_what_was_removed_under_it(tmp_path: Path) -> None:
    written = content()
    write_snapshot(tmp_path, written)
    reader = SnapshotReader(tmp_path)
    assert reader.poll()
    for seed in range(1, 6):
        write_snapshot(tmp_path, content(seed), kept=2)
    assert versions(tmp_path) == [5, 6]
    assert reader.current is not None
    assert reader.current.rows.tobytes() == written.rows.tobytes()


def test_poll_loads_each_newer_snapshot_once(tmp_path: Path) -> None:
    reader = SnapshotReader(tmp_path)
    assert not reader.poll()
    assert "yet" in reader.error
    assert reader.failures == 0
    for expected in (1, 2, 3):
        write_snapshot(tmp_path, content(expected))
        assert reader.poll()
        assert not reader.poll()
        assert reader.current is not None
        assert reader.current.version == expected
        assert reader.error == ""


def test_a_recreated_state_folder_is_followed(tmp_path: Path) -> None:
    write_snapshot(tmp_path / "one", content(1))
    reader = SnapshotReader(tmp_path / "one")
    assert reader.poll()
    shutil.rmtree(tmp_path / "one")
    write_snapshot(tmp_path / "one", content(2))
    assert reader.poll()
    assert reader.current is not None
    assert reader.current.rows.tobytes() == content(2).rows.tobytes()


def damage(path: Path, kind: str) -> None:
    raw = path.read_bytes()
    if kind == "missing":
        path.unlink()
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "half":
        path.write_bytes(raw[: len(raw) // 2])
    elif kind == "a byte short":
        path.write_bytes(raw[:-1])
    else:
        middle = len(raw) * 2 // 3
        path.write_bytes(raw[:middle] + bytes([raw[middle] ^ 0x10]) + raw[middle + 1 :])


@pytest.mark.parametrize("kind", ["missing", "empty", "half", "a byte short", "a bit flipped"])
@pytest.mark.parametrize("name", [ARRAYS, MANIFEST, CURRENT])
def test_a_damaged_snapshot_keeps_the_old_one_loaded(tmp_path: Path, name: str, kind: str) -> None:
    write_snapshot(tmp_path, content(1))
    reader = SnapshotReader(tmp_path)
    assert reader.poll()
    write_snapshot(tmp_path, content(2))
    damage(tmp_path / name if name == CURRENT else path_of(tmp_path, 2) / name, kind)
    if name == CURRENT and kind == "a byte short":
        assert reader.poll()  # what is missing is the end of the line: nothing is lost
        return
    assert not reader.poll()
    assert reader.current is not None
    assert reader.current.version == 1
    assert str(tmp_path) in reader.error
    assert reader.failures == 1
    assert not reader.poll()
    assert reader.failures == 1, "an unchanged damaged snapshot is not read again and again"
    write_snapshot(tmp_path, content(3))
    assert reader.poll()
    assert reader.current.version == 3
    assert reader.error == ""


@pytest.mark.parametrize("name", [ARRAYS, MANIFEST, CURRENT])
def test_a_start_with_a_damaged_snapshot_loads_the_previous_one(tmp_path: Path, name: str) -> None:
    write_snapshot(tmp_path, content(1))
    write_snapshot(tmp_path, content(2))
    damage(tmp_path / name if name == CURRENT else path_of(tmp_path, 2) / name, "half")
    reader = SnapshotReader(tmp_path)
    assert reader.poll()
    assert reader.current is not None
    assert reader.current.version == (2 if name == CURRENT else 1)
    assert reader.error != ""


def test_a_snapshot_repaired_later_is_loaded(tmp_path: Path) -> None:
    write_snapshot(tmp_path, content(1))
    reader = SnapshotReader(tmp_path)
    assert reader.poll()
    write_snapshot(tmp_path, content(2))
    arrays = path_of(tmp_path, 2) / ARRAYS
    whole = arrays.read_bytes()
    damage(arrays, "half")
    assert not reader.poll()
    arrays.write_bytes(whole)
    assert reader.poll()


@given(
    position=st.floats(0, 1, exclude_max=True),
    bit=st.integers(0, 7),
    name=st.sampled_from([ARRAYS, MANIFEST]),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
def test_any_flipped_bit_is_found_or_harmless(tmp_path: Path, position: float, bit: int, name: str) -> None:
    folder = tmp_path / "snapshots"
    shutil.rmtree(folder, ignore_errors=True)
    written = content()
    write_snapshot(folder, written)
    path = path_of(folder, 1) / name
    raw = bytearray(path.read_bytes())
    raw[int(position * len(raw))] ^= 1 << bit
    path.write_bytes(raw)
    try:
        loaded = load_snapshot(path_of(folder, 1))
    except StateError:
        return
    assert State(loaded.dense).equals(State(written.dense))
    assert loaded.rows.tobytes() == written.rows.tobytes()
    assert loaded.manifest.event_time_ms == written.event_time_ms


def test_a_newer_format_is_refused_and_named(tmp_path: Path) -> None:
    write_snapshot(tmp_path, content())
    path = path_of(tmp_path, 1) / MANIFEST
    table = msgspec.json.decode(path.read_bytes())
    path.write_bytes(msgspec.json.encode({**table, "format": 3, "something": "new"}))
    with pytest.raises(StateError, match="format 3 is newer than 2"):
        load_snapshot(path_of(tmp_path, 1))


def test_a_folder_of_another_version_is_refused(tmp_path: Path) -> None:
    write_snapshot(tmp_path, content())
    os.rename(path_of(tmp_path, 1), path_of(tmp_path, 7))
    with pytest.raises(StateError, match="has version 1"):
        load_snapshot(path_of(tmp_path, 7))


class FailingFiles(Files):
    """The real file system, whose k-th operation fails after doing half of a write."""

    def __init__(self, failing: int) -> None:
        self.left = failing

    def _count(self) -> bool:
        self.left -= 1
        return self.left == 0

    def write(self, path: Path, content: bytes | memoryview) -> None:
        if self._count():
            super().write(path, content[: len(content) // 2])
            raise OSError(28, "No space left on device", str(path))
        super().write(path, content)

    def write_pieces(self, path: Path, pieces: Iterable[bytes | memoryview]) -> None:
        self.write(path, b"".join(bytes(piece) for piece in pieces))

    def sync_file(self, path: Path) -> None:
        self._fail_or(super().sync_file, path)

    def make_folder(self, path: Path) -> None:
        self._fail_or(super().make_folder, path)

    def sync_folder(self, path: Path) -> None:
        self._fail_or(super().sync_folder, path)

    def rename(self, source: Path, target: Path) -> None:
        self._fail_or(super().rename, source, target)

    def remove_folder(self, path: Path) -> None:
        self._fail_or(super().remove_folder, path)

    def _fail_or(self, operation: object, *paths: Path) -> None:
        if self._count():
            raise OSError(5, "Input/output error", str(paths[0]))
        assert callable(operation)
        operation(*paths)


def test_a_reader_finds_a_whole_snapshot_whichever_operation_fails(tmp_path: Path) -> None:
    failing = 0
    while True:
        failing += 1
        folder = tmp_path / str(failing)
        for seed in range(3):
            write_snapshot(folder, content(seed), kept=2)
        try:
            write_snapshot(folder, content(3), kept=2, files=FailingFiles(failing))
        except OSError:
            pass
        else:
            break
        reader = SnapshotReader(folder)
        assert reader.poll()
        assert reader.error == ""
        assert reader.current is not None
        assert reader.current.version in (3, 4)
        assert write_snapshot(folder, content(9)) > reader.current.version
        assert reader.poll()
        assert not list(folder.glob(".writing-*"))
    assert failing > 12


def test_many_exchanges_leave_no_descriptor_and_no_mapping(tmp_path: Path) -> None:
    reader = SnapshotReader(tmp_path)
    mapped = []
    for seed in range(100):
        write_snapshot(tmp_path, content(seed % 3), kept=2)
        assert reader.poll()
        if seed in (9, 99):
            lines = Path("/proc/self/maps").read_text("ascii", "replace").splitlines()
            maps = sum(str(tmp_path) in line for line in lines)
            mapped.append((len(os.listdir("/proc/self/fd")), maps))
    assert mapped[0] == mapped[1]
    assert mapped[1][1] == 1


def test_parts_of_a_learner_state() -> None:
    flat = np.arange(8, dtype=np.float32)
    rows = np.ones((3, 2), np.float32)
    state = State({"dense.weight": flat, "rows.weight": rows}, {"layout": [["a", [2, 3]], ["b", [2]]]})
    dense, table = snapshot_parts(state)
    assert dense["a"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert dense["b"].tolist() == [6, 7]
    assert table.tolist() == rows.tolist()


@pytest.mark.parametrize(
    "state",
    [
        State({}, {}),
        State({"dense.weight": np.zeros(3), "rows.weight": np.zeros((1, 1))}, {}),
        State({"dense.weight": np.zeros(3), "rows.weight": np.zeros((1, 1))}, {"layout": [["a", [2]]]}),
        State({"dense.weight": np.zeros(3), "rows.weight": np.zeros((1, 1))}, {"layout": 3}),
    ],
)
def test_a_state_that_cannot_be_exported_is_rejected(state: State) -> None:
    with pytest.raises(StateError, match="learner"):
        snapshot_parts(state)
