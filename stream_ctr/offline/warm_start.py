"""Warm start: the checkpoint of a batch run, from which a trainer starts its stream.

The checkpoint has the format and parts of a trainer's: vocabulary and counts (``pipeline``), weights and
optimizer state (``learner``). It holds no log positions; the trainer chooses where the stream begins.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np

from stream_ctr.config.experiment import Arm
from stream_ctr.config.features import FieldConfig
from stream_ctr.config.optimizer import OptimizerConfig
from stream_ctr.config.settings import Settings
from stream_ctr.daemon.checkpoint import CheckpointStore
from stream_ctr.daemon.identity import describe_differences, identity
from stream_ctr.errors import StateError
from stream_ctr.optim.moments import narrowed, widened
from stream_ctr.state.durable_files import Files
from stream_ctr.state.state import State

KEPT: Final = 1_000_000
"""Effectively unlimited: only the user removes checkpoints of batch runs."""
SHARED: Final = ("model", "features", "optimizer", "learner")
"""Parts of the trainer's identity that must be equal in the saving and the starting run."""
SUMS: Final = ("adagrad",)
"""Rules that sum squared gradients; all other rules average them."""


@dataclass(frozen=True, slots=True)
class WarmStart:
    """The source of a new trainer's weights, and its start in the log."""

    folder: Path
    """A checkpoint folder: of ``evaluate --protocol batch --checkpoint``, or of another trainer."""
    at: Literal["first", "last"]
    """first: the oldest entry in the log; last: the end of the log, so only new entries are learned."""


def save_warm_start(
    folder: Path,
    settings: Settings,
    arm: Arm,
    fields: tuple[FieldConfig, ...],
    parts: Mapping[str, State],
) -> Path:
    """Write the next version into ``folder``; ``parts`` are ``keys``, ``tables`` and ``learner``.

    Raises:
        OSError: a file cannot be written.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    store = CheckpointStore(folder, KEPT, Files())
    whole = identity(settings, replace(arm, model=replace(arm.model, dropout=0.0)), fields)
    manifest = store.save(
        {
            "pipeline": State.gather({name: parts[name] for name in ("keys", "tables")}),
            "learner": parts["learner"],
        },
        created_ms=time.time_ns() // 1_000_000,
        software=f"stream-ctr {version('stream-ctr')}",
        identity={name: whole[name] for name in SHARED},
        log={},
        positions=[],
        emitted=0,
    )
    return store.path(manifest.version)


def load_warm_start(warm: WarmStart, own: dict[str, Any]) -> dict[str, State]:
    """States (keys, tables, learner) of the newest complete checkpoint, for a run with identity ``own``.

    Raises:
        StateError: there is no checkpoint, or its model, schema, optimizer or seed differs.
    """
    inner = warm.folder / "checkpoints"
    store = CheckpointStore(inner if inner.is_dir() else warm.folder, KEPT)
    loaded = store.load()
    if loaded is None:
        raise StateError(
            f"no checkpoint in {store.folder} to start from; write one with stream-ctr evaluate DATASET PATH "
            "--protocol batch --checkpoint FOLDER"
        )
    saved = loaded.manifest.identity
    shared = {name: saved.get(name) for name in SHARED}, {name: own[name] for name in SHARED}
    found = describe_differences(*shared)
    if found:
        fault, settings_named = found
        folder = store.path(loaded.manifest.version)
        raise StateError(f"cannot start from {folder}: it {fault}. Set {settings_named} as in the checkpoint")
    pipeline = loaded.parts["pipeline"]
    return {
        "keys": pipeline.part("keys"),
        "tables": pipeline.part("tables"),
        "learner": loaded.parts["learner"],
    }


def per_event(state: State, optimizer: OptimizerConfig, batch_size: int) -> State:
    """Rescale a learner's state from steps of ``batch_size`` events to single events; weights are unchanged.

    A batch step sees the mean gradient G of B events, a stream the gradient g of one. Unscaled accumulators
    would be up to B^2 too small for g, so the first events of a stream would move each weight as far as the
    first update of a fresh run. The scales hold for gradients whose scatter exceeds their mean:

    * A row occurs in few events of a batch, so its part of G is g / B: second moments are B^2 too small,
      first moments B.
    * A dense weight's G has 1 / B of the variance of g: running averages of G^2 are B too small and first
      moments are right. AdaGrad sums over N / B steps instead of N events, so its sums are B^2 too small.

    The accumulators of a separate first-order rule (FTRL) are left unchanged: its weights follow from them.
    """
    size = float(batch_size)
    row_start = optimizer.row_initial if optimizer.row_rule in SUMS else 0.0
    dense_start = optimizer.dense_initial if optimizer.dense_rule in SUMS else 0.0
    dense_square = size**2 if optimizer.dense_rule in SUMS else size
    scales = {
        "rows.square": (row_start, size**2),
        "rows.mean": (0.0, size),
        "dense.square": (dense_start, dense_square),
    }
    arrays = dict(state.arrays)
    for name, (start, scale) in scales.items():
        if name in arrays:
            array, half = arrays[name], arrays[name].dtype == np.uint16
            old = (widened(array) if half else array).astype(np.float64)
            grown = start + (old - start) * scale
            arrays[name] = narrowed(grown) if half else grown.astype(array.dtype)
    return State(arrays, dict(state.values))
