"""The one structure that flows from encode to the end of the system.

A batch is B events over S slots. A slot is a place for one feature value: a single-valued field has one
slot, a multi-valued field has as many as it may hold. A chunk of events is only how they travel: the
meaning of a batch is its events, one after the other, in order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

PREDICT: Final = 1
"""Action bit: an impression takes its place in the order. Its features are counted, it is scored."""
LEARN: Final = 2
"""Action bit: there is a label to learn from. The learner updates; without COPY the label is final."""

COPY: Final = 4
"""Action bit, beside LEARN: the label is one that a label policy shows the learner, and not the final one.
No metric scores it."""
SETTLE: Final = 8
"""Action bit: the final label is known and scored; nothing is learned."""

ASIDE: Final = 16
"""Action bit, beside PREDICT, on the way to the feature tables: another arm's impression. It is scored, but
its features are not counted and get no rows. No batch carries it."""

ABSENT: Final = -1
"""Row of a slot that holds no value (the unused slots of a multi-valued field)."""


@dataclass(frozen=True, slots=True)
class RowChanges:
    """Rows to (re)initialise, in the order of the events: K changes.

    A change with ``event`` = b takes place before event b of its batch is predicted or learned.
    A row that was expired and given to another key appears again, with its new key.
    """

    event: NDArray[np.int64]
    """[K] index into the batch, ascending."""
    row: NDArray[np.int64]
    """[K] row to initialise; rows not seen before are consecutive."""
    field: NDArray[np.int32]
    """[K] index of the field that the row belongs to."""
    key: NDArray[np.uint64]
    """[K] 64-bit key; initial values are a hash of (seed, field, key)."""

    @classmethod
    def none(cls) -> RowChanges:
        """No change at all."""
        return cls(
            np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.int32), np.zeros(0, np.uint64)
        )


@dataclass(frozen=True, slots=True)
class Batch:
    """B events, S slots."""

    rows: NDArray[np.int64]
    """[B, S] embedding row of each slot, ABSENT where the slot is empty; no row twice in an event."""
    ratio: NDArray[np.float32]
    """[B, S] max(N / M, xi) without xi applied: N_jk / M_j of eq. 7, in [0, 1]; 0 for default rows."""
    label: NDArray[np.float32]
    """[B] 1 clicked within the window, 0 not; NaN where there is none (neither LEARN nor SETTLE)."""
    weight: NDArray[np.float32]
    """[B] weight of the event's loss."""
    action: NDArray[np.uint8]
    """[B] PREDICT, LEARN or both, with COPY; or SETTLE."""
    served: NDArray[np.float32]
    """[B] the probability this arm's model gave when the impression was served, NaN without server."""
    time_ms: NDArray[np.int64]
    """[B] event time of the impression."""
    impression: NDArray[np.int64]
    """[B] running number of the impression: joins a LEARN event to its PREDICT event."""
    truth: NDArray[np.float32]
    """[B] planted click probability, NaN where there is none; for measuring only."""
    changes: RowChanges
    """Rows to initialise before the events that first use them."""

    def __len__(self) -> int:
        return int(self.rows.shape[0])
