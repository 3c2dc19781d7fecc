"""A map from the 64-bit hash of each user to a number."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

RECENT: Final = 65_536
"""Minimum capacity of the table for new users, which is merged into the main table when it is full."""

Keys = NDArray[np.uint64]
Numbers = NDArray[np.uint32]


class UserTable:
    """Impressions by user in sorted arrays, 12 bytes per user; new users are collected in small arrays."""

    def __init__(self) -> None:
        self._known, self._recent = _empty(), _empty()

    def insert(self, users: Keys) -> NDArray[np.bool_]:
        """Insert users with the number 0; returns which of ``users``, sorted and distinct, are new."""
        new = ~(_places(self._known[0], users)[1] | _places(self._recent[0], users)[1])
        if new.any():
            added = users[new]
            self._recent = _merged(self._recent, (added, np.zeros(len(added), np.uint32)))
            if len(self._recent[0]) > max(RECENT, len(self._known[0]) // 8):
                self._settle()
        return new

    def add(self, users: Keys, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """Add to the numbers of ``users``, sorted and distinct; returns the previous numbers, 0 if new."""
        self.insert(users)
        before = np.zeros(len(users), np.int64)
        for keys, held in (self._known, self._recent):
            places, found = _places(keys, users)
            places = places[found]
            before[found] = held[places]
            held[places] = np.minimum(before[found] + numbers[found], np.iinfo(np.uint32).max)
        return before

    def arrays(self) -> tuple[Keys, Numbers]:
        """Copies of the users, sorted, and of their numbers."""
        self._settle()
        return self._known[0].copy(), self._known[1].copy()

    def load(self, users: Keys, numbers: Numbers) -> None:
        """Restore the table from :meth:`arrays`."""
        self._known = users.astype(np.uint64), numbers.astype(np.uint32)
        self._recent = _empty()

    def _settle(self) -> None:
        self._known, self._recent = _merged(self._known, self._recent), _empty()


def _empty() -> tuple[Keys, Numbers]:
    return np.zeros(0, np.uint64), np.zeros(0, np.uint32)


def _places(known: Keys, keys: Keys) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Position of each of ``keys`` [N] in the sorted ``known``, and whether it is present."""
    if not len(known):
        return np.zeros(len(keys), np.int64), np.zeros(len(keys), np.bool_)
    places = np.minimum(np.searchsorted(known, keys), len(known) - 1)
    return places, np.asarray(known[places] == keys, np.bool_)


def _merged(one: tuple[Keys, Numbers], other: tuple[Keys, Numbers]) -> tuple[Keys, Numbers]:
    """Union of two tables with disjoint keys, sorted by key."""
    if not len(other[0]):
        return one
    keys = np.concatenate([one[0], other[0]])
    order = np.argsort(keys, kind="stable")
    return keys[order], np.concatenate([one[1], other[1]])[order]
