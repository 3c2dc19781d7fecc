"""Checkpoints: one folder a version, whole or not there at all.

A version is written into a folder beside the others, file by file with fsync, the manifest with every
file's digest last; then the folder gets its name. Loading takes the newest version whose digests hold
(a safetensors file with a flipped bit loads without complaint, so the digest is what tells). Arrays are
safetensors, the rest is JSON. Nothing is ever unpickled.
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
"""Version of the layout below; a checkpoint of a higher one is refused."""
MANIFEST = "manifest.json"
SEGMENTS = "segments"
"""Folder, beside the versions, of the joiner's immutable files; a version names those it needs."""
DIGEST_BYTES = 16
WRITING = ".writing-"
"""Prefix of a folder that is not a checkpoint yet; one left by a crash is removed at the next start."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a checkpoint says of itself."""

    format: int
    version: int
    created_ms: int
    software: str
    identity: dict[str, Any]
    """What must agree for the state to be usable: model, features, join, seed, rules."""
    log: dict[str, Any]
    """Log id and topic ids that the positions belong to."""
    positions: list[tuple[str, int, int]]
    """(topic, partition, offset of the next entry)."""
    emitted: int
    """Entries of the order that the state holds: decisions of the journal before them are in it."""
    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Bytes and BLAKE2b digest of each file."""
    segments: list[SegmentName] = field(default_factory=list)
    """The joiner's files that the state rests on; those that no version kept names are deleted."""
    seal: str = ""
    """Digest of the manifest with this field empty: a flipped bit in an offset must not pass either."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A checkpoint that was read and whose digests held."""

    manifest: Manifest
    parts: dict[str, State]
    damaged: list[str]
    """Newer versions that were passed over, each with what is wrong with it."""


class CheckpointStore:
    """The checkpoints of one trainer.

    Raises:
        StateError: by :meth:`load` when there are checkpoints and none of them can be used.
        OSError: by :meth:`save` when the file system refuses; earlier versions are then untouched.
    """

    def __init__(self, folder: Path, kept: int, files: Files | None = None) -> None:
        self.folder = folder
        self.kept = kept
        self.files = files or Files()
        self._damaged: set[int] = set()
        """Versions that :meth:`load` passed over: they do not count as recoverable."""

    def versions(self) -> list[int]:
        """Versions present, oldest first, usable or not."""
        if not self.folder.is_dir():
            return []
        names = (path.name for path in self.folder.iterdir())
        return sorted(int(name) for name in names if re.fullmatch("[0-9]{12}", name))

    def oldest_emitted(self) -> int:
        """The smallest count of emitted entries that a version says it holds: the journal must go back
        to it. It need not be the oldest version's: one that was saved after falling back holds fewer.

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
        """Write the next version, then drop those older than the last ``kept`` that are recoverable.

        Arrays are written piece by piece, so that frozen ones take no second copy in memory.
        ``segments`` are all that are in use. Of the ``removable`` ones (by default: all there are now) those
        that no kept version names are deleted; whoever saves while segments are being written must say which.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self._clear_unfinished()
        version = (self.versions() or [0])[-1] + 1
        beside = self.folder / f"{WRITING}{version:012d}"
        self.files.make_folder(beside)
        listed: dict[str, dict[str, Any]] = {}
        for name, state in parts.items():
            listed[f"{name}.safetensors"] = self._write_arrays(beside / f"{name}.safetensors", state)
            values = json.dumps(state.values, sort_keys=True, allow_nan=True).encode()
            self._write(beside / f"{name}.json", values)
            listed[f"{name}.json"] = {"bytes": len(values), "blake2b": digest(values)}
        place = (identity, log, positions, emitted)
        named = list(segments)
        manifest = sealed(Manifest(FORMAT, version, created_ms, software, *place, listed, named))
        self._write(beside / MANIFEST, msgspec.json.format(msgspec.json.encode(manifest)))
        self.files.sync_folder(beside)
        self.files.rename(beside, self.path(version))
        self.files.sync_folder(self.folder)
        oldest_kept = [old for old in self.versions() if old not in self._damaged][-self.kept :][0]
        for old in self.versions():
            if old < oldest_kept:
                self.files.remove_folder(self.path(old))
        with contextlib.suppress(StateError):  # a damaged manifest may name any of them
            needed = {s.name for kept in self.versions() for s in self.manifest(kept).segments}
            found = names_in(self.folder / SEGMENTS) if removable is None else removable
            remove_others(self.folder / SEGMENTS, found, needed, self.files)
        return manifest

    def load(self) -> Loaded | None:
        """The newest version that is whole; None when there is no checkpoint at all."""
        damaged: list[str] = []
        for version in reversed(self.versions()):
            try:
                return Loaded(*self.read(version), damaged)
            except StateError as error:
                damaged.append(str(error))
                self._damaged.add(version)
        if damaged:
            raise StateError(
                f"none of the {len(damaged)} checkpoints in {self.folder} can be used: {'; '.join(damaged)}; "
                "restore one from a backup, or name another state folder to start anew"
            )
        return None

    def read(self, version: int) -> tuple[Manifest, dict[str, State]]:
        """One version, every file checked against its digest.

        Raises:
            StateError: a file is missing, damaged, or of a newer format; the file is named.
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
                raise StateError(f"{folder / name}: not a readable state: {error}") from None
            parts[name] = State(arrays, values)
        return manifest, parts

    def manifest(self, version: int) -> Manifest:
        """The manifest of one version."""
        path = self.path(version) / MANIFEST
        try:
            raw = path.read_bytes()
            table = json.loads(raw)
            found = table["format"] if isinstance(table, dict) else None
        except (OSError, ValueError, KeyError, RecursionError) as error:
            raise StateError(f"{path}: missing or damaged manifest ({_short(error)})") from None
        if isinstance(found, int) and found > FORMAT:
            raise StateError(
                f"{path}: checkpoint format {found} is newer than {FORMAT}, the newest that this version of "
                "stream-ctr reads; use the version that wrote it"
            )
        try:
            manifest = msgspec.convert(table, Manifest)
        except msgspec.ValidationError as error:
            raise StateError(f"{path}: damaged manifest ({error})") from None
        if manifest.seal != _seal(manifest):
            raise StateError(f"{path}: damaged manifest, its seal does not fit its content")
        if manifest.version != version:
            raise StateError(f"{path}: says version {manifest.version}, the folder says {version}")
        return manifest

    def _write_arrays(self, path: Path, state: State | FrozenState) -> dict[str, Any]:
        """Write the arrays; bytes and digest of the file."""
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
        del table["segments"]  # a manifest from before there were any is as good
    return digest(msgspec.json.encode(table))


def sealed(manifest: Manifest) -> Manifest:
    """The manifest with the seal that fits its content."""
    return dataclasses.replace(manifest, seal=_seal(manifest))


def digest(content: bytes) -> str:
    """BLAKE2b digest of a file's content, as the manifest holds it."""
    return hashlib.blake2b(content, digest_size=DIGEST_BYTES).hexdigest()


def _checked(path: Path, entry: dict[str, Any]) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise StateError(f"{path}: {_short(error)}") from None
    if len(content) != entry.get("bytes"):
        raise StateError(f"{path}: {len(content)} bytes, the manifest says {entry.get('bytes')}")
    if digest(content) != entry.get("blake2b"):
        raise StateError(f"{path}: damaged, its digest is not the manifest's")
    return content
