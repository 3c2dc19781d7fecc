"""Checkpoints: one folder per version, either complete or absent.

A version is written to a temporary folder, file by file with fsync. The manifest, which holds the digest of
every file, comes last; then the folder is renamed. Loading takes the newest version whose digests match. The
digests are needed because a safetensors file with a flipped bit loads without an error. Arrays are stored as
safetensors, everything else as JSON. Nothing is ever unpickled.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import safetensors
import safetensors.numpy

from stream_ctr.errors import StateError
from stream_ctr.pipeline.joining.segments import SegmentName, damage_of, names_in, remove_others
from stream_ctr.state.array_file import ArrayFile
from stream_ctr.state.durable_files import Files
from stream_ctr.state.frozen import FrozenState, Source
from stream_ctr.state.state import State

FORMAT = 1
"""Version of the layout; checkpoints with a higher version are rejected."""
MANIFEST = "manifest.json"
SEGMENTS = "segments"
"""Folder of the joiner's immutable files, next to the versions; a manifest lists those its version needs."""
DIGEST_BYTES = 16
WRITING = ".writing-"
"""Prefix of an unfinished checkpoint's folder; one left by a crash is removed by the next save."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """Description of a checkpoint."""

    format: int
    version: int
    created_ms: int
    software: str
    identity: dict[str, Any]
    """Settings that the configuration must match: model, features, join, seed, rules."""
    log: dict[str, Any]
    """Log id and topic ids to which the positions belong."""
    positions: list[tuple[str, int, int]]
    """(topic, partition, offset of the next entry)."""
    emitted: int
    """Entries of the order that the state contains; journal decisions before that number are part of it."""
    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Size in bytes and BLAKE2b digest of each file."""
    segments: list[SegmentName] = field(default_factory=list)
    """The joiner's files that the state needs; files that no kept version lists are deleted."""
    seal: str = ""
    """Digest of the manifest with this field empty; it detects, for example, a flipped bit in an offset."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A checkpoint that was read and whose digests match."""

    manifest: Manifest
    parts: dict[str, State]
    damaged: list[str]
    """Why each newer version was not used."""


class CheckpointStore:
    """The checkpoints of one daemon.

    Args:
        folder: holds one folder per version.
        kept: number of usable versions that :meth:`save` keeps.
        files: file operations.

    Raises:
        StateError: by :meth:`load`, if checkpoints exist but none is usable.
        OSError: by :meth:`save`, if the file system fails; earlier versions are then untouched.
    """

    def __init__(self, folder: Path, kept: int, files: Files | None = None) -> None:
        self.folder = folder
        self.kept = kept
        self.files = files or Files()
        self._damaged: set[int] = set()
        """Versions that :meth:`load` found damaged: they do not count towards ``kept``."""

    def versions(self) -> list[int]:
        """Versions in the folder, oldest first, including damaged ones."""
        if not self.folder.is_dir():
            return []
        names = (path.name for path in self.folder.iterdir())
        return sorted(int(name) for name in names if re.fullmatch("[0-9]{12}", name))

    def oldest_emitted(self) -> int:
        """The smallest ``emitted`` of all versions, to which the journal must reach back.

        It is not always that of the oldest version: after falling back past a damaged version, the next
        version has applied fewer entries than the damaged one.

        Raises:
            StateError: a version's manifest is damaged.
        """
        return min(self.manifest(version).emitted for version in self.versions())

    def path(self, version: int) -> Path:
        """Folder of a version."""
        return self.folder / f"{version:012d}"

    def save(
        self,
        parts: Mapping[str, State | FrozenState],
        *,
        created_ms: int,
        software: str,
        identity: dict[str, Any],
        log: dict[str, Any],
        positions: list[tuple[str, int, int]],
        emitted: int,
        segments: Sequence[SegmentName] = (),
        removable: Collection[str] | None = None,
    ) -> Manifest:
        """Write the next version, then delete versions older than the last ``kept`` usable ones.

        Arrays are written in pieces, so frozen arrays need no second copy in memory.

        Args:
            parts: the state, by part.
            created_ms: Unix time in milliseconds.
            software: name and version of the program.
            identity, log, positions, emitted: as in :class:`Manifest`.
            segments: all segments in use.
            removable: segments that may be deleted if no kept version lists them; by default, all segments
                in the folder. A caller that writes segments concurrently must restrict them.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self._clear_unfinished()
        version = (self.versions() or [0])[-1] + 1
        unfinished = self.folder / f"{WRITING}{version:012d}"
        self.files.make_folder(unfinished)
        listed: dict[str, dict[str, Any]] = {}
        for name, state in parts.items():
            listed[f"{name}.safetensors"] = self._write_arrays(unfinished / f"{name}.safetensors", state)
            values = json.dumps(state.values, sort_keys=True, allow_nan=True).encode()
            self._write(unfinished / f"{name}.json", values)
            listed[f"{name}.json"] = {"bytes": len(values), "blake2b": digest(values)}
        origin = (identity, log, positions, emitted)
        manifest = sealed(Manifest(FORMAT, version, created_ms, software, *origin, listed, list(segments)))
        self._write(unfinished / MANIFEST, msgspec.json.format(msgspec.json.encode(manifest)))
        self.files.sync_folder(unfinished)
        self.files.rename(unfinished, self.path(version))
        self.files.sync_folder(self.folder)
        oldest_kept = [old for old in self.versions() if old not in self._damaged][-self.kept :][0]
        for old in self.versions():
            if old < oldest_kept:
                self.files.remove_folder(self.path(old))
        with contextlib.suppress(StateError):  # a damaged manifest might list any segment
            needed = {s.name for kept in self.versions() for s in self.manifest(kept).segments}
            found = names_in(self.folder / SEGMENTS) if removable is None else removable
            remove_others(self.folder / SEGMENTS, found, needed, self.files)
        return manifest

    def load(self) -> Loaded | None:
        """The newest undamaged version; None without checkpoints."""
        damaged: list[str] = []
        for version in reversed(self.versions()):
            try:
                return Loaded(*self.read(version), damaged)
            except StateError as error:
                damaged.append(str(error))
                self._damaged.add(version)
        if damaged:
            raise StateError(
                f"no usable checkpoint in {self.folder}: {'; '.join(damaged)}. Restore one from a backup, or "
                "set train.state to a new folder"
            )
        return None

    def read(self, version: int) -> tuple[Manifest, dict[str, State]]:
        """One version, with every file checked against its digest.

        Raises:
            StateError: a file is missing, damaged, or has a newer format; the message names the file.
        """
        manifest = self.manifest(version)
        folder = self.path(version)
        contents = {name: _checked(folder / name, entry) for name, entry in manifest.files.items()}
        for segment in manifest.segments:
            if damage := damage_of(self.folder / SEGMENTS, segment):
                raise StateError(damage)
        parts = {}
        for name in sorted({name.rsplit(".", 1)[0] for name in contents}):
            try:
                arrays = safetensors.numpy.load(contents[f"{name}.safetensors"])
                values = json.loads(contents[f"{name}.json"])
            except (KeyError, ValueError, RecursionError, safetensors.SafetensorError) as error:
                raise StateError(f"{folder / name}: unreadable state: {error}") from None
            parts[name] = State(arrays, values)
        return manifest, parts

    def manifest(self, version: int) -> Manifest:
        """The manifest of one version.

        Raises:
            StateError: it is missing, damaged, or has a newer format.
        """
        path = self.path(version) / MANIFEST
        try:
            raw = path.read_bytes()
            table = json.loads(raw)
            found = table["format"] if isinstance(table, dict) else None
        except (OSError, ValueError, KeyError, RecursionError) as error:
            raise StateError(f"{path}: missing or damaged manifest ({_short(error)})") from None
        if isinstance(found, int) and found > FORMAT:
            raise StateError(
                f"{path}: checkpoint format {found} is newer than {FORMAT}, the newest format that this "
                "version of stream-ctr can read; use the version that wrote it"
            )
        try:
            manifest = msgspec.convert(table, Manifest)
        except msgspec.ValidationError as error:
            raise StateError(f"{path}: damaged manifest ({error})") from None
        if manifest.seal != _seal(manifest):
            raise StateError(f"{path}: damaged manifest: the seal does not match the content")
        if manifest.version != version:
            raise StateError(
                f"{path}: manifest of version {manifest.version} in the folder of version {version}"
            )
        return manifest

    def _write_arrays(self, path: Path, state: State | FrozenState) -> dict[str, Any]:
        """Write the arrays; returns size and digest of the file."""
        arrays: Mapping[str, Source] = state.arrays
        file, hashed = ArrayFile(arrays), hashlib.blake2b(digest_size=DIGEST_BYTES)
        self.files.write_pieces(path, _hashed(file.pieces(), hashed))
        self.files.sync_file(path)
        return {"bytes": file.size, "blake2b": hashed.hexdigest()}

    def _write(self, path: Path, content: bytes) -> None:
        self.files.write(path, content)
        self.files.sync_file(path)

    def _clear_unfinished(self) -> None:
        for path in self.folder.glob(f"{WRITING}*"):
            self.files.remove_folder(path)


def _short(error: Exception) -> str:
    return error.strerror or str(error) if isinstance(error, OSError) else f"{type(error).__name__}: {error}"


def _hashed(pieces: Iterable[bytes | memoryview], hashed: hashlib.blake2b) -> Iterator[bytes | memoryview]:
    for piece in pieces:
        hashed.update(piece)
        yield piece


def _seal(manifest: Manifest) -> str:
    table = msgspec.to_builtins(dataclasses.replace(manifest, seal=""))
    if not table["segments"]:
        del table["segments"]  # manifests written before segments existed have no such key
    return digest(msgspec.json.encode(table))


def sealed(manifest: Manifest) -> Manifest:
    """The manifest with the seal for its content."""
    return dataclasses.replace(manifest, seal=_seal(manifest))


def digest(content: bytes) -> str:
    """BLAKE2b digest of a file's content, in hexadecimal."""
    return hashlib.blake2b(content, digest_size=DIGEST_BYTES).hexdigest()


def _checked(path: Path, entry: dict[str, Any]) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise StateError(f"{path}: {_short(error)}") from None
    if len(content) != entry.get("bytes"):
        raise StateError(f"{path}: damaged: {len(content)} bytes, expected {entry.get('bytes')}")
    if digest(content) != entry.get("blake2b"):
        raise StateError(f"{path}: damaged: the digest does not match the manifest")
    return content
