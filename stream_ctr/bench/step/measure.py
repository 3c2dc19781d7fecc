"""The learning step alone: events per second at batch size 1, compared with peers and the memory floor.

The flagship is 39 fields x 16, hidden 128-64, per-unit SML, Helen on rows and dense weights with radii above
0. The learners take turns chunk by chunk, so a busy machine slows all of them equally. Times are medians over
chunks; the spread is the middle 80 %.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stream_ctr.batch import Batch
from stream_ctr.bench.step.data import step_batches
from stream_ctr.bench.step.entries import EAGER, FLAGSHIP, FLOOR, Entry, all_entries
from stream_ctr.config.model import ModelConfig

CHUNK: Final = 256
WARM_UP_CHUNKS: Final = 2
"""Chunks that are learned but not timed: they fill the caches and trigger late compilation."""
MINIMUM_EVENTS: Final = (WARM_UP_CHUNKS + 2) * CHUNK

Advance = Callable[[int, int], object]
"""Called with the number of events that all learners have processed, and the total."""


@dataclass(frozen=True)
class StepBench:
    """All entries and their data."""

    entries: list[Entry]
    data: str
    events: int
    scored: int
    """Events in every log loss: those that eager torch learned as well."""
    label: NDArray[np.float32]
    """[events]."""

    def eager(self, entry: Entry) -> Entry | None:
        """Torch with the same model and optimizer: eager or torch.compile, whichever was faster."""
        found = [each for name in EAGER for each in self._named(name, entry) if each.seconds]
        return min(found, key=lambda each: each.median() or 0.0) if found else None

    def floor(self, entry: Entry) -> Entry | None:
        """The memory floor of the same state and passes."""
        found = self._named(FLOOR, entry)
        return found[0] if found else None

    def _named(self, learner: str, entry: Entry) -> list[Entry]:
        same = (learner, entry.model, entry.optimizer)
        return [e for e in self.entries if (e.learner, e.model, e.optimizer) == same]


def measure(
    data: str | None,
    events: int,
    eager_events: int,
    models: Sequence[ModelConfig] = (FLAGSHIP,),
    peers: bool = False,
    advance: Advance = lambda done, total: None,
    choose: Callable[[ModelConfig, int], list[Entry]] | None = None,
) -> StepBench:
    """Run all learners over the rows of the Criteo file ``data``, or over Zipf rows.

    ``choose`` replaces the entries: it maps a model and a number of events to entries.

    Raises:
        DataError: the file cannot be read or is not a Criteo file.
    """
    batches, description = step_batches(data, events, CHUNK)
    rows = 1 + max(int(batch.rows.max()) for batch in batches)
    if choose is None:
        entries = all_entries(list(models), rows, events, eager_events, peers)
    else:
        entries = [entry for model in models for entry in choose(model, events)]
    for entry in entries:
        _make(entry)
    learned = 0
    for number, batch in enumerate(batches):
        for entry in entries:
            if entry.running is not None and learned < entry.limit:
                _run(entry, batch, number >= WARM_UP_CHUNKS and learned >= entry.untimed)
        learned += len(batch)
        advance(learned, len(batches) * CHUNK)
    scored = min(learned, eager_events)
    label = np.concatenate([batch.label for batch in batches])
    for entry in entries:
        if entry.probabilities:
            p = np.concatenate(entry.probabilities)
            entry.log_loss = _log_loss(p[:scored], label[:scored])
            entry.log_loss_all = _log_loss(p, label) if len(p) == learned else None
    return StepBench(entries, description, learned, scored, label)


def _make(entry: Entry) -> None:
    try:
        entry.running = entry.make()
    except ImportError as error:
        if not entry.foreign:
            raise
        entry.missing = f"not installed: {error.name or error}"
    except Exception as error:  # a peer may fail in any way on this machine
        _give_up(entry, error)


def _run(entry: Entry, batch: Batch, timed: bool) -> None:
    assert entry.running is not None
    start = time.perf_counter()
    try:
        result = entry.running.learn(batch)
    except Exception as error:  # torch.compile, for one, compiles at its first event
        _give_up(entry, error)
        return
    seconds = (time.perf_counter() - start) / len(batch)
    if timed:
        entry.seconds.append(seconds)
    if result is not None:
        entry.probabilities.append(result.probability)


def _give_up(entry: Entry, error: Exception) -> None:
    """Record the failure of a peer; re-raise a failure of the package's own learners."""
    if not entry.foreign:
        raise error
    said = " ".join(str(error).split())
    entry.running, entry.missing = None, f"does not run here: {type(error).__name__}: {said}"[:160]
    entry.seconds, entry.probabilities = [], []


def _log_loss(p: NDArray[np.float32], label: NDArray[np.float32]) -> float:
    p_1 = np.clip(p.astype(np.float64), 1e-9, 1 - 1e-9)
    return float(-np.mean(np.where(label > 0.5, np.log(p_1), np.log1p(-p_1))))
