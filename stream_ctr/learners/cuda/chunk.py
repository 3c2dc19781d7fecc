"""A chunk of events on the device, and the schedule of its row changes."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray


class DeviceChunk:
    """Buffers for up to C events, which a step reads and writes at the cursor. They are never reallocated.

    A captured step holds their addresses, so each chunk is copied into them. ``rows`` int64 [C, S] holds the
    spare row for empty slots. ``numbers`` [C, S + 2] holds the ratio of each slot, label and weight.
    ``probability`` float32 [C] and ``skipped`` bool [C] are the results. ``before`` int64 [C] is the number
    of updates before each event. ``learned`` and ``cursor`` are int64 [1].
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
        # Copies from pinned memory do not block the host. The next copy starts after the previous results
        # were read, so no transfer in progress is overwritten.
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
        """Copy n <= C events to the device and set the cursor to the first.

        ``rows`` is [n, S]; ``numbers`` are ratio [n, S], label [n] and weight [n].
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

    def fill_with_no_ops(self, spare: int) -> None:
        """Fill the chunk with events that change nothing: all slots empty, and non-finite updates."""
        self.rows.fill_(spare)
        self.numbers.fill_(torch.nan)
        self.cursor.zero_()

    def outcome(self, count: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """``probability`` and ``skipped`` of the first ``count`` events; waits for the device."""
        probability: NDArray[np.float32] = self.probability[:count].cpu().numpy()
        skipped: NDArray[np.bool_] = self.skipped[:count].cpu().numpy()
        return probability, skipped


def plan_starts(
    rows: NDArray[np.int64], event: NDArray[np.int64], row: NDArray[np.int64]
) -> list[tuple[int, NDArray[np.int64]]]:
    """Schedule K row changes: pairs of an event and the changes to apply before it.

    ``rows`` [B, S] are the rows of the events, ``event`` (ascending) and ``row`` [K] the changes. A change
    may be applied before an earlier event if no event in between uses the row. All changes are therefore
    moved to the front, up to the first one whose row an earlier event still uses. That change and the ones
    after it are applied before its own event, and so on. If a row changes several times at one point, only
    the last change counts.

    >>> rows = np.array([[4, 5], [4, 6], [7, 5]])
    >>> plan = plan_starts(rows, np.array([0, 0, 1, 2, 2]), np.array([4, 5, 6, 7, 4]))
    >>> [(event, changes.tolist()) for event, changes in plan]
    [(0, [0, 1, 2]), (2, [3, 4])]
    """
    if not len(row):
        return []
    fronts = _fronts(_last_use(rows, event, row), event)
    group = np.searchsorted(fronts, event, side="right") - 1
    # The last change of each row of a group: np.unique keeps the first, so reverse the order.
    place = group[::-1] * (int(row.max()) + 1) + row[::-1]
    kept = np.sort(len(row) - 1 - np.unique(place, return_index=True)[1])
    first = np.searchsorted(group[kept], np.arange(len(fronts) + 1))
    plan = [(front, kept[first[i] : first[i + 1]]) for i, front in enumerate(fronts)]
    return [(front, changes) for front, changes in plan if len(changes)]


def _last_use(rows: NDArray[np.int64], event: NDArray[np.int64], row: NDArray[np.int64]) -> NDArray[np.int64]:
    """[K] the last event before each change that uses the row of the change; -1 if there is none."""
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
    """The events before which changes are applied, ascending."""
    fronts = [0]
    for k in np.flatnonzero(last_use >= 0):
        if last_use[k] >= fronts[-1]:
            fronts.append(int(event[k]))
    return fronts
