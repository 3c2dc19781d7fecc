"""Events that are learned a second time, with what they themselves have left in their rows taken out.

An event e puts a step d_k(e) into each of its rows k. Some thousand events later the network knows better
what to make of e; but the rows have memorised its label, and the more so the rarer they are. So the second
gradient is taken where the event has left no trace, and the first step gives way to a part of the second:

    eps_k = -d_k(e)            for every row of e: all that a row seen once has learned, next to nothing
                               of a frequent row, whose AdaGrad steps are small
    g     = gradient of the loss of e at w + eps
    s_k   = the row rule's step under g_k, its accumulator as it is
    w_k  <- w_k + rows_share * (s_k - d_k(e))
    dense weights: the base rule's step under dense_share * g

It is a frequency-wise perturbation that descends where Helen's (eq. 8) climbs. Stochastic dual coordinate
ascent (Shalev-Shwartz and Zhang 2013) renews an example's contribution in the same way.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from stream_ctr.learners.state_check import check_array
from stream_ctr.state.state import State


class PastEvents:
    """The last ``after`` learned events: event number o is at place o mod ``after``."""

    def __init__(self, after: int, slots: int, width: int, dtype: type[np.floating[Any]]) -> None:
        """Room for ``after`` events; 0 where none is revisited."""
        self.after = after
        self.rows: NDArray[np.int64] = np.full((after, slots), -1, np.int64)
        """[after, S] row of each slot, negative where it was empty."""
        self.trace: NDArray[np.floating[Any]] = np.zeros((after, slots, width), dtype)
        """[after, S, D] what the event's step added to each row."""
        self.label: NDArray[np.float32] = np.zeros(after, np.float32)
        """[after]."""
        self.weight: NDArray[np.float32] = np.zeros(after, np.float32)
        """[after]; 0 where there is no event."""

    def state(self, learned: int) -> State:
        """Arrays of the events that are still to be revisited after ``learned`` events, oldest first."""
        count = min(learned, self.after - 1) if self.after else 0
        at = np.arange(learned - count, learned) % max(self.after, 1)
        return State({name: array[at] for name, array in self._arrays().items()} if count else {}, {})

    def due(self, learned: int, events: int) -> NDArray[np.int64]:
        """Rows [N, S] of all past events that may have their second turn in the next ``events`` events."""
        at = np.arange(learned, learned + min(events, self.after) + 2) % max(self.after, 1)
        return self.rows[at] if self.after else self.rows

    def load_state(self, state: State, learned: int) -> None:
        """Take the newest of the saved events for which there is room; the others have no second turn.

        A state without events, as of another method, is one with nothing to revisit.

        Raises:
            StateError: an array is missing, or of another shape or type.
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
