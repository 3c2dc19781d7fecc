"""One vocabulary size in a separate process, so that its memory can be measured.

``python -m stream_ctr.bench.scale.child ROWS [OPTIMIZER]`` fills a vocabulary with ROWS rows. It then answers
each line of its input with a line of JSON: ``measure`` times a few chunks, ``checkpoint FOLDER`` writes a
checkpoint.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from stream_ctr.batch import LEARN, PREDICT, Batch
from stream_ctr.bench.machine import forget_peak, peak_bytes, resident_bytes
from stream_ctr.config.features import FeaturesConfig
from stream_ctr.config.learner import LearnerConfig
from stream_ctr.config.model import ModelConfig
from stream_ctr.config.optimizer import OptimizerConfig
from stream_ctr.daemon.checkpoint import CheckpointStore
from stream_ctr.features.rows.tables import FeatureTables
from stream_ctr.kernels.splitmix64 import GOLDEN, splitmix64
from stream_ctr.learners.compiled.learner import CompiledLearner
from stream_ctr.state.frozen import FrozenState

FIELDS: Final = 39
CHUNK: Final = 256
CHUNKS: Final = 4
"""Chunks per distribution that one ``measure`` times."""
DRAWS: Final = ("uniform", "zipf")
"""Distributions of the rows. uniform: all rows are equally likely, so almost none is cached (worst case).
zipf: the probability of a value is proportional to 1 / rank."""
OPTIMIZERS: Final = {
    "base": OptimizerConfig(),
    "helen": OptimizerConfig(method="helen", perturb="both", rho=0.001, rho_dense=0.001),
}


class Scale:
    """Feature tables and the flagship's learner with about ``rows`` rows."""

    def __init__(self, rows: int, optimizer: OptimizerConfig) -> None:
        self._values = max(1, rows // FIELDS - 1)
        self._rng = np.random.default_rng(1)
        slots = np.arange(FIELDS, dtype=np.int32)
        self._tables = FeatureTables(slots, FIELDS, FeaturesConfig())
        self._learner = CompiledLearner(
            ModelConfig(), optimizer, LearnerConfig(device="cpu"), slots.tolist(), FIELDS
        )
        self._learned = 0
        self._fill()

    @property
    def rows(self) -> int:
        """Rows in use, including the default rows of the fields."""
        return self._tables.rows_in_use

    def _fill(self) -> None:
        """Process every value once as in a stream: count it, assign a row, and predict."""
        for first in range(0, self._values, CHUNK):
            ranks = np.arange(first, min(first + CHUNK, self._values))
            self._step(np.repeat(ranks[:, None], FIELDS, 1), PREDICT)

    def measure(self) -> dict[str, list[list[float]]]:
        """Seconds per event to encode and to learn, for each chunk, by distribution."""
        found: dict[str, list[list[float]]] = {}
        for draw in DRAWS:
            self._step(self._draw(draw), PREDICT | LEARN)  # the other processes have evicted the caches
            found[draw] = [self._step(self._draw(draw), PREDICT | LEARN) for _ in range(CHUNKS)]
        return found

    def checkpoint(self, folder: Path) -> dict[str, Any]:
        """Write one checkpoint as the trainer does; reports memory before and the peak during it."""
        before, forgotten = resident_bytes(), forget_peak()
        began = time.perf_counter()
        parts = {"tables": self._tables.freeze(), "learner": self._learner.freeze()}
        with FrozenState.gather(parts):
            manifest = CheckpointStore(folder, kept=1).save(
                parts, created_ms=0, software="bench", identity={}, log={}, positions=[], emitted=0
            )
        return {
            "seconds": time.perf_counter() - began,
            "resident_bytes": before,
            "peak_bytes": peak_bytes() if forgotten else None,
            "file_bytes": sum(entry["bytes"] for entry in manifest.files.values()),
        }

    def _draw(self, draw: str) -> NDArray[np.int64]:
        u = self._rng.random((CHUNK, FIELDS))
        if draw == "uniform":
            return (u * self._values).astype(np.int64)
        return np.minimum((self._values + 1) ** u - 1, self._values - 1).astype(np.int64)

    def _step(self, ranks: NDArray[np.int64], action: int) -> list[float]:
        """Seconds per event for [encode, learn], for values [B, F] by rank."""
        count = len(ranks)
        keys = hashed(ranks * FIELDS + np.arange(FIELDS))
        actions = np.full(count, action, np.uint8)
        # Labels by parity: there is nothing to learn, but every event makes an update.
        labels = (ranks.sum(1) % 2).astype(np.float32)
        began = time.perf_counter()
        encoded = self._tables.encode(keys, actions, np.zeros(count, np.int64))
        encoded_at = time.perf_counter()
        unknown = np.full(count, np.nan, np.float32)
        batch = Batch(
            rows=encoded.rows,
            ratio=encoded.ratio,
            label=labels,
            weight=np.ones(count, np.float32),
            action=actions,
            served=unknown,
            time_ms=np.zeros(count, np.int64),
            impression=np.arange(count),
            truth=unknown,
            changes=encoded.changes,
        )
        ready = time.perf_counter()
        self._learner.learn(batch)
        done = time.perf_counter()
        return [(encoded_at - began) / count, (done - ready) / count]


def hashed(numbers: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Keys that are spread over all 64 bits and different for different numbers."""
    return splitmix64(numbers.astype(np.uint64) * GOLDEN)


def answers(scale: Scale, lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    """One answer per line."""
    for line in lines:
        what, _, argument = line.strip().partition(" ")
        if what == "measure":
            yield scale.measure()
        elif what == "checkpoint":
            yield scale.checkpoint(Path(argument))


def main(rows: str, optimizer: str = "helen") -> int:
    """Fill the vocabulary, report it, then answer until the input ends."""
    idle = resident_bytes()
    began = time.perf_counter()
    config = OPTIMIZERS[optimizer]
    # Compile the kernels, or load them from disk, before any timing.
    Scale(2 * FIELDS, config).measure()
    ready = resident_bytes()
    scale = Scale(int(rows), config)
    filled = {
        "rows": scale.rows,
        "seconds": time.perf_counter() - began,
        "import_bytes": idle,
        "ready_bytes": ready,
        "resident_bytes": resident_bytes(),
        "fill_peak_bytes": peak_bytes(),
    }
    print(json.dumps(filled), flush=True)
    for answer in answers(scale, iter(sys.stdin)):
        print(json.dumps(answer), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
