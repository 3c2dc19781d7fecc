"""The batch: the structure that every stage after the encoder works on.

A batch is B events over S slots. A slot holds one feature value: a single-valued field has one slot, a
multi-valued field has one for each value that it may hold. Batches only transport events: a batch means
its events, one after the other, in order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

PREDICT: Final = 1
"""Action bit: an impression at its place in the order. Its features are counted and it is scored."""
LEARN: Final = 2
"""Action bit: the learner updates on the label. Without COPY the label is final."""

COPY: Final = 4
"""Action bit, combined with LEARN: the label comes from a label policy and is not the final one. No metric
scores it."""
SETTLE: Final = 8
"""Action bit: the final label is known and scored; the learner does not update."""

ASIDE: Final = 16
"""Action bit, combined with PREDICT, in the input of the feature tables: an impression of another arm. It is
scored, but its features are not counted and get no rows. No batch carries this bit."""

ABSENT: Final = -1
"""Row of an empty slot (an unused slot of a multi-valued field)."""


@dataclass(frozen=True, slots=True)
class RowChanges:
    """Rows to (re)initialise, in the order of the events: K changes.

    A change with ``event`` = b takes effect before event b of its batch is predicted or learned. A row that
    expired and was assigned to another key occurs again, with its new key.
    """

    event: NDArray[np.int64]
    """[K] index into the batch, ascending."""
    row: NDArray[np.int64]
    """[K] row to initialise; new rows are consecutive."""
    field: NDArray[np.int32]
    """[K] index of the field that the row belongs to."""
    key: NDArray[np.uint64]
    """[K] 64-bit key; initial values are a hash of (seed, field, key)."""

    @classmethod
    def none(cls) -> RowChanges:
        """No changes."""
        return cls(
            np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.int32), np.zeros(0, np.uint64)
        )


@dataclass(frozen=True, slots=True)
class Batch:
    """B events, S slots."""

    rows: NDArray[np.int64]
    """[B, S] embedding row of each slot, ABSENT for an empty slot; a row occurs at most once in an event."""
    ratio: NDArray[np.float32]
    """[B, S] N_jk / M_j of eq. 7, in [0, 1], before the lower bound xi is applied; 0 for default rows."""
    label: NDArray[np.float32]
    """[B] 1 clicked within the window, 0 not; NaN without a label (neither LEARN nor SETTLE)."""
    weight: NDArray[np.float32]
    """[B] weight of the event's loss."""
    action: NDArray[np.uint8]
    """[B] PREDICT, LEARN or both, with COPY; or SETTLE."""
    served: NDArray[np.float32]
    """[B] probability that this arm's model gave when the impression was served; NaN without a server."""
    time_ms: NDArray[np.int64]
    """[B] event time of the impression."""
    impression: NDArray[np.int64]
    """[B] sequence number of the impression: joins a LEARN event to its PREDICT event."""
    truth: NDArray[np.float32]
    """[B] ground-truth click probability of a simulator, NaN if unknown; for measurement only."""
    changes: RowChanges
    """Rows to initialise before the events that first use them."""

    def __len__(self) -> int:
        return int(self.rows.shape[0])
