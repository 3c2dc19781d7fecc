"""Reads snapshots: maps them into memory, checks them, and replaces them as newer ones appear."""

from __future__ import annotations

import mmap
from collections.abc import Callable
from pathlib import Path

import crc32c
import msgspec
import numpy as np
from numpy.typing import NDArray

from stream_ctr.errors import StateError
from stream_ctr.predictors.snapshot import (
    ARRAYS,
    CURRENT,
    FORMAT,
    MANIFEST,
    SNAPSHOTS,
    ArrayEntry,
    LoadedSnapshot,
    Manifest,
    digest_of,
    entry_bytes,
    path_of,
    read_current,
    versions,
)
from stream_ctr.state.array_file import DTYPES

_Stamp = tuple[tuple[int, int, int], ...]


class SnapshotReader:
    """Follows the snapshots of one arm.

    If the newest snapshot is missing, incomplete or damaged, or ``accept`` rejects it, the loaded one stays
    in place and ``error`` holds the reason. Not thread-safe, but ``current`` may be read from any thread.
    """

    def __init__(
        self, folder: Path, accept: Callable[[LoadedSnapshot], None] = lambda snapshot: None
    ) -> None:
        """``accept`` raises StateError for an intact snapshot that must not be used."""
        self.folder = folder
        self._accept = accept
        self.current: LoadedSnapshot | None = None
        self.error = ""
        """Why the newest snapshot is not the loaded one; empty if it is."""
        self.failures = 0
        """Number of rejected snapshots."""
        self._refused: _Stamp | None = None

    def poll(self) -> bool:
        """Load the snapshot that ``CURRENT`` names, if it has changed; True if one was loaded.

        If none is loaded yet, fall back to the newest usable snapshot in the folder.
        """
        named = read_current(self.folder)
        if named is not None and self.current is not None and named == _identity(self.current):
            self.error = ""
            return False
        stamp = self._stamp(named)
        if stamp == self._refused:
            return False  # unchanged since it was rejected: do not read it again
        self._refused = None
        if named is None and self.current is None and not versions(self.folder):
            self.error = f"no snapshot in {self.folder} yet; the trainer publishes the first one"
            return False
        try:
            self.current = self._load_named(named)
            self.error = ""
            return True
        except StateError as error:
            self.error = str(error)
            self.failures += 1
            self._refused = stamp
        return self.current is None and self._load_any()

    def _load_named(self, named: tuple[int, str] | None) -> LoadedSnapshot:
        if named is None:
            raise StateError(
                f"{self.folder / CURRENT}: missing or damaged; the trainer writes it with every snapshot"
            )
        loaded = load_snapshot(path_of(self.folder, named[0]))
        if _identity(loaded) != named:
            raise StateError(f"{path_of(self.folder, named[0])}: not the snapshot that {CURRENT} names")
        self._accept(loaded)
        return loaded

    def _load_any(self) -> bool:
        for version in reversed(versions(self.folder)):
            try:
                loaded = load_snapshot(path_of(self.folder, version))
                self._accept(loaded)
                self.current = loaded
                return True
            except StateError:
                continue  # ``error`` already holds the reason for the newest snapshot
        return False

    def _stamp(self, named: tuple[int, str] | None) -> _Stamp:
        """Inode, size and modification time of the files that a poll reads."""
        paths = [self.folder / CURRENT]
        if named is not None:
            paths += [path_of(self.folder, named[0]) / name for name in (MANIFEST, ARRAYS)]
        found = []
        for path in paths:
            try:
                status = path.stat()
            except OSError:
                found.append((0, 0, 0))
            else:
                found.append((status.st_ino, status.st_size, status.st_mtime_ns))
        return tuple(found)


def _identity(snapshot: LoadedSnapshot) -> tuple[int, str]:
    return snapshot.version, snapshot.manifest.seal


def load_snapshot(folder: Path) -> LoadedSnapshot:
    """Map one snapshot into memory and check every byte of it.

    Raises:
        StateError: a file is missing or damaged, or the format is newer; the file is named.
    """
    loaded = _load(folder)
    version = loaded.manifest.version
    if folder.name != f"{version:012d}":
        raise StateError(f"{folder / MANIFEST}: has version {version}, but the folder is {folder.name}")
    return loaded


def open_fixed(folder: Path) -> LoadedSnapshot:
    """Map one fixed snapshot into memory, from a folder of any name, and check every byte of it.

    Raises:
        StateError: the folder is not a snapshot, a file is missing or damaged, or the format is newer.
    """
    if not (folder / MANIFEST).is_file():
        inner = (folder, folder / SNAPSHOTS)
        found = "no such folder" if not folder.is_dir() else f"not a snapshot, it has no {MANIFEST}"
        if any((each / CURRENT).is_file() for each in inner):
            found = "not a fixed snapshot, the trainer replaces it"
        raise StateError(f"{folder}: {found}; freeze one with stream-ctr snapshot copy STATE/ARM --to FOLDER")
    return _load(folder)


def _load(folder: Path) -> LoadedSnapshot:
    manifest = _manifest(folder / MANIFEST)
    path = folder / ARRAYS
    try:
        with path.open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        raise StateError(f"{path}: {getattr(error, 'strerror', None) or error}") from None
    data = np.frombuffer(mapped, np.uint8)
    arrays = {name: _array(data, path, name, entry) for name, entry in manifest.arrays.items()}
    return LoadedSnapshot(manifest, arrays)


def _manifest(path: Path) -> Manifest:
    try:
        raw = path.read_bytes()
        table = msgspec.json.decode(raw)
        found = table["format"] if isinstance(table, dict) else None
    except OSError as error:
        raise StateError(f"{path}: {error.strerror}") from None
    except (ValueError, KeyError, RecursionError):
        raise StateError(f"{path}: damaged, not the JSON of a snapshot") from None
    if isinstance(found, int) and found > FORMAT:
        raise StateError(
            f"{path}: snapshot format {found} is newer than {FORMAT}, the newest that this version of "
            "stream-ctr reads; use the version that wrote it"
        )
    try:
        manifest = msgspec.json.decode(raw, type=Manifest)
    except ValueError as error:
        raise StateError(f"{path}: damaged ({error})") from None
    if manifest.seal != digest_of({**table, "seal": ""}):
        raise StateError(f"{path}: damaged, its seal does not match its content")
    return manifest


def _array(data: NDArray[np.uint8], path: Path, name: str, entry: ArrayEntry) -> NDArray[np.generic]:
    if entry.dtype not in DTYPES or min((entry.offset, *entry.shape)) < 0:
        raise StateError(
            f"{path}: array {name} has an invalid description: {entry.dtype} {list(entry.shape)}"
        )
    stop = entry.offset + entry_bytes(entry)
    if stop > data.size:
        raise StateError(f"{path}: {data.size} bytes, but array {name} ends at {stop}; the file is truncated")
    content = data[entry.offset : stop]
    if crc32c.crc32c(content.data) != entry.crc32c:
        raise StateError(f"{path}: damaged, the checksum of array {name} does not match")
    return content.view(DTYPES[entry.dtype]).reshape(entry.shape)
