"""A checkpoint is complete or absent, whatever fails while it is written or damages it later."""

from __future__ import annotations

import errno
import json
import pickle
import random
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from stream_ctr.daemon.checkpoint import FORMAT, MANIFEST, SEGMENTS, CheckpointStore
from stream_ctr.errors import StateError
from stream_ctr.pipeline.joining.segments import Held, SegmentFolder, SegmentName
from stream_ctr.state.state import State
from tests.support.faulty_files import FailingFiles, ForgetfulFiles


def parts(step: int) -> dict[str, State]:
    generator = np.random.default_rng(step)
    return {
        "learner": State({"rows": generator.normal(size=(50, 4)).astype(np.float32)}, {"step": step}),
        "pipeline": State({"keys": generator.integers(0, 2**63, 9).astype(np.uint64)}, {"open": [step]}),
    }


def save(store: CheckpointStore, step: int) -> None:
    store.save(
        parts(step),
        created_ms=step,
        software="test",
        identity={"model": {"hidden": [4]}},
        log={"id": "a"},
        positions=[("impressions", 0, step * 10)],
        emitted=step * 10,
    )


def loaded_step(store: CheckpointStore) -> int:
    loaded = store.load()
    assert loaded is not None
    step = loaded.parts["learner"].values["step"]
    assert isinstance(step, int)
    assert loaded.manifest.positions == [("impressions", 0, step * 10)]
    for name, state in parts(step).items():
        assert state.equals(loaded.parts[name])
    return step


def test_an_empty_folder_has_no_checkpoint(tmp_path: Path) -> None:
    assert CheckpointStore(tmp_path / "none", 3).load() is None


def test_loads_the_newest_and_keeps_the_configured_number(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, 3)
    for step in range(1, 6):
        save(store, step)
    assert loaded_step(store) == 5
    assert store.versions() == [3, 4, 5]


def test_every_failing_operation_leaves_the_previous_checkpoint(tmp_path: Path) -> None:
    counting = FailingFiles(0)
    counted = CheckpointStore(tmp_path / "count", 2, counting)
    save(counted, 1)
    save(counted, 2)
    before = counting.count
    save(counted, 3)
    operations = counting.count - before
    assert operations >= 12
    for k in range(1, operations + 1):
        for code in (errno.EIO, errno.ENOSPC):
            folder = tmp_path / f"{k}-{code}"
            save(CheckpointStore(folder, 2), 1)
            save(CheckpointStore(folder, 2), 2)
            with pytest.raises(OSError, match="injected"):
                save(CheckpointStore(folder, 2, FailingFiles(k, code)), 3)
            assert loaded_step(CheckpointStore(folder, 2)) in (2, 3)
            save(CheckpointStore(folder, 2), 4)  # the remains of the failure do not prevent the next save
            assert loaded_step(CheckpointStore(folder, 2)) == 4


def test_a_checkpoint_survives_the_loss_of_unsynced_writes(tmp_path: Path) -> None:
    k = 0
    while True:
        k += 1
        folder = tmp_path / f"live-{k}"
        folder.mkdir()
        files = ForgetfulFiles(folder)
        store = CheckpointStore(folder, 2, files)
        save(store, 1)
        save(store, 2)
        files.fail_at = files.count + k
        try:
            save(store, 3)
            finished = True
        except OSError:
            finished = False
        after = CheckpointStore(files.rebuild(tmp_path / f"after-{k}"), 2)
        assert loaded_step(after) in ((3,) if finished else (2, 3))
        if finished:
            break
    assert k > 12


def test_damage_anywhere_falls_back_and_names_the_file(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, 3)
    save(store, 1)
    save(store, 2)
    generator = random.Random(5)
    for path in sorted(store.path(2).iterdir()):
        whole = path.read_bytes()
        for _ in range(20):
            place = generator.randrange(len(whole))
            flipped = bytearray(whole)
            flipped[place] ^= 1 << generator.randrange(8)
            if path.name == MANIFEST and _same_json(bytes(flipped), whole):
                continue  # only white space has changed
            path.write_bytes(bytes(flipped))
            loaded = store.load()
            assert loaded is not None
            assert loaded.manifest.version == 1
            assert str(path.parent) in loaded.damaged[0]
        for length in {0, len(whole) // 2, len(whole) - 1}:
            path.write_bytes(whole[:length])
            if path.name == MANIFEST and _same_json(whole[:length], whole):
                continue
            assert loaded_step(store) == 1
        path.unlink()
        assert loaded_step(store) == 1
        path.write_bytes(whole)
    assert loaded_step(store) == 2


def _same_json(a: bytes, b: bytes) -> bool:
    try:
        return bool(json.loads(a) == json.loads(b))
    except ValueError:
        return False


def test_loading_fails_if_every_version_is_damaged(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, 3)
    save(store, 1)
    save(store, 2)
    for version in (1, 2):
        (store.path(version) / "learner.safetensors").write_bytes(b"x")
    with pytest.raises(StateError, match=r"no usable checkpoint in .*000002.*; .*000001"):
        store.load()


def test_damaged_versions_do_not_count_as_kept(tmp_path: Path) -> None:
    first = CheckpointStore(tmp_path, 2)
    for step in (1, 2, 3):
        save(first, step)
    (first.path(3) / "learner.safetensors").write_bytes(b"x")
    store = CheckpointStore(tmp_path, 2)
    assert loaded_step(store) == 2
    store.save(
        parts(2),
        created_ms=0,
        software="test",
        identity={},
        log={},
        positions=[("impressions", 0, 20)],
        emitted=20,
    )
    assert store.versions() == [2, 3, 4]
    assert store.oldest_emitted() == 20, (
        "the damaged version has applied more entries than the one saved after it"
    )
    (store.path(4) / MANIFEST).unlink()
    assert loaded_step(CheckpointStore(tmp_path, 2)) == 2
    save(store, 5)
    save(store, 6)
    assert store.versions() == [5, 6]


@pytest.mark.parametrize("name", ["7", "²", "notes", "0000000000000"])
def test_other_names_in_the_folder_are_ignored(tmp_path: Path, name: str) -> None:
    store = CheckpointStore(tmp_path, 2)
    (tmp_path / name).mkdir()
    for step in (1, 2, 3):
        save(store, step)
    assert loaded_step(store) == 3
    assert (tmp_path / name).exists()


def test_a_deeply_nested_manifest_is_reported_as_damaged(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, 2)
    save(store, 1)
    (store.path(1) / MANIFEST).write_bytes(b"[" * 200_000)
    with pytest.raises(StateError, match="damaged manifest"):
        store.load()


def test_a_newer_format_is_rejected(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, 3)
    save(store, 1)
    path = store.path(1) / MANIFEST
    table: dict[str, Any] = json.loads(path.read_bytes())
    table["format"] = FORMAT + 1
    path.write_bytes(msgspec.json.encode(table))
    with pytest.raises(StateError, match="newer than"):
        store.load()


class Canary:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def test_a_pickle_in_place_of_an_array_file_is_never_executed(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "store", 3)
    save(store, 1)
    poison = pickle.dumps(Canary(tmp_path / "executed"))
    # Even if the manifest has its digest.
    manifest = store.manifest(1)
    (store.path(1) / "learner.safetensors").write_bytes(poison)
    from stream_ctr.daemon import checkpoint

    manifest.files["learner.safetensors"] = {"bytes": len(poison), "blake2b": checkpoint.digest(poison)}
    (store.path(1) / MANIFEST).write_bytes(msgspec.json.encode(checkpoint.sealed(manifest)))
    with pytest.raises(StateError, match="learner"):
        store.load()
    assert not (tmp_path / "executed").exists()


def save_with_segments(store: CheckpointStore, step: int, segments: list[SegmentName]) -> None:
    store.save(
        parts(step),
        created_ms=step,
        software="test",
        identity={},
        log={},
        positions=[("impressions", 0, step * 10)],
        emitted=step * 10,
        segments=segments,
    )


def written_segment(store: CheckpointStore, number: int) -> SegmentName:
    store.folder.mkdir(exist_ok=True)
    records = [Held(f"e{number}", number, 1, 1, b"x" * 50, 0)]
    return SegmentFolder(store.folder / SEGMENTS).write(number, 0, records).named


def test_segments_are_kept_while_a_checkpoint_lists_them(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "store", 2)
    segments: list[SegmentName] = []
    for step in (1, 2, 3):
        segments += [written_segment(store, 2 * step), written_segment(store, 2 * step + 1)]
        save_with_segments(store, step, segments[-3:])
    left = sorted(path.name for path in (store.folder / SEGMENTS).iterdir())
    assert left == [segment.name for segment in segments[1:]], (
        "the segment that only the deleted version listed is deleted"
    )
    assert loaded_step(store) == 3


def test_damaged_or_missing_segment_falls_back_and_is_named(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "store", 3)
    first = written_segment(store, 0)
    save_with_segments(store, 1, [first])
    second = written_segment(store, 1)
    save_with_segments(store, 2, [first, second])
    path = store.folder / SEGMENTS / second.name
    whole = path.read_bytes()
    for damage in (whole[:-1], bytes([whole[0] ^ 1]) + whole[1:], None):
        path.unlink()
        if damage is not None:
            path.write_bytes(damage)
        loaded = store.load()
        assert loaded is not None
        assert loaded.manifest.version == 1
        assert second.name in loaded.damaged[0]
        path.write_bytes(whole)
    assert loaded_step(CheckpointStore(tmp_path / "store", 3)) == 2


def test_a_manifest_written_before_segments_existed_loads(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, 2)
    save(store, 1)
    path = store.path(1) / MANIFEST
    table = json.loads(path.read_bytes())
    del table["segments"]
    path.write_bytes(msgspec.json.encode(table))
    assert loaded_step(store) == 1
