"""Replay (``method = "revisit"``): each event is learned again later, without its own first update.

An event e adds a step d_k(e) to each of its rows k. A few thousand events later the network can extract more
from e, but the rows have memorised its label, rare rows most of all. The replay therefore takes the gradient
at weights without the event's own step, and replaces the first step by a share of the second:

    eps_k = -d_k(e)            for every row of e: everything that a row seen once has learned, and almost
                               nothing of a frequent row, whose AdaGrad steps are small
    g     = gradient of the loss of e at w + eps
    s_k   = the row rule's step under g_k, with an unchanged accumulator
    w_k  <- w_k + rows_share * (s_k - d_k(e))
    dense weights: the base rule's step under dense_share * g

This is a frequency-wise perturbation that descends, while Helen's (eq. 8) ascends. Stochastic dual coordinate
ascent (Shalev-Shwartz and Zhang 2013) updates the contribution of an example in the same way.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from stream_ctr.learners.state_check import check_array
from stream_ctr.state.state import State


class PastEvents:
    """Ring buffer of the last ``after`` learned events: event number o is at index o mod ``after``."""

    def __init__(self, after: int, slots: int, width: int, dtype: type[np.floating[Any]]) -> None:
        """Allocate memory for ``after`` events; 0 disables replay."""
        self.after = after
        self.rows: NDArray[np.int64] = np.full((after, slots), -1, np.int64)
        """[after, S] row of each slot, negative if the slot was empty."""
        self.trace: NDArray[np.floating[Any]] = np.zeros((after, slots, width), dtype)
        """[after, S, D] the step that the event added to each of its rows."""
        self.label: NDArray[np.float32] = np.zeros(after, np.float32)
        """[after]."""
        self.weight: NDArray[np.float32] = np.zeros(after, np.float32)
        """[after]; 0 if the place holds no event."""

    def state(self, learned: int) -> State:
        """Arrays of the events that are still to be replayed after ``learned`` events, oldest first."""
        count = min(learned, self.after - 1) if self.after else 0
        at = np.arange(learned - count, learned) % max(self.after, 1)
        return State({name: array[at] for name, array in self._arrays().items()} if count else {}, {})

    def due(self, learned: int, events: int) -> NDArray[np.int64]:
        """Rows [N, S] of all past events that may be replayed during the next ``events`` events."""
        at = np.arange(learned, learned + min(events, self.after) + 2) % max(self.after, 1)
        return self.rows[at] if self.after else self.rows

    def load_state(self, state: State, learned: int) -> None:
        """Load the newest saved events that fit; the others are never replayed.

        A state without events, e.g. from another method, leaves nothing to replay.

        Raises:
            StateError: an array is missing or has an unexpected shape or type.
        """
        self.rows[:], self.trace[:], self.label[:], self.weight[:] = -1, 0.0, 0.0, 0.0
        saved = state.arrays
        if not saved or self.after < 2:
            return
        own = self._arrays()
        count = len(next(iter(saved.values())))
        for name, array in own.items():
            shape = (count, *array.shape[1:])
            check_array(f"past.{name}", saved.get(name, np.zeros(0)), shape, array.dtype)
        kept = min(count, self.after - 1, learned)
        at = np.arange(learned - kept, learned) % self.after
        for name, array in own.items():
            array[at] = saved[name][count - kept :]

    def _arrays(self) -> dict[str, NDArray[Any]]:
        return {"rows": self.rows, "trace": self.trace, "label": self.label, "weight": self.weight}
