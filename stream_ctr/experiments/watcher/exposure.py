"""Exposure: impressions per user, and the cap that limits how many of them count.

A single user (a crawler, a shared device, a test script) can have more impressions than all others together,
and would determine the figures of an arm. The cap is declared beforehand and depends only on the order of the
user's own impressions: the first ``cap`` count, with their clicks. Figures therefore describe the first
``cap`` impressions of each user, in all arms alike, and intervals stay valid.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from stream_ctr.errors import StateError
from stream_ctr.experiments.watcher.user_table import Keys, UserTable
from stream_ctr.state.state import State

UNKNOWN_USER = 0
"""Hash of impressions whose user an earlier version did not store; they always count."""

Ints = NDArray[np.int64]


class Exposure:
    """Impressions with settled labels by user, and their concentration by arm.

    Args:
        arms: number of arms.
        cap: impressions of a user that count; 0 counts all.
        table: impressions by user; shared with the counter of distinct users.
    """

    def __init__(self, arms: int, cap: int, table: UserTable) -> None:
        self.cap, self._table = cap, table
        self.shown, self.counted, self.over, self.squares, self.heaviest = (
            np.zeros(arms, np.int64) for _ in range(5)
        )
        """[arms] impressions of known users; those that count; those over the cap; sum over users of the
        squared number that counts; impressions of the most active user. In the order of the names above."""

    def take(self, users: Keys, arms: Ints) -> NDArray[np.bool_]:
        """Add the next impressions; returns which of them count, bool [N].

        Args:
            users: uint64 [N] hashes, in order.
            arms: int64 [N] arm of each; a user's arm never changes.
        """
        known = users != UNKNOWN_USER
        counts = np.ones(len(users), np.bool_)
        if known.any():
            counts[known] = self._take(users[known], arms[known])
        return counts

    def _take(self, users: Keys, arms: Ints) -> NDArray[np.bool_]:
        distinct, first, inverse, numbers = np.unique(
            users, return_index=True, return_inverse=True, return_counts=True
        )
        before = self._table.add(distinct, numbers)
        arm, after = arms[first], before + numbers
        np.add.at(self.shown, arm, numbers)
        np.maximum.at(self.heaviest, arm, after)
        if self.cap:
            capped_before, capped = np.minimum(before, self.cap), np.minimum(after, self.cap)
        else:
            capped_before, capped = before, after
        np.add.at(self.counted, arm, capped - capped_before)
        np.add.at(self.over, arm, numbers - (capped - capped_before))
        np.add.at(self.squares, arm, capped**2 - capped_before**2)
        if not self.cap or int(after.max()) <= self.cap:
            return np.ones(len(users), np.bool_)
        # Rank of each impression among those of its user in this chunk.
        order = np.argsort(inverse, kind="stable")
        rank = np.empty(len(users), np.int64)
        rank[order] = np.arange(len(users)) - np.repeat(np.cumsum(numbers) - numbers, numbers)
        return np.asarray(before[inverse] + rank < self.cap, np.bool_)

    def effective_users(self, arm: int) -> float | None:
        """Effective number of users: squared sum over sum of squares; None before the first."""
        squares = int(self.squares[arm])
        return int(self.counted[arm]) ** 2 / squares if squares else None

    def heaviest_share(self, arm: int) -> float | None:
        """Share of the arm's impressions from its most active user, before the cap; None before the first."""
        shown = int(self.shown[arm])
        return int(self.heaviest[arm]) / shown if shown else None

    def state(self) -> State:
        """The sums by arm, without the table, which its owner saves."""
        names = ("shown", "counted", "over", "squares", "heaviest")
        return State({name: getattr(self, name).copy() for name in names})

    def load_state(self, state: State) -> None:
        """Restore the sums from :meth:`state`.

        Raises:
            StateError: the state is damaged, or of other arms.
        """
        for name in ("shown", "counted", "over", "squares", "heaviest"):
            saved = state.arrays.get(name)
            if saved is None or saved.shape != self.shown.shape:
                raise StateError(f"saved impressions by user are damaged, or of other arms: {name}")
            setattr(self, name, saved.astype(np.int64))
