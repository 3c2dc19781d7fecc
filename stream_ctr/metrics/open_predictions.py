"""Predictions that wait for their label: impression number -> probability.

An open-addressing hash table in two arrays, 12 bytes per place and at most half full. The layout depends on
how the table grew; lookups and the saved state do not.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from stream_ctr.batch import COPY, LEARN, PREDICT, SETTLE
from stream_ctr.kernels.decorators import kernel
from stream_ctr.kernels.splitmix64 import GOLDEN
from stream_ctr.state.state import State

FREE: Final = -1
SMALLEST: Final = 1024
NOTHING, SCORED, UNMATCHED = range(3)
"""Outcome of a row: nothing to score, scored, or a label whose impression was never predicted."""


class Pending:
    """Open impressions with the probability predicted when each one arrived."""

    def __init__(self) -> None:
        self._clear()

    def _clear(self) -> None:
        self.open = 0
        """Number of impressions that wait for their label."""
        self._keys = np.full(SMALLEST, FREE, np.int64)
        self._values = np.zeros(SMALLEST, np.float32)

    def resolve(
        self,
        action: NDArray[np.uint8],
        impression: NDArray[np.int64],
        probability: NDArray[np.float32],
    ) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        """Store the probabilities of PREDICT rows and remove those of rows with a final label, row by row.

        Returns, per row [B], the probability to score (NaN if none) and the outcome: NOTHING, SCORED or
        UNMATCHED.
        """
        self._make_room(self.open + len(action))
        scored = np.full(len(action), np.nan, np.float32)
        outcome = np.zeros(len(action), np.uint8)
        self.open += resolve_rows(action, impression, probability, self._keys, self._values, scored, outcome)
        return scored, outcome

    def state(self) -> State:
        """The open impressions in ascending order, with their probabilities."""
        used = np.flatnonzero(self._keys != FREE)
        used = used[np.argsort(self._keys[used])]
        return State({"impression": self._keys[used], "probability": self._values[used]}, {})

    def load_state(self, state: State) -> None:
        """Replace the contents by those of ``state``.

        Raises:
            KeyError, ValueError: the arrays are not those of open impressions.
        """
        impression = state.arrays["impression"].astype(np.int64)
        probability = state.arrays["probability"].astype(np.float32)
        if len(impression) != len(probability) or np.any(impression < 0):
            raise ValueError("open impressions are damaged")
        self._clear()
        self.resolve(np.full(len(impression), PREDICT, np.uint8), impression, probability)

    def _make_room(self, entries: int) -> None:
        """Grow until ``entries`` fill at most half of the table."""
        capacity = len(self._keys)
        while 2 * entries > capacity:
            capacity *= 2
        if capacity == len(self._keys):
            return
        keys, values = self._keys, self._values
        used = np.flatnonzero(keys != FREE)
        self._keys, self._values = np.full(capacity, FREE, np.int64), np.zeros(capacity, np.float32)
        put_all(self._keys, self._values, keys[used], values[used])


@kernel
def home_of(key: int, capacity: int) -> int:
    """Home place of a key. Fibonacci hashing: consecutive numbers do not form one long cluster."""
    mixed = (np.uint64(key) * GOLDEN) >> np.uint64(32)
    return int(np.int64(mixed) & (capacity - 1))


@kernel
def find(keys: NDArray[np.int64], key: int) -> int:
    """Place of ``key``, or the free place where it would be inserted."""
    place = home_of(key, len(keys))
    while keys[place] != FREE and keys[place] != key:
        place = (place + 1) & (len(keys) - 1)
    return place


@kernel
def remove(keys: NDArray[np.int64], values: NDArray[np.float32], hole: int) -> None:
    """Free a place and move later entries of its cluster up, so that lookups still find them."""
    mask = len(keys) - 1
    place = hole
    while True:
        place = (place + 1) & mask
        if keys[place] == FREE:
            break
        # An entry may move into the hole unless its home lies after the hole (cyclically).
        if ((place - home_of(keys[place], len(keys))) & mask) >= ((place - hole) & mask):
            keys[hole], values[hole] = keys[place], values[place]
            hole = place
    keys[hole] = FREE


@kernel
def put_all(
    keys: NDArray[np.int64],
    values: NDArray[np.float32],
    new_keys: NDArray[np.int64],
    new_values: NDArray[np.float32],
) -> None:
    """Insert entries [N] into a table with enough free places."""
    for n in range(len(new_keys)):
        place = find(keys, new_keys[n])
        keys[place], values[place] = new_keys[n], new_values[n]


@kernel
def resolve_rows(
    action: NDArray[np.uint8],
    impression: NDArray[np.int64],
    probability: NDArray[np.float32],
    keys: NDArray[np.int64],
    values: NDArray[np.float32],
    scored: NDArray[np.float32],
    outcome: NDArray[np.uint8],
) -> int:
    """Process rows [B] with the table [C]. Fills scored and outcome [B]; returns the growth in entries."""
    more = 0
    for b in range(len(action)):
        predict = action[b] & PREDICT
        final = action[b] & SETTLE or action[b] & (LEARN | COPY) == LEARN
        if predict and final:
            scored[b], outcome[b] = probability[b], SCORED
            continue
        place = find(keys, impression[b])
        known = keys[place] != FREE
        if predict:
            if not known:
                more += 1
            keys[place], values[place] = impression[b], probability[b]
        elif final and known:
            scored[b], outcome[b] = values[place], SCORED
            remove(keys, values, place)
            more -= 1
        elif final:
            outcome[b] = UNMATCHED
    return more
