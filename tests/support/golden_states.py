"""Golden states: which there are, where they are stored, and how two states are compared.

A golden state is what a command of this package wrote once. It is stored in ``tests/golden/data``, one xz
archive each, and later versions of the code must load it: see :mod:`tests.golden.test_golden_states`.

    log.tar.xz       half.db, full.db       the SQLite log when the states were saved, and at its end
                     requests.json          features of 20 requests
    {state}.tar.xz   config.toml            configuration of the job; all its paths are relative
                     state/                 state folder when the job was stopped at half of the log
                     snapshot/              trainers: the snapshot of that moment
                     end/                   the checkpoint after the rest of the log was read
                     expected.json          predictions of the snapshot, final figures, final report

Three names of the package are imported, all here: the command line's ``main``, and what opens a snapshot and
predicts from it as the server does. Everything else is read with safetensors, JSON and SQLite.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import shutil
import sqlite3
import struct
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

from stream_ctr.cli import main as stream_ctr
from stream_ctr.predictors.predictor import Predictor
from stream_ctr.predictors.reader import open_fixed

DATA: Final = Path(__file__).parents[1] / "golden" / "data"
EXACT: Final = "STREAM_CTR_TEST_GOLDEN_EXACT"
"""Environment variable: 1 compares every result bit for bit, as is right on the machine that wrote them."""

ADWIN: Final = "metrics.drift.adwin"
"""The array that is a record of river's drift detector, as bytes."""

COMMON: Final = """\
[log]
url = "sqlite:///log.db"
partitions = 2
[order]
idle_seconds = 0.1
max_lead_seconds = 5.0
[join]
window_seconds = 20.0
grace_seconds = 5.0
horizon_seconds = 60.0
{join}
[features]
{features}
[[features.fields]]
name = "user"
[[features.fields]]
name = "interests"
kind = "multi"
max_values = 2
[[features.fields]]
name = "ad"
[[features.fields]]
name = "site"
[[features.fields]]
name = "price"
kind = "float"
buckets = 8
[[features.fields]]
name = "visits"
kind = "integer"
[train]
state = "state"
poll_seconds = 0.02
checkpoint_seconds = 1e9
checkpoints_kept = 1000
snapshot_seconds = 1e9
metrics_port = -1
metrics_window = 50
"""
"""What all configurations have in common."""
EXPERIMENT: Final = """\
[watch]
window_seconds = 15.0
planned_impressions = 1000
report_seconds = 1e6
port = -1
[experiment]
name = "golden"
salt = "golden-1"
coverage = 0.9
[[experiment.arms]]
name = "control"
weight = 0.5
[[experiment.arms]]
name = "new"
weight = 0.5
"""
HALF: Final = 1e-2
"""Tolerance for accumulators in bfloat16: 8 bits, the last one drawn by what is below."""
SMALL: Final = "[model]\nembedding = 4\nhidden = [8, 4]\n"


@dataclass(frozen=True)
class Golden:
    """One stored state, and the job that wrote it."""

    name: str
    tables: str = ""
    """TOML of the configuration beside ``COMMON``."""
    join: str = ""
    """Keys of [join] beside those of ``COMMON``."""
    features: str = ""
    """Keys of [features]."""
    command: tuple[str, ...] = ("train",)
    arm: str = "main"
    """Folder of the state inside the state folder."""
    tolerance: float = 1e-5
    """How far floats may lie apart at the end on a CPU with other instructions, relative."""

    @property
    def config(self) -> str:
        """The configuration file."""
        return COMMON.format(join=self.join, features=self.features) + self.tables

    @property
    def reads_labelled(self) -> bool:
        """Whether it reads the topic of the joining process."""
        return 'input = "labelled"' in self.join

    @property
    def archive(self) -> Path:
        """Where it is stored."""
        return DATA / f"{self.name}.tar.xz"


def _network(kind: str, optimizer: str, model: str = "") -> str:
    return f'{SMALL}{model}\n[learner]\nkind = "{kind}"\n[optimizer]\n{optimizer}\n'


def _river(name: str) -> str:
    return f'[learner]\nkind = "river"\nriver = "{name}"\n'


TRAINERS: Final = (
    # The default optimizer: AdaGrad and second turns, of which some were taken and some are open.
    Golden("compiled", _network("compiled", "revisit_after = 60")),
    Golden("torch", _network("torch", "revisit_after = 60")),
    # Two accumulators and a step count by row in 16 bits; admission by sketch; decayed counts with times.
    Golden(
        "compiled-helen",
        _network(
            "compiled",
            'method = "helen"\nrow_rule = "adam"\nrow_rate = 1e-2\ndense_rule = "adam"\n'
            'dense_rate = 1e-3\nmoments = "bfloat16"',
            'scale = "scalar"',
        ),
        features='minimum_count = 2\ncounts = "decayed"\nhalf_life_seconds = 60.0',
        tolerance=HALF,
    ),
    # No accumulators; times of the last touch (lazy L2); early negatives; the joiner's files (segments).
    Golden(
        "compiled-base",
        _network(
            "compiled",
            'method = "base"\nrow_rule = "sgd"\nrow_rate = 0.2\ndense_rule = "sgd"\ndense_rate = 0.05\n'
            "l2 = 1e-4",
            "sml = false\nembedding_scale = 0.3",
        ),
        join='policy = "fnw"\nkeep_negatives = 0.7\nmemory_bytes = 16384',
    ),
    # First-order weights under FTRL.
    Golden(
        "torch-first-order",
        _network("torch", 'method = "helen"\nfirst_order_rule = "ftrl"', 'backbone = "deepfm"'),
        join='policy = "fast"',
    ),
    Golden(
        "torch-asam",
        _network(
            "torch",
            'method = "asam"\nrho = 0.01\nrow_rule = "radam"\nrow_rate = 1e-2\ndense_rule = "nadam"\n'
            'dense_rate = 1e-3\nmoments = "bfloat16"',
            'backbone = "dcnv2"\ncross_layers = 1',
        ),
        join='release = "click"',
        tolerance=HALF,
    ),
    Golden("river-ftrl", _river("river-ftrl")),
    Golden("river-lr", _river("river-lr")),
    Golden("river-fm", _river("river-fm")),
    # A trainer that reads the topic of the joining process.
    Golden("labelled", _network("compiled", 'method = "base"'), join='input = "labelled"'),
)
JOIN: Final = Golden("join", command=("join",), arm="join")
WATCH: Final = Golden("watch", EXPERIMENT, command=("experiment", "watch"), arm="experiment")
ALL: Final = (JOIN, WATCH, *TRAINERS)


@dataclass(frozen=True)
class Checkpoint:
    """A folder of a checkpoint, read without the package's own code."""

    manifest: dict[str, Any]
    arrays: dict[str, NDArray[Any]]
    """By part and name, as in ``learner.rows.weight``."""
    values: dict[str, Any]
    """JSON values by part."""


def read_checkpoint(folder: Path) -> Checkpoint:
    """Manifest, arrays and values of one version."""
    arrays = {
        f"{path.stem}.{name}": array
        for path in sorted(folder.glob("*.safetensors"))
        for name, array in load_file(path).items()
    }
    values = {path.stem: json.loads(path.read_bytes()) for path in sorted(folder.glob("*.json"))}
    return Checkpoint(values.pop("manifest"), arrays, values)


def as_later_versions_keep_it(golden: Golden, stored: Checkpoint) -> Checkpoint:
    """A state of version 0.1.0 without the parts that nothing was read from.

    The joining process and the watcher kept the tables of a field that had no name in any record, and a
    trainer on a labelled topic a joiner that held nothing; of that joiner only the time of the order was
    used.
    """
    dropped: tuple[str, ...]
    if golden in (JOIN, WATCH):
        dropped = ("join.keys.", "join.tables.")
        kept = {name: part for name, part in stored.values["join"].items() if name not in ("keys", "tables")}
        values = {**stored.values, "join": kept}
    elif golden.reads_labelled:
        dropped = ("pipeline.join.",)
        pipeline = dict(stored.values["pipeline"])
        watermark_ms = pipeline.pop("join")["watermark_ms"]
        values = {
            **stored.values,
            "pipeline": {**pipeline, "labelled": {**pipeline["labelled"], "watermark_ms": watermark_ms}},
        }
    else:
        return stored
    arrays = {name: array for name, array in stored.arrays.items() if not name.startswith(dropped)}
    return Checkpoint(stored.manifest, arrays, values)


UNUSED_COUNTERS = ("features_ignored", "values_truncated")
"""Counters of the unused field, always 0, among the outcomes of the joining process and the watcher."""


def without_unused_counters(outcomes: dict[str, Any]) -> dict[str, Any]:
    """Stored outcomes as later versions report them."""
    assert not any(outcomes[name] for name in UNUSED_COUNTERS)
    return {name: count for name, count in outcomes.items() if name not in UNUSED_COUNTERS}


def versions(folder: Path) -> list[Path]:
    """Versions of checkpoints or snapshots in a folder, oldest first."""
    return sorted(path for path in folder.iterdir() if path.name.isdigit())


def same_bits(name: str, found: NDArray[Any], stored: NDArray[Any]) -> Iterator[str]:
    """In words, how two arrays differ."""
    if (found.dtype, found.shape) != (stored.dtype, stored.shape):
        yield f"{name}: {found.dtype} {found.shape}, stored {stored.dtype} {stored.shape}"
    elif found.tobytes() != stored.tobytes():
        ours, theirs = found.reshape(-1), stored.reshape(-1)
        at = np.flatnonzero(ours != theirs)[:1]
        yield f"{name}: bits differ, first at {at}: {ours[at]}, stored {theirs[at]}"


def close_array(name: str, found: NDArray[Any], stored: NDArray[Any], tolerance: float) -> Iterator[str]:
    """The same for arrays calculated on machines with other instructions: floats within ``tolerance``."""
    shaped = (found.dtype, found.shape) == (stored.dtype, stored.shape)
    if shaped and name == ADWIN:
        yield from close_values(name, _adwin_numbers(found), _adwin_numbers(stored), tolerance)
        return
    if shaped and found.dtype == np.uint16:  # bfloat16, the upper half of a float32
        found, stored = ((each.astype(np.uint32) << 16).view(np.float32) for each in (found, stored))
    if not shaped or found.dtype.kind != "f":
        yield from same_bits(name, found, stored)
    elif not np.allclose(found, stored, tolerance, tolerance * _scale(stored), equal_nan=True):
        worst = np.nanmax(np.abs(found - stored))
        yield f"{name}: differs by up to {worst:g} in numbers up to {_scale(stored):g}"


def _adwin_numbers(record: NDArray[Any]) -> list[float]:
    """The integers and doubles of river's record of an ADWIN: header, rows of buckets, parameters."""
    data = record.tobytes()
    header = struct.unpack_from("<dIQdd4d4IQ", data)
    numbers, place, slots = [*header], struct.calcsize("<dIQdd4d4IQ"), header[2] + 1
    for _ in range(header[-1]):
        row = f"<3Q{slots}dQ{slots}d"
        numbers += struct.unpack_from(row, data, place)
        place += struct.calcsize(row)
    return [*numbers, *struct.unpack_from("<dIQII", data, place)]


def _scale(stored: NDArray[Any]) -> float:
    """Size of an array's numbers: sums of opposite signs are as exact as their terms, not as themselves."""
    finite = np.abs(stored[np.isfinite(stored)])
    return float(finite.max(initial=0.0))


def close_values(name: str, found: Any, stored: Any, tolerance: float) -> Iterator[str]:
    """In words, how two JSON values differ; floats may by ``tolerance``, relative."""
    if isinstance(found, dict) and isinstance(stored, dict) and found.keys() == stored.keys():
        for key, value in stored.items():
            yield from close_values(f"{name}.{key}", found[key], value, tolerance)
    elif isinstance(found, list) and isinstance(stored, list) and len(found) == len(stored):
        for index, value in enumerate(stored):
            yield from close_values(f"{name}[{index}]", found[index], value, tolerance)
    elif tolerance and isinstance(found, float) and isinstance(stored, float) and math.isfinite(stored):
        if not math.isclose(found, stored, rel_tol=tolerance, abs_tol=tolerance):
            yield f"{name} = {found!r}, stored {stored!r}"
    elif type(found) is not type(stored) or repr(found) != repr(stored):
        yield f"{name} = {found!r}, stored {stored!r}"


def differences(found: Checkpoint, stored: Checkpoint, tolerance: float = 0.0) -> list[str]:
    """In words, how the states of two checkpoints differ; without ``tolerance`` bit for bit."""
    if found.arrays.keys() != stored.arrays.keys():
        return [f"arrays {sorted(found.arrays.keys() ^ stored.arrays.keys())} are in one of the two only"]
    said = list(close_values("values", found.values, stored.values, tolerance))
    for name, array in stored.arrays.items():
        if tolerance:
            said += close_array(name, found.arrays[name], array, tolerance)
        else:
            said += same_bits(name, found.arrays[name], array)
    return said


def tolerance(usual: float) -> float:
    """``usual``, or 0 where results are to be compared bit for bit."""
    return 0.0 if os.environ.get(EXACT) == "1" else usual


def run(*words: str) -> str:
    """Run a command of ``stream-ctr`` in this process; what it prints."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        status = stream_ctr(words)
    assert status == 0, f"stream-ctr {' '.join(words)} ended with {status}:\n{printed.getvalue()}"
    return printed.getvalue()


def resume(golden: Golden, state: Path, log: Path, folder: Path) -> str:
    """Copy a stored state and a log into a working folder, and run the job there until the log's end; what
    the job prints."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.toml").write_text(golden.config, "utf-8")
    shutil.copy(log, folder / "log.db")
    shutil.copytree(state, folder / "state")
    with contextlib.chdir(folder):
        return run(*golden.command, "--config", "config.toml", "--until-idle", "0", "--json")


def snapshot_arrays(snapshot: Path) -> dict[str, NDArray[Any]]:
    """Arrays of a snapshot as the server loads them."""
    return open_fixed(snapshot).arrays


def predictions(snapshot: Path, requests: Sequence[dict[str, Any]]) -> list[float]:
    """What the server would answer to requests from a snapshot."""
    predictor = Predictor(open_fixed(snapshot))
    return [float(p) for p in predictor.probabilities(predictor.encode(requests))]


def labelled_topic(log: Path) -> list[list[Any]]:
    """Partition, offset, time, key and value of each record of the labelled topic."""
    with closing(sqlite3.connect(log)) as connection:
        rows = connection.execute(
            "SELECT partition, entries.id & ((1 << 40) - 1), timestamp_ms, key, value FROM topics "
            "JOIN partitions ON topics.id = partitions.topic "
            "JOIN entries ON entries.id >> 40 = partitions.id "
            "WHERE name = 'labelled' ORDER BY entries.id"
        ).fetchall()
    return [[*place, key.decode(), value.decode()] for *place, key, value in rows]


def report_of(folder: Path) -> dict[str, Any]:
    """The watcher's report without what its wall clock decides."""
    report: dict[str, Any] = json.loads((folder / "state" / "experiment" / "report.json").read_bytes())
    del report["generated_ms"], report["progress"]["behind_seconds"]
    return report


def without_sentences(value: Any) -> Any:
    """A report without its sentences, which may be reworded: a text with a space in it becomes ``...``."""
    if isinstance(value, dict):
        return {name: without_sentences(item) for name, item in value.items()}
    if isinstance(value, list):
        return [without_sentences(item) for item in value]
    return "..." if isinstance(value, str) and " " in value else value


def sums_of(folder: Path) -> dict[str, Any]:
    """Impressions, clicks and predicted clicks of each arm, as the watcher hands them to servers."""
    sums: dict[str, Any] = json.loads((folder / "state" / "experiment" / "sums.json").read_bytes())
    del sums["updated_ms"]
    return sums


def figures_of(printed: str) -> dict[str, Any]:
    """What ``train --json`` and ``join --json`` print, without measurements of this run."""
    figures: dict[str, Any] = json.loads(printed)
    for name in ("seconds", "checkpoint", "peak_bytes"):
        figures.pop(name, None)
    return figures


def unpack(archive: Path, folder: Path) -> None:
    """Unpack one of the archives."""
    with tarfile.open(archive, "r:xz") as packed:
        packed.extractall(folder, filter="data")
