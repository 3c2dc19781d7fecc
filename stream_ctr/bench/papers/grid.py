"""The grid of ``bench papers``: one file per cell; finished cells are never run again.

A cell's file holds its whole setting (data, model, optimizer, protocol, seed) and the setting's digest, which
is also part of the file name. A killed run resumes with the missing cells. A different setting gives a
different file, and a renamed file is detected by its content.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from stream_ctr.config.learner import LearnerConfig
from stream_ctr.config.model import ModelConfig
from stream_ctr.config.optimizer import OptimizerConfig
from stream_ctr.errors import ModelError
from stream_ctr.learners.build import build_batch_learner
from stream_ctr.offline.fit import Progress
from stream_ctr.offline.presets import batch_preset, with_settings
from stream_ctr.offline.protocol import BatchProtocol
from stream_ctr.offline.report import row
from stream_ctr.offline.run import Prepared, run
from stream_ctr.state.durable_files import Files

FORMAT: Final = 1
WRITING: Final = ".writing-"
META_TANH: Final = "meta_tanh"
"""The form of skip logits that the paper calls SML."""


@dataclass(frozen=True, slots=True, order=True)
class Cell:
    """One combination of backbone, skip logits, optimizer and seed."""

    backbone: str
    skip: str
    """Form of the skip logits; empty: none."""
    optimizer: str
    seed: int

    @property
    def name(self) -> str:
        """Name in reports.

        >>> Cell("dnn", "meta_tanh", "adam", 1).name
        'dnn+sml adam seed 1'
        """
        skip = f"+{'sml' if self.skip == META_TANH else self.skip}" if self.skip else ""
        return f"{self.backbone}{skip} {self.optimizer} seed {self.seed}"


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that all cells share."""

    prepared: Prepared
    protocol: BatchProtocol
    model: ModelConfig
    """Widths and other settings; backbone and skip logits are the cell's."""
    learner: LearnerConfig
    settings: Mapping[str, str]
    """Optimizer settings that replace those of the presets."""
    dense_rows: bool

    def model_of(self, cell: Cell) -> ModelConfig:
        """The network of a cell."""
        changes: dict[str, Any] = {"backbone": cell.backbone, "sml": bool(cell.skip)}
        if cell.skip:
            changes["skip"] = cell.skip
        return replace(self.model, **changes)

    def optimizer_of(self, cell: Cell) -> OptimizerConfig:
        """The optimizer of a cell."""
        optimizer = with_settings(batch_preset(cell.optimizer), self.settings)
        return replace(optimizer, rows="dense") if self.dense_rows else optimizer

    def setting(self, cell: Cell) -> dict[str, Any]:
        """All inputs of a cell's results, as JSON values."""
        features = asdict(self.prepared.features)
        found: dict[str, Any] = {
            "format": FORMAT,
            "software": version("stream-ctr"),
            "data": self.prepared.feed.encoded.digest,
            "features": {name: features[name] for name in ("counts", "half_life_seconds", "minimum_count")},
            "protocol": asdict(replace(self.protocol, seed=cell.seed)),
            "model": asdict(self.model_of(cell)),
            "optimizer": asdict(self.optimizer_of(cell)),
            "learner": {"seed": cell.seed, "device": self.learner.device, "threads": self.learner.threads},
        }
        plain: dict[str, Any] = json.loads(json.dumps(found))
        return plain

    def check(self, cells: Iterable[Cell]) -> None:
        """Check that every cell can be built, before any cell runs.

        Raises:
            ModelError, UsageError: the settings of a cell are invalid.
        """
        encoded = self.prepared.feed.encoded
        slots, fields = encoded.slot_field.tolist(), len(encoded.fields)
        for cell in sorted({replace(cell, seed=0) for cell in cells}):
            build_batch_learner(self.model_of(cell), self.optimizer_of(cell), self.learner, slots, fields)


@dataclass(frozen=True, slots=True)
class GridProgress:
    """Progress of the grid."""

    cell: Cell
    done: int
    of: int
    seconds_left: float
    """Estimate from the mean time of the finished cells; NaN before the first."""
    fit: Progress


Results = dict[Cell, dict[str, Any]]
"""By cell: the result of :func:`stream_ctr.offline.report.row`, or ``{"failed": reason}``."""


def run_grid(
    plan: Plan,
    cells: Iterable[Cell],
    folder: Path,
    *,
    progress: Callable[[GridProgress], None] = lambda at: None,
    say: Callable[..., None] = lambda event, **values: None,
    files: Files | None = None,
) -> Results:
    """Run the cells without a file in ``folder``; returns the results of all cells.

    A diverging cell is a result too: its file holds the reason.

    Raises:
        OSError: a file cannot be written; finished cells are kept.
    """
    files = files or Files()
    folder.mkdir(parents=True, exist_ok=True)
    wanted = list(dict.fromkeys(cells))
    results: Results = {}
    for cell in wanted:
        found = load_cell(folder, cell, plan.setting(cell))
        if found is not None:
            results[cell] = found
    say("grid", cells=len(wanted), finished_before=len(results), folder=str(folder))
    for cell in wanted:
        if cell in results:
            continue
        place = (len(results), len(wanted), _seconds_left(results, len(wanted)))
        result = _run_cell(plan, cell, partial(_tell, progress, cell, place))
        save_cell(folder, cell, plan.setting(cell), result, files)
        results[cell] = result
        test = result.get("test") or result.get("validation") or {}
        say("cell", name=cell.name, auc=test.get("auc"), failed=result.get("failed"), done=len(results))
    return {cell: results[cell] for cell in wanted}


def _tell(
    progress: Callable[[GridProgress], None], cell: Cell, place: tuple[int, int, float], fit: Progress
) -> None:
    progress(GridProgress(cell, *place, fit))


def _run_cell(plan: Plan, cell: Cell, progress: Callable[[Progress], None]) -> dict[str, Any]:
    began = time.monotonic()
    try:
        fit = run(
            plan.prepared,
            replace(plan.protocol, seed=cell.seed),
            plan.model_of(cell),
            plan.optimizer_of(cell),
            replace(plan.learner, seed=cell.seed),
            progress,
        )
    except ModelError as error:  # the settings have been checked, so the model diverged
        return {"failed": str(error), "seconds": round(time.monotonic() - began, 2)}
    return row(cell.name, fit)


def _seconds_left(results: Results, cells: int) -> float:
    if not results:
        return float("nan")
    seconds = [float(result["seconds"]) for result in results.values()]
    return sum(seconds) / len(seconds) * (cells - len(results))


def digest_of(setting: dict[str, Any]) -> str:
    """BLAKE2b of a setting."""
    return hashlib.blake2b(json.dumps(setting, sort_keys=True).encode(), digest_size=16).hexdigest()


def cell_path(folder: Path, cell: Cell, setting: dict[str, Any]) -> Path:
    """File of a cell under that setting."""
    return folder / f"{cell.name.replace(' ', '-')}-{digest_of(setting)[:12]}.json"


def load_cell(folder: Path, cell: Cell, setting: dict[str, Any]) -> dict[str, Any] | None:
    """The result of a finished cell; None if its file is missing, damaged or of another setting."""
    try:
        content = json.loads(cell_path(folder, cell, setting).read_text("utf-8"))
        result: dict[str, Any] = content["result"]
        fits = content["digest"] == digest_of(setting) and content["setting"] == setting
        return result if fits and isinstance(result["seconds"], int | float) else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def save_cell(
    folder: Path, cell: Cell, setting: dict[str, Any], result: dict[str, Any], files: Files
) -> None:
    """Write the cell's file atomically: to a temporary name, synced, then renamed."""
    path = cell_path(folder, cell, setting)
    content = {"cell": asdict(cell), "digest": digest_of(setting), "setting": setting, "result": result}
    beside = path.with_name(f"{WRITING}{path.name}")
    files.write(beside, json.dumps(content, indent=1).encode())
    files.sync_file(beside)
    files.rename(beside, path)
    files.sync_folder(folder)
