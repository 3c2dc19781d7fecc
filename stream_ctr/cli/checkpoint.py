"""``stream-ctr checkpoint inspect|verify|attach-sml``."""

from __future__ import annotations

import argparse
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from stream_ctr.errors import StateError


class Checkpoint:
    """``stream-ctr checkpoint``."""

    help = "look inside a trainer's checkpoints, check every byte of them, or add skip logits to the newest"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "action",
            choices=["inspect", "verify", "attach-sml"],
            help="show the newest; check them all; write a next one whose network has skip logits, too",
        )
        parser.add_argument("folder", type=Path, help="an arm's state folder, or its checkpoints folder")
        parser.add_argument("--config", help="attach-sml: configuration of the network with skip logits")
        parser.add_argument("--arm", help="attach-sml: arm of that configuration; without it, the first")
        parser.add_argument("--json", action="store_true", help="machine-readable output")

    def run(self, arguments: argparse.Namespace) -> int:
        from stream_ctr.daemon.checkpoint import CheckpointStore

        folder: Path = arguments.folder
        inner = folder / "checkpoints"
        store = CheckpointStore(inner if inner.is_dir() else folder, 2)
        versions = store.versions()
        if not versions:
            raise StateError(f"no checkpoint in {store.folder}; name an arm's state folder, like state/main")
        if arguments.action == "attach-sml":
            from stream_ctr.training.attach_sml import attach

            report = attach(store, arguments.config, arguments.arm)
        else:
            report = inspect(store) if arguments.action == "inspect" else verify(store)
        if arguments.json:
            print(json.dumps(report, indent=2))
        else:
            _print(report)
        return 0 if all(row.get("whole", True) for row in report.get("versions", [])) else 1


def inspect(store: Any) -> dict[str, Any]:
    """What the newest whole checkpoint says: positions, sizes, identity."""
    loaded = store.load()
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


def verify(store: Any) -> dict[str, Any]:
    """Every version, read in full and checked against its digests."""
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
