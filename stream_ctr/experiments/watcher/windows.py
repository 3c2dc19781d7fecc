"""Windows of event time, in whose order an experiment's figures become final.

An impression belongs to the window in which its label window starts: at its own time or, if it arrived late,
at its position in the merged order. Labels settle in that order. A window closes when the labels of all its
impressions are settled; no impression can enter it afterwards.

A long experiment has many windows. If there are too many to display, every second end is dropped. This merges
two windows into one, because each end stores totals from the start of the experiment.
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
"""Maximum number of ends that are kept."""
MOST_SCORED: Final = 500_000
"""Maximum number of impressions in a window's AUC; beyond it, only every second, fourth, ... is used."""
FEWEST_OF_CLASS: Final = 10
"""Minimum clicks, and minimum impressions without a click, for the AUC of a window: with fewer, its variance
would be unreliable."""


class Totals(msgspec.Struct, kw_only=True):
    """Totals of one arm from the start of the experiment to the end of a window."""

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
    """Cumulative figures of each arm."""
    comparisons: list[dict[str, Bounded]]
    """Cumulative figures of each arm against the control; empty for the control."""


def thinned(ends: list[End]) -> list[End]:
    """The ends; if there are more than MOST_ENDS, every second is dropped and the last one kept."""
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

    At most ``most`` impressions are kept. Beyond that, only impressions whose running number is a multiple of
    a power of two are kept, so that the selection does not depend on chunks.
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
        """Add impressions: running numbers, buckets and labels [N], probabilities [N, arms]."""
        rows = np.column_stack([numbers.astype(np.float64), bucket.astype(np.float64), labels, p])
        while True:
            rows = rows[rows[:, 0] % self._stride == 0]
            if self._held + len(rows) <= self._most:
                break
            # Halve at the first row that exceeds the limit, independently of the chunk it came in.
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
        """Add each arm's AUC, and its difference from the control's, to their pools; then drop the window.

        A window with fewer than FEWEST_OF_CLASS impressions of either class adds nothing.
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
        """The kept impressions, float64 [N, 3 + arms]: running number, bucket, label, probabilities."""
        return np.concatenate([np.zeros((0, 3 + self._arms)), *self._rows])

    def load(self, rows: NDArray[np.float64], stride: int) -> None:
        """Restore from :meth:`rows` and :attr:`stride`."""
        self._rows, self._held, self._stride = ([rows] if len(rows) else []), len(rows), stride

    @property
    def stride(self) -> int:
        """Sampling interval: one impression in this many is kept."""
        return self._stride


def _enough(labels: NDArray[np.bool_]) -> bool:
    clicks = int(np.count_nonzero(labels))
    return min(clicks, len(labels) - clicks) >= FEWEST_OF_CLASS


def pools(arms: int) -> list[AreaPool]:
    """One empty pool for each arm."""
    return [AreaPool(BUCKETS) for _ in range(arms)]
