"""Snapshots: the state that a predictor needs; immutable, memory-mapped by any number of processes.

A snapshot is a folder named by its version. The file ``CURRENT`` next to it names the one to serve:

    snapshots/CURRENT                            version and seal of the newest snapshot
    snapshots/000000000012/arrays.safetensors    all arrays, one file
    snapshots/000000000012/snapshot.json         everything else, each array's offset and CRC-32C, the seal

Each folder is written under a temporary name, synced and renamed; ``CURRENT`` is replaced last. So a reader
of ``CURRENT`` finds complete snapshots only, and checksums and seal reveal damage.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import crc32c
import msgspec
import numpy as np
from numpy.typing import NDArray

from stream_ctr.config.features import FieldConfig
from stream_ctr.config.model import ModelConfig
from stream_ctr.errors import StateError
from stream_ctr.predictors.river_forward import RiverModel
from stream_ctr.state.array_file import DTYPES, ArrayFile
from stream_ctr.state.durable_files import Files
from stream_ctr.state.frozen import Source
from stream_ctr.state.state import Arrays, Json, State

FORMAT: Final = 2
"""Version of the layout; snapshots of a higher version are rejected. Networks are still written as format 1,
which earlier versions read; format 2 adds river models."""
SNAPSHOTS: Final = "snapshots"
"""Folder of an arm's snapshots in its state folder."""
CURRENT: Final = "CURRENT"
MANIFEST: Final = "snapshot.json"
ARRAYS: Final = "arrays.safetensors"
WRITING: Final = ".writing-"
"""Prefix of an incomplete snapshot. One that a crash left behind is removed by the next write."""


@dataclass(frozen=True, slots=True)
class FrozenContent:
    """The content of a snapshot, with large arrays in pieces."""

    model: ModelConfig | RiverModel
    fields: tuple[FieldConfig, ...]
    """The fields in the order of the model's inputs, with any preset resolved."""
    dense: Arrays
    """Dense parameters by the torch module's names, float32; for a river model float64."""
    rows: Source
    """[R, d] embedding rows, float32; for a river model float64."""
    vocabulary: Mapping[str, Source]
    """Arrays that find the row of a key."""
    encoder: State
    """State of the key encoder (learned bucket boundaries)."""
    event_time_ms: int
    """Everything up to this event time has been learned."""
    model_version: str = ""
    """Version name in responses and exposures; if empty, the snapshot's version."""


class ArrayEntry(msgspec.Struct, forbid_unknown_fields=True):
    """Location and checksum of one array in the file."""

    dtype: str
    shape: tuple[int, ...]
    offset: int
    """First byte, from the start of the file."""
    crc32c: int


class Manifest(msgspec.Struct, forbid_unknown_fields=True):
    """The content of ``snapshot.json``."""

    format: int
    version: int
    model_version: str
    created_ms: int
    event_time_ms: int
    model: ModelConfig | None
    """The network; None if the model is ``river``."""
    fields: tuple[FieldConfig, ...]
    encoder: dict[str, Any]
    arrays: dict[str, ArrayEntry]
    seal: str = ""
    """Digest of the manifest with this field empty."""
    river: RiverModel | msgspec.UnsetType = msgspec.UNSET
    """The river model; absent for a network."""


@dataclass(frozen=True, slots=True)
class SnapshotContent(FrozenContent):
    """The content of a snapshot, with whole arrays."""

    rows: NDArray[np.float32]
    vocabulary: Arrays


@dataclass(frozen=True)
class LoadedSnapshot:
    """A verified snapshot. Its arrays are read-only views of the mapped file.

    The mapping lives as long as any of the arrays, even after the files have been removed.
    """

    manifest: Manifest
    arrays: Arrays = field(repr=False)

    @property
    def version(self) -> int:
        return self.manifest.version

    @property
    def model(self) -> ModelConfig | RiverModel:
        """The network, or the river model.

        Raises:
            StateError: the manifest names none, or both.
        """
        network, river = self.manifest.model, self.manifest.river
        if isinstance(river, RiverModel) and network is None:
            return river
        if isinstance(river, RiverModel) or network is None:
            raise StateError(f"snapshot {self.version} names {'two models' if network else 'no model'}")
        return network

    @property
    def rows(self) -> NDArray[Any]:
        """[R, d] embedding rows, or a river model's weights."""
        return self.arrays["rows"]

    @property
    def dense(self) -> Arrays:
        """Dense parameters by name."""
        return self._state().part("dense").arrays

    @property
    def vocabulary(self) -> Arrays:
        """Arrays that find the row of a key."""
        return self._state().part("vocabulary").arrays

    @property
    def encoder(self) -> State:
        """State of the key encoder."""
        return State(self._state().part("encoder").arrays, dict(self.manifest.encoder))

    def _state(self) -> State:
        return State(self.arrays)


def write_snapshot(
    folder: Path,
    content: FrozenContent,
    *,
    kept: int = 3,
    created_ms: int | None = None,
    files: Files | None = None,
    check: Callable[[Path], None] = lambda folder: None,
) -> int:
    """Publish a snapshot and return its version, which is higher than all earlier ones in ``folder``.

    The newest ``kept`` snapshots are retained (at least 2, because a reader may just be opening the previous
    one). ``check`` receives the folder of the complete snapshot before it is published, and raises StateError
    to prevent that.

    Raises:
        OSError: writing failed. ``CURRENT`` still names a complete snapshot: the new one if only the removal
            of an old one failed.
        StateError: a snapshot cannot hold an array or a value of the encoder, or ``check`` raised it.
    """
    files = files or Files()
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob(f"{WRITING}*"):
        if left.is_dir():
            files.remove_folder(left)
    current = read_current(folder)
    version = max([*versions(folder), current[0] if current else 0]) + 1
    file = ArrayFile(_named_arrays(content))
    _check_encoder(content.encoder.values)
    temporary = folder / f"{WRITING}{version:012d}"
    files.make_folder(temporary)
    entries = _write_arrays(files, temporary / ARRAYS, file)
    river = content.model if isinstance(content.model, RiverModel) else None
    manifest = Manifest(
        format=1 if river is None else 2,
        version=version,
        model_version=content.model_version or str(version),
        created_ms=time.time_ns() // 1_000_000 if created_ms is None else created_ms,
        event_time_ms=content.event_time_ms,
        model=content.model if isinstance(content.model, ModelConfig) else None,
        river=msgspec.UNSET if river is None else river,
        fields=content.fields,
        encoder=content.encoder.values,
        arrays=entries,
    )
    manifest.seal = seal_of(manifest)
    _write(files, temporary / MANIFEST, msgspec.json.format(msgspec.json.encode(manifest)))
    files.sync_folder(temporary)
    check(temporary)
    files.rename(temporary, path_of(folder, version))
    files.sync_folder(folder)
    _write(files, folder / f"{WRITING}{CURRENT}", f"{version:012d} {manifest.seal}\n".encode())
    files.rename(folder / f"{WRITING}{CURRENT}", folder / CURRENT)
    files.sync_folder(folder)
    for old in versions(folder)[: -max(kept, 2)]:
        files.remove_folder(path_of(folder, old))
    return version


def _write(files: Files, path: Path, content: bytes | memoryview) -> None:
    files.write(path, content)
    files.sync_file(path)


def _write_arrays(files: Files, path: Path, file: ArrayFile) -> dict[str, ArrayEntry]:
    """Write all arrays to one file, and return the location and checksum of each."""
    checksums = dict.fromkeys(file.places, 0)

    def seen(name: str, piece: memoryview) -> None:
        checksums[name] = crc32c.crc32c(piece, checksums[name])

    files.write_pieces(path, file.pieces(seen))
    files.sync_file(path)
    return {name: ArrayEntry(*place, checksums[name]) for name, place in file.places.items()}


def versions(folder: Path) -> list[int]:
    """All versions in a folder of snapshots, usable or not, oldest first."""
    if not folder.is_dir():
        return []
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isascii() and path.name.isdigit())


def path_of(folder: Path, version: int) -> Path:
    """Folder of one snapshot."""
    return folder / f"{version:012d}"


def read_current(folder: Path) -> tuple[int, str] | None:
    """Version and seal in ``CURRENT``; None if the file is missing or damaged."""
    try:
        words = (folder / CURRENT).read_bytes().decode("ascii").split()
    except (OSError, UnicodeDecodeError):
        return None
    if len(words) != 2 or not words[0].isdigit() or len(words[1]) != 32:
        return None
    return int(words[0]), words[1]


def seal_of(manifest: Manifest) -> str:
    """The seal of a manifest's content."""
    return digest_of(msgspec.structs.replace(manifest, seal=""))


def digest_of(unsealed: Manifest | dict[str, Any]) -> str:
    """BLAKE2b digest (16 bytes) of a manifest without its seal: a struct, or the table read from a file.

    A reader computes it from the table, so that the seal of an older snapshot stays valid after settings have
    been added to the model.
    """
    return hashlib.blake2b(msgspec.json.encode(unsealed), digest_size=16).hexdigest()


def _check_encoder(values: dict[str, Json]) -> None:
    if msgspec.json.decode(msgspec.json.encode(values)) != values:
        raise StateError("the key encoder's values cannot be stored in a snapshot: JSON changes them")


def _named_arrays(content: FrozenContent) -> dict[str, Source]:
    return {
        "rows": content.rows,
        **{f"dense.{name}": array for name, array in content.dense.items()},
        **{f"vocabulary.{name}": array for name, array in content.vocabulary.items()},
        **{f"encoder.{name}": array for name, array in content.encoder.arrays.items()},
    }


def entry_bytes(entry: ArrayEntry) -> int:
    """Size of an array in the file, in bytes."""
    return math.prod(entry.shape) * DTYPES[entry.dtype].itemsize
