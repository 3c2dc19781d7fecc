"""A chunk of events on the device, and when its new rows can start."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray


class DeviceChunk:
    """Places for up to C events: what a step reads and writes at the cursor. They never move.

    A captured step holds their addresses, so a chunk is copied into them. ``rows`` int64 [C, S] names the
    spare row where a slot is empty; ``numbers`` [C, S + 2] are the ratios of the slots, label and weight;
    ``probability`` float32 [C] and ``skipped`` bool [C] are what became of each event. ``before`` int64 [C]
    is the count of updates before each event; ``learned`` and ``cursor`` are int64 [1].
    """

    def __init__(self, events: int, slots: int, device: torch.device, dtype: torch.dtype) -> None:
        self.events = events
        self.rows = torch.zeros((events, slots), device=device, dtype=torch.int64)
        self.numbers = torch.zeros((events, slots + 2), device=device, dtype=dtype)
        self.probability = torch.zeros(events, device=device, dtype=torch.float32)
        self.skipped = torch.zeros(events, device=device, dtype=torch.bool)
        self.before = torch.zeros(events, device=device, dtype=torch.int64)
        self.learned = torch.zeros(1, device=device, dtype=torch.int64)
        self.cursor = torch.zeros(1, device=device, dtype=torch.int64)
        # A copy from pinned memory does not hold up the host. The next one starts after the last result
        # was read, so nothing is overwritten on its way.
        pinned = device.type == "cuda"
        self._staged_rows = torch.zeros((events, slots), dtype=torch.int64, pin_memory=pinned)
        self._staged_numbers = torch.zeros((events, slots + 2), dtype=dtype, pin_memory=pinned)

    def upload(
        self,
        rows: NDArray[np.int64],
        numbers: tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]],
        spare: int,
        learned: int,
    ) -> None:
        """Put n <= C events in place, the cursor at the first.

        ``rows`` [n, S]; ``numbers`` are the ratio [n, S], label and weight [n].
        """
        count, slots = rows.shape
        ratio, label, weight = numbers
        self._staged_rows.numpy()[:count] = np.where(rows >= 0, rows, spare)
        staged = self._staged_numbers.numpy()
        staged[:count, :slots], staged[:count, slots], staged[:count, slots + 1] = ratio, label, weight
        self.rows[:count].copy_(self._staged_rows[:count], non_blocking=True)
        self.numbers[:count].copy_(self._staged_numbers[:count], non_blocking=True)
        self.skipped.zero_()
        self.learned.fill_(learned)
        self.cursor.zero_()

    def rehearse(self, spare: int) -> None:
        """Put events in place that change nothing: on the spare row, with an update that is not finite."""
        self.rows.fill_(spare)
        self.numbers.fill_(torch.nan)
        self.cursor.zero_()

    def outcome(self, count: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Probability and skipped of the first events; waits for the device, once."""
        probability: NDArray[np.float32] = self.probability[:count].cpu().numpy()
        skipped: NDArray[np.bool_] = self.skipped[:count].cpu().numpy()
        return probability, skipped


def plan_starts(
    rows: NDArray[np.int64], event: NDArray[np.int64], row: NDArray[np.int64]
) -> list[tuple[int, NDArray[np.int64]]]:
    """When which of K row changes can take place: pairs of an event and the changes to make before it.

    ``rows`` [B, S] are those of the events, ``event`` (ascending) and ``row`` [K] the changes. Nobody sees a
    row between the change before its event and an earlier one, as long as no event in between uses it. So
    all changes move to the front, up to the first whose row an earlier event still needs: that one and those
    after it wait for its event, and so on. Of several changes of a row at one place only the last counts.

    >>> rows = np.array([[4, 5], [4, 6], [7, 5]])
    >>> plan = plan_starts(rows, np.array([0, 0, 1, 2, 2]), np.array([4, 5, 6, 7, 4]))
    >>> [(event, changes.tolist()) for event, changes in plan]
    [(0, [0, 1, 2]), (2, [3, 4])]
    """
    if not len(row):
        return []
    fronts = _fronts(_last_use(rows, event, row), event)
    group = np.searchsorted(fronts, event, side="right") - 1
    # The last change of each row of a group: np.unique keeps the first, so from behind.
    place = group[::-1] * (int(row.max()) + 1) + row[::-1]
    kept = np.sort(len(row) - 1 - np.unique(place, return_index=True)[1])
    first = np.searchsorted(group[kept], np.arange(len(fronts) + 1))
    plan = [(front, kept[first[i] : first[i + 1]]) for i, front in enumerate(fronts)]
    return [(front, changes) for front, changes in plan if len(changes)]


def _last_use(rows: NDArray[np.int64], event: NDArray[np.int64], row: NDArray[np.int64]) -> NDArray[np.int64]:
    """[K] the last event before each change that uses its row, -1 where there is none."""
    events, slots = rows.shape
    own = np.repeat(np.arange(events), slots)
    used = rows.ravel()
    uses = np.sort(used[used >= 0] * events + own[used >= 0])
    if not len(uses):
        return np.full(len(row), -1, np.int64)
    at = np.searchsorted(uses, row * events + event) - 1
    found = uses[np.maximum(at, 0)]
    return np.where((at >= 0) & (found // events == row), found % events, -1)


def _fronts(last_use: NDArray[np.int64], event: NDArray[np.int64]) -> list[int]:
    """The events before which changes take place, ascending."""
    fronts = [0]
    for k in np.flatnonzero(last_use >= 0):
        if last_use[k] >= fronts[-1]:
            fronts.append(int(event[k]))
    return fronts
