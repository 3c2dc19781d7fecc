"""``stream-ctr checkpoint inspect|verify|attach-sml``."""

from __future__ import annotations

import argparse
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stream_ctr.errors import StateError

if TYPE_CHECKING:
    from stream_ctr.daemon.checkpoint import CheckpointStore


class _CheckpointCommand:
    """A command on the checkpoints of one folder."""

    help: str

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "folder", type=Path, metavar="FOLDER", help="an arm's state folder, or its checkpoints folder"
        )
        parser.add_argument("--json", action="store_true", help="machine-readable output")

    def run(self, arguments: argparse.Namespace) -> int:
        from stream_ctr.daemon.checkpoint import CheckpointStore

        folder: Path = arguments.folder
        inner = folder / "checkpoints"
        store = CheckpointStore(inner if inner.is_dir() else folder, 2)
        if not store.versions():
            raise StateError(f"no checkpoint in {store.folder}; name an arm's state folder, like state/main")
        report = self.report(store, arguments)
        if arguments.json:
            print(json.dumps(report, indent=2))
        else:
            _print(report)
        return 0 if all(row.get("whole", True) for row in report.get("versions", [])) else 1

    def report(self, store: CheckpointStore, arguments: argparse.Namespace) -> dict[str, Any]:
        """The result to print."""
        raise NotImplementedError


class Inspect(_CheckpointCommand):
    """``stream-ctr checkpoint inspect``."""

    help = "show the newest checkpoint: log offsets, sizes, identity, arrays"

    def report(self, store: CheckpointStore, arguments: argparse.Namespace) -> dict[str, Any]:
        return inspect(store)


class Verify(_CheckpointCommand):
    """``stream-ctr checkpoint verify``."""

    help = "check every byte of all checkpoints against their digests"

    def report(self, store: CheckpointStore, arguments: argparse.Namespace) -> dict[str, Any]:
        return verify(store)


class AttachSML(_CheckpointCommand):
    """``stream-ctr checkpoint attach-sml``."""

    help = "write a new checkpoint: the newest one with skip logits added to its network"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        super().add_arguments(parser)
        parser.add_argument(
            "--config", metavar="FILE", help="configuration file of the network with skip logits"
        )
        parser.add_argument("--arm", metavar="NAME", help="arm of that configuration (the first)")

    def report(self, store: CheckpointStore, arguments: argparse.Namespace) -> dict[str, Any]:
        from stream_ctr.training.attach_sml import attach

        return attach(store, arguments.config, arguments.arm)


def inspect(store: CheckpointStore) -> dict[str, Any]:
    """Log offsets, sizes, identity and arrays of the newest undamaged checkpoint."""
    loaded = store.load()
    assert loaded is not None, "the caller has found a checkpoint"
    manifest = loaded.manifest
    return {
        "folder": str(store.path(manifest.version)),
        "version": manifest.version,
        "created": datetime.fromtimestamp(manifest.created_ms / 1000, UTC).isoformat(timespec="seconds"),
        "software": manifest.software,
        "log": manifest.log,
        "positions": {f"{topic}/{partition}": offset for topic, partition, offset in manifest.positions},
        "bytes": sum(entry["bytes"] for entry in manifest.files.values()),
        "identity": manifest.identity,
        "arrays": {
            f"{part}.{name}": f"{array.dtype} {list(array.shape)}"
            for part, state in loaded.parts.items()
            for name, array in sorted(state.arrays.items())
        },
        "damaged": loaded.damaged,
    }


def verify(store: CheckpointStore) -> dict[str, Any]:
    """Each version, read in full and checked against its digests."""
    rows = []
    for version in store.versions():
        row: dict[str, Any] = {"version": version, "whole": True}
        try:
            manifest, _ = store.read(version)
            row["bytes"] = sum(entry["bytes"] for entry in manifest.files.values())
        except StateError as error:
            row.update(whole=False, reason=str(error))
        rows.append(row)
    return {"folder": str(store.folder), "versions": rows}


def _print(value: Any, indent: str = "") -> None:
    for key, item in value.items():
        if isinstance(item, dict):
            print(f"{indent}{key}:")
            _print(item, indent + "  ")
        elif isinstance(item, list) and item and isinstance(item[0], dict):
            for row in item:
                print(f"{indent}" + "  ".join(f"{name}={row[name]}" for name in row))
        else:
            print(f"{indent}{key}: {item}")
