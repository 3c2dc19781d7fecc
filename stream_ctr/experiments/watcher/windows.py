"""Windows of event time: the order in which an experiment's figures become final.

An impression belongs to the window in which its label window begins: its own time or, when it came late,
its place in the order. Labels settle in that order. A window closes when the labels of all its impressions
are settled; nothing can come into it after that.

A long experiment has many windows. When there are too many to show, every second end is dropped, which
merges two windows into one: what is kept of a window's end are totals from the start of the experiment.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from stream_ctr.config.experiment import BUCKETS
from stream_ctr.experiments.report.model import Bounded
from stream_ctr.experiments.statistics.delong import AreaPool, area, area_difference

MOST_ENDS: Final = 400
"""Ends of windows that are kept."""
MOST_SCORED: Final = 500_000
"""Impressions of one window that enter its AUC; of more, every second, fourth, ... is taken."""
FEWEST_OF_CLASS: Final = 10
"""Clicks, and impressions without one, below which a window has no AUC: its variance would be guesswork."""


class Totals(msgspec.Struct, kw_only=True):
    """What one arm came to from the start to the end of a window."""

    impressions: int = 0
    clicks: int = 0
    worth: float = 0.0
    clipped: float = 0.0
    scored: int = 0
    scored_clicks: int = 0
    loss: float = 0.0
    predicted: float = 0.0
    auc_events: float = 0.0
    auc_weighted: float = 0.0
    """Sum over windows of impressions x AUC."""


class End(msgspec.Struct, kw_only=True):
    """The end of a closed window."""

    start_ms: int
    end_ms: int
    totals: list[Totals]
    """By arm."""
    arms: list[dict[str, Bounded]]
    """Figures of each arm from the start to here."""
    comparisons: list[dict[str, Bounded]]
    """Figures of each arm against the control from the start to here; those of the control are empty."""


def thinned(ends: list[End]) -> list[End]:
    """The ends, with every second dropped when there are more than MOST_ENDS; the last one stays."""
    if len(ends) <= MOST_ENDS:
        return ends
    kept = []
    for index in range(len(ends) - 1, -1, -2):
        end = ends[index]
        start_ms = ends[index - 1].start_ms if index else end.start_ms
        kept.append(msgspec.structs.replace(end, start_ms=start_ms))
    return kept[::-1]


class Scores:
    """Probabilities and labels of the open window, for its AUC.

    At most ``most`` impressions are held: beyond, those whose running number is a multiple of a power of
    two, so that which they are does not depend on chunks.
    """

    def __init__(self, arms: int, most: int = MOST_SCORED) -> None:
        self._arms, self._most = arms, most
        self._rows: list[NDArray[np.float64]] = []
        self._held = 0
        self._stride = 1

    def add(
        self,
        numbers: NDArray[np.int64],
        bucket: NDArray[np.int64],
        p: NDArray[np.float64],
        labels: NDArray[np.float64],
    ) -> None:
        """Take in impressions: running numbers, buckets and labels [N], probabilities [N, arms]."""
        rows = np.column_stack([numbers.astype(np.float64), bucket.astype(np.float64), labels, p])
        while True:
            rows = rows[rows[:, 0] % self._stride == 0]
            if self._held + len(rows) <= self._most:
                break
            # Halved at the row that is one too many, whatever chunk it came in.
            room = self._most - self._held
            self._take(rows[:room])
            rows = rows[room:]
            self._stride *= 2
            held = np.concatenate(self._rows)
            self._rows, self._held = [], 0
            self._take(held[held[:, 0] % self._stride == 0])
        self._take(rows)

    def _take(self, rows: NDArray[np.float64]) -> None:
        if len(rows):
            self._rows.append(rows)
            self._held += len(rows)

    def close(self, own: Sequence[AreaPool], differences: Sequence[AreaPool]) -> None:
        """Add AUC of each arm, and its difference to the control's, to their pools; then nothing is held.

        A window with fewer than FEWEST_OF_CLASS of either class adds none.
        """
        rows = self.rows()
        self._rows, self._held, self._stride = [], 0, 1
        bucket, labels, p = rows[:, 1].astype(np.int64), rows[:, 2] > 0.5, rows[:, 3:]
        for arm in range(self._arms):
            known = np.isfinite(p[:, arm])
            if _enough(labels[known]):
                found = area(p[known, arm], labels[known])
                if found is not None:
                    own[arm].add(found, labels[known], bucket[known])
            known &= np.isfinite(p[:, 0])
            if arm and _enough(labels[known]):
                found = area_difference(p[known, arm], p[known, 0], labels[known])
                if found is not None:
                    differences[arm].add(found, labels[known], bucket[known])

    def rows(self) -> NDArray[np.float64]:
        """What is held, float64 [N, 3 + arms]."""
        return np.concatenate([np.zeros((0, 3 + self._arms)), *self._rows])

    def load(self, rows: NDArray[np.float64], stride: int) -> None:
        """Hold what :meth:`rows` gave."""
        self._rows, self._held, self._stride = ([rows] if len(rows) else []), len(rows), stride

    @property
    def stride(self) -> int:
        """Every how manieth impression is held."""
        return self._stride


def _enough(labels: NDArray[np.bool_]) -> bool:
    clicks = int(np.count_nonzero(labels))
    return min(clicks, len(labels) - clicks) >= FEWEST_OF_CLASS


def pools(arms: int) -> list[AreaPool]:
    """An empty pool for each arm."""
    return [AreaPool(BUCKETS) for _ in range(arms)]
