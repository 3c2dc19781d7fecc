"""Profile of the compiled step: the learner's own parts in sequence, with a clock reading between them.

The time of a part is the median over events, so an event during which the process had to wait has little
effect. The clock costs about 30 nanoseconds per part. ``moving`` is the time to read and write the same state
without computation, in the same run.
"""

from __future__ import annotations

import ctypes
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from stream_ctr.batch import Batch
from stream_ctr.bench.machine import describe_machine, load_average, print_machine
from stream_ctr.bench.step.data import step_batches
from stream_ctr.bench.step.entries import DEFAULT, HELEN, HELEN_ADAM, model_name, network
from stream_ctr.bench.step.floor import Floor
from stream_ctr.bench.step.measure import CHUNK, WARM_UP_CHUNKS
from stream_ctr.config.model import ModelConfig
from stream_ctr.config.optimizer import OptimizerConfig
from stream_ctr.kernels.decorators import fast_part
from stream_ctr.kernels.denormals import denormals_flushed
from stream_ctr.learners.compiled.chunk_kernel import differentiate, gather, over_root, row_factors
from stream_ctr.learners.compiled.learner import CompiledLearner
from stream_ctr.learners.compiled.passes import forward
from stream_ctr.learners.compiled.revisit import gather_past, keep_rows, keep_steps, renew_rows, scale_pass
from stream_ctr.learners.compiled.rules import start_row, update_dense, update_rows
from stream_ctr.learners.compiled.workspace import Chunk, Workspace
from stream_ctr.optim.moments import DENSE, SECOND_TURN

PARTS: Final = (
    "start new rows",
    "gather rows",
    "forward",
    "backward, norms",
    "perturbation, moved rows",
    "second forward",
    "second backward",
    "update dense",
    "update rows",
    "keep for the second turn",
    "second turn: update dense",
)
OUTSIDE: Final = "values of new rows"
"""Cost of a chunk before its first event; mostly the initial values of new rows."""
START, GATHER, FORWARD, BACKWARD, MOVE, FORWARD_2, BACKWARD_2, UPDATE, ROWS, KEEP, UPDATE_2 = range(
    len(PARTS)
)
FLOOR_EVENTS: Final = 8
"""Events per call of the floor: few, so that a wait has little effect, but enough to amortise the call."""
OPTIMIZERS: Final[dict[str, OptimizerConfig]] = {
    "helen": HELEN,
    "revisit": DEFAULT,
    "base": replace(HELEN, method="base"),
    "helen-adam": HELEN_ADAM,
}

_clock = ctypes.CDLL(None).clock_gettime
_clock.argtypes, _clock.restype = (ctypes.c_int, ctypes.c_void_p), ctypes.c_int


@dataclass
class Profile:
    """Timings of one model and optimizer, in seconds per event."""

    model: str
    optimizer: str
    data: str
    parts: dict[str, list[float]] = field(default_factory=dict)
    """By part: for each chunk the median over its events."""
    moving: list[float] = field(default_factory=list)
    """For each chunk the time to move the state alone."""


@fast_part
def _lap(spent: NDArray[np.float64], part: int, last: float, stamp: NDArray[np.int64]) -> float:
    """Add the time since ``last`` to a part; returns the current time in seconds."""
    _clock(1, stamp.ctypes)
    now = float(stamp[0]) + 1e-9 * float(stamp[1])
    spent[part] += now - last
    return now


@fast_part
def _profiled(ws: Workspace, chunk: Chunk, learned: int, spent: NDArray[np.float64]) -> int:
    """The step of ``learn_chunk`` for finite events to learn and full radii; writes ``spent`` [B, parts]."""
    method, kind, w, width = ws.method, ws.dense.weight.dtype.type, ws.dense.weight, ws.scratch.row.size
    table, zero, stamp = ws.table, kind(0.0), np.zeros(2, np.int64)
    ignored = np.zeros(1)
    for b in range(chunk.rows.shape[0]):
        rows, label, weight, of = chunk.rows[b], chunk.label[b], chunk.weight[b], spent[b]
        last = _lap(ignored, 0, 0.0, stamp)
        for k in range(chunk.first[b], chunk.first[b + 1]):
            start_row(table, chunk.changed[k], chunk.values[k], ws.row_rule, learned)
        last, run = _lap(of, START, last, stamp), ws.first
        gather(rows, ws.shape, table.weight, ws.scratch, run.g, False, run.x)
        last = _lap(of, GATHER, last, stamp)
        p = kind(1.0 / (1.0 + math.exp(-float(forward(w, ws.shape, run, zero, run)))))
        last = _lap(of, FORWARD, last, stamp)
        of_dense, of_rows = differentiate(ws, run, zero, p, label, weight)
        last = _lap(of, BACKWARD, last, stamp)
        if method.rho_rows > 0.0 or method.rho_dense > 0.0:
            c = kind(over_root(method.rho_dense, of_dense, method))
            moved, run = row_factors(ws, 1.0, rows, chunk.ratio[b], of_dense + of_rows), ws.second
            gather(rows, ws.shape, table.weight, ws.scratch, ws.first.g, moved, run.x)
            last = _lap(of, MOVE, last, stamp)
            p = kind(1.0 / (1.0 + math.exp(-float(forward(w, ws.shape, run, c, ws.first)))))
            last = _lap(of, FORWARD_2, last, stamp)
            differentiate(ws, run, c, p, label, weight)
            last = _lap(of, BACKWARD_2, last, stamp)
        at = learned % max(method.revisit_after, 1)
        learned += 1
        if method.revisit_after > 0:
            ws.past.label[at], ws.past.weight[at] = label, weight
            keep_rows(table, ws.past, at, rows, width)
            last = _lap(of, KEEP, last, stamp)
        update_dense(ws.dense, ws.shape, run, ws.dense_rule, learned, ws.scratch, method.largest, DENSE)
        last = _lap(of, UPDATE, last, stamp)
        update_rows(table, ws.shape, run, rows, ws.row_rule, method, learned, ws.scratch)
        last = _lap(of, ROWS, last, stamp)
        if method.revisit_after > 0:
            keep_steps(table, ws.past, at, width)
            last = _lap(of, KEEP, last, stamp)
            _second_turn(ws, learned, of, last, stamp)
    return learned


@fast_part
def _second_turn(
    ws: Workspace, now: int, of: NDArray[np.float64], last: float, stamp: NDArray[np.int64]
) -> None:
    method, past, run, w = ws.method, ws.past, ws.first, ws.dense.weight
    zero, number = w.dtype.type(0.0), now - method.revisit_after
    if number < 0:
        return
    at = number % method.revisit_after
    gather_past(ws.table, past, at, number, ws.shape, ws.scratch, run.x)
    last = _lap(of, MOVE, last, stamp)
    p = w.dtype.type(1.0 / (1.0 + math.exp(-float(forward(w, ws.shape, run, zero, run)))))
    last = _lap(of, FORWARD_2, last, stamp)
    differentiate(ws, run, zero, p, past.label[at], past.weight[at])
    last = _lap(of, BACKWARD_2, last, stamp)
    renew_rows(ws.table, past, at, ws.shape, run, ws.row_rule, method.revisit_rows)
    last = _lap(of, ROWS, last, stamp)
    if method.revisit_dense > 0.0:
        scale_pass(run, method.revisit_dense)
        update_dense(ws.dense, ws.shape, run, ws.dense_rule, now, ws.scratch, method.largest, SECOND_TURN)
        _lap(of, UPDATE_2, last, stamp)


def learn_timed(learner: CompiledLearner, batch: Batch) -> NDArray[np.float64]:
    """Learn all events of ``batch``; returns seconds [B, parts + 1], the last column for the time outside."""
    began = time.perf_counter()
    workspace, chunk = learner.prepare(batch)
    outside = time.perf_counter() - began
    spent = np.zeros((len(batch), len(PARTS)))
    with denormals_flushed():
        learner.learned = _profiled(workspace, chunk, learner.learned, spent)
    return np.column_stack([spent, np.full(len(batch), outside / len(batch))])


def _moved(floor: Floor, batch: Batch) -> float:
    """Seconds per event to move the state alone: the median over groups of a few events."""
    pieces = []
    for start in range(0, len(batch), FLOOR_EVENTS):
        began = time.perf_counter()
        floor.move(batch.rows[start : start + FLOOR_EVENTS])
        pieces.append((time.perf_counter() - began) / FLOOR_EVENTS)
    return float(np.median(pieces))


def profile(data: str | None, events: int, models: Sequence[ModelConfig]) -> list[Profile]:
    """Profiles of all optimizers on each model.

    Raises:
        DataError: the file cannot be read or is not a Criteo file.
    """
    batches, description = step_batches(data, events, CHUNK)
    highest = 1 + max(int(batch.rows.max()) for batch in batches)
    found = []
    for model in models:
        runs = []
        for name, optimizer in OPTIMIZERS.items():
            learner = network(CompiledLearner, model, optimizer)
            assert isinstance(learner, CompiledLearner)
            passes, updates = (1 if name == "base" else 2), (2 if name == "revisit" else 1)
            floor = Floor(model, optimizer, highest, passes, updates)
            runs.append((Profile(model_name(model), name, description), learner, floor, optimizer))
        for number, batch in enumerate(batches):
            for measured, learner, floor, optimizer in runs:
                after = optimizer.revisit_after if optimizer.method == "revisit" else 0
                timed = number >= WARM_UP_CHUNKS and number * CHUNK >= after
                spent = learn_timed(learner, batch)
                moved = _moved(floor, batch)
                if timed:
                    each = np.median(spent, axis=0)
                    each[START] = spent[:, START].mean()  # most events create few rows, some many
                    for part, seconds in zip((*PARTS, OUTSIDE), each.tolist(), strict=True):
                        measured.parts.setdefault(part, []).append(seconds)
                    measured.moving.append(moved)
        found += [measured for measured, *_ in runs]
    return found


def as_json(profiles: Sequence[Profile]) -> list[dict[str, Any]]:
    """One row per model and optimizer: microseconds by part, medians over chunks."""
    rows = []
    for each in profiles:
        parts = {name: round(1e6 * float(np.median(s)), 2) for name, s in each.parts.items() if np.any(s)}
        rows.append(
            {
                "model": each.model,
                "optimizer": each.optimizer,
                "data": each.data,
                "chunks": len(each.moving),
                "microseconds": parts,
                "sum": round(sum(parts.values()), 2),
                "moving": round(1e6 * float(np.median(each.moving)), 2) if each.moving else None,
                "machine": {**describe_machine(), "load": load_average()},
            }
        )
    return rows


def print_profile(profiles: Sequence[Profile]) -> None:
    """Print the results as a table with one column per model and optimizer."""
    from rich.table import Table

    from stream_ctr.reporting.console import new_console

    rows = as_json(profiles)
    table = Table(title=f"the compiled step, us per event: {profiles[0].data}")
    table.add_column("part")
    for row in rows:
        table.add_column(f"{row['model']} {row['optimizer']}", justify="right")
    for part in (*PARTS, OUTSIDE):
        if any(part in row["microseconds"] for row in rows):
            table.add_row(part, *(f"{row['microseconds'].get(part, 0.0):.1f}" for row in rows))
    table.add_section()
    table.add_row("sum", *(f"{row['sum']:.1f}" for row in rows))
    table.add_row(
        "moving the state alone", *("" if r["moving"] is None else f"{r['moving']:.1f}" for r in rows)
    )
    console = new_console(150)
    console.print(table)
    print_machine(console)
