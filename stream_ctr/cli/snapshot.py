"""``stream-ctr snapshot inspect|verify|copy``."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stream_ctr.errors import StateError

if TYPE_CHECKING:
    from stream_ctr.predictors.snapshot import LoadedSnapshot


class _SnapshotCommand:
    """A command on the snapshots of one folder."""

    help: str

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "folder",
            type=Path,
            metavar="FOLDER",
            help="an arm's state folder, its snapshots folder, or one snapshot's folder",
        )
        parser.add_argument("--json", action="store_true", help="machine-readable output")

    def run(self, arguments: argparse.Namespace) -> int:
        report = self.report(arguments)
        if arguments.json:
            print(json.dumps(report, indent=2))
        else:
            _print(report)
        return 0 if all(row.get("whole", True) for row in report.get("versions", [])) else 1

    def report(self, arguments: argparse.Namespace) -> dict[str, Any]:
        """The result to print."""
        raise NotImplementedError


class Inspect(_SnapshotCommand):
    """``stream-ctr snapshot inspect``."""

    help = "show the current snapshot: version, model, fields, sizes"

    def report(self, arguments: argparse.Namespace) -> dict[str, Any]:
        from stream_ctr.predictors.freeze import find_snapshot

        return _shown(*find_snapshot(arguments.folder))


class Verify(_SnapshotCommand):
    """``stream-ctr snapshot verify``."""

    help = "check every byte of all snapshots, and that CURRENT names one of them"

    def report(self, arguments: argparse.Namespace) -> dict[str, Any]:
        return _verify(arguments.folder)


class Copy(_SnapshotCommand):
    """``stream-ctr snapshot copy``."""

    help = "copy the current snapshot into a folder of its own, for an arm that serves it unchanged"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("--to", type=Path, metavar="FOLDER", required=True, help="the new folder")

    def report(self, arguments: argparse.Namespace) -> dict[str, Any]:
        from stream_ctr.predictors.freeze import copy_snapshot

        return _shown(arguments.to, copy_snapshot(arguments.folder, arguments.to))


def _shown(folder: Path, loaded: LoadedSnapshot) -> dict[str, Any]:
    from datetime import UTC, datetime

    import msgspec

    manifest = loaded.manifest

    def moment(ms: int) -> str:
        return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="seconds")

    return {
        "folder": str(folder),
        "version": manifest.version,
        "model_version": manifest.model_version,
        "created": moment(manifest.created_ms),
        "learned_up_to": moment(manifest.event_time_ms),
        "format": manifest.format,
        "model": msgspec.to_builtins(loaded.model),
        "fields": [f"{item.name}:{item.kind}" for item in manifest.fields],
        "bytes": sum(array.nbytes for array in loaded.arrays.values()),
        "arrays": {
            name: f"{array.dtype} {list(array.shape)}" for name, array in sorted(loaded.arrays.items())
        },
        "seal": manifest.seal,
    }


def _verify(folder: Path) -> dict[str, Any]:
    """Check every snapshot of a folder, read in full, and the one that ``CURRENT`` names."""
    from stream_ctr.predictors.freeze import snapshots_folder
    from stream_ctr.predictors.predictor import Predictor
    from stream_ctr.predictors.reader import load_snapshot, open_fixed
    from stream_ctr.predictors.snapshot import path_of, read_current, versions

    inner = snapshots_folder(folder)
    found = [] if inner is None else versions(inner)
    if inner is not None and not found:
        raise StateError(f"no snapshot in {inner} yet; the trainer publishes the first one")
    places = [folder] if inner is None else [path_of(inner, version) for version in found]
    rows = []
    for place in places:
        row: dict[str, Any] = {"folder": str(place), "whole": True}
        try:
            loaded = open_fixed(place) if inner is None else load_snapshot(place)
            Predictor(loaded)
            row["model_version"] = loaded.manifest.model_version
        except StateError as error:
            row.update(whole=False, reason=str(error))
        rows.append(row)
    current = None if inner is None else read_current(inner)
    if inner is not None and (current is None or current[0] not in found):
        reason = "missing or damaged" if current is None else f"names {current[0]}, which does not exist"
        rows.append({"folder": str(inner / "CURRENT"), "whole": False, "reason": reason})
    return {"versions": rows}


def _print(report: dict[str, Any]) -> None:
    for name, value in report.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            for row in value:
                state = "whole  " if row["whole"] else "damaged"
                print(f"{state}  {row['folder']}  {row.get('reason') or row.get('model_version', '')}")
        elif isinstance(value, dict):
            print(f"{name}:")
            for key, inner in value.items():
                print(f"  {key}: {inner}")
        elif isinstance(value, list):
            print(f"{name}: {', '.join(map(str, value))}")
        else:
            print(f"{name}: {value}")
