"""Freezes a snapshot: copies it to a separate folder, which no trainer replaces or removes."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from stream_ctr.errors import StateError
from stream_ctr.predictors.reader import load_snapshot, open_fixed
from stream_ctr.predictors.snapshot import (
    ARRAYS,
    CURRENT,
    MANIFEST,
    SNAPSHOTS,
    WRITING,
    LoadedSnapshot,
    path_of,
    read_current,
    versions,
)
from stream_ctr.state.durable_files import Files

TRIES: Final = 3
"""Attempts to read the current snapshot: a trainer may replace and remove it meanwhile."""


def snapshots_folder(folder: Path) -> Path | None:
    """The folder of snapshots in a state folder, or ``folder`` itself; None if it is a single snapshot.

    Raises:
        StateError: ``folder`` holds no snapshot.
    """
    if (folder / MANIFEST).exists():
        return None
    for inner in (folder / SNAPSHOTS, folder):
        if (inner / CURRENT).exists() or versions(inner):
            return inner
    found = "contains no snapshot" if folder.is_dir() else "no such folder"
    raise StateError(
        f"{folder}: {found}; give an arm's state folder, such as state/main, or a snapshot's folder"
    )


def find_snapshot(folder: Path) -> tuple[Path, LoadedSnapshot]:
    """The snapshot in a folder, or an arm's current one; with the folder of the snapshot.

    Raises:
        StateError: there is no snapshot, or it is damaged.
    """
    inner = snapshots_folder(folder)
    if inner is None:
        return folder, open_fixed(folder)
    current = read_current(inner)
    if current is None:
        raise StateError(
            f"{inner / CURRENT}: missing or damaged; give the folder of one snapshot, such as "
            f"{path_of(inner, max(versions(inner), default=1))}"
        )
    path = path_of(inner, current[0])
    return path, load_snapshot(path)


def copy_snapshot(folder: Path, target: Path, files: Files | None = None) -> LoadedSnapshot:
    """Copy the snapshot in a folder, or an arm's current one, to ``target``, atomically.

    Raises:
        StateError: there is no intact snapshot, or ``target`` exists.
        OSError: reading or writing failed.
    """
    files = files or Files()
    if target.exists():
        raise StateError(f"{target}: already exists and is not overwritten; choose another folder")
    manifest, arrays = _read(folder)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.parent / f"{WRITING}{target.name}"
    if temporary.exists():
        files.remove_folder(temporary)
    files.make_folder(temporary)
    for name, content in ((ARRAYS, arrays), (MANIFEST, manifest)):
        files.write(temporary / name, content)
        files.sync_file(temporary / name)
    open_fixed(temporary)
    files.sync_folder(temporary)
    files.rename(temporary, target)
    files.sync_folder(target.parent)
    return open_fixed(target)


def _read(folder: Path) -> tuple[bytes, bytes]:
    """The bytes of manifest and arrays of an intact snapshot."""
    for attempt in range(TRIES):
        try:
            path, _ = find_snapshot(folder)
            return (path / MANIFEST).read_bytes(), (path / ARRAYS).read_bytes()
        except (FileNotFoundError, StateError):
            if attempt == TRIES - 1:
                raise
    raise AssertionError("the last try ends above")
