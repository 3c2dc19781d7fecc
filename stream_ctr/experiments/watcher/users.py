"""Distinct users by arm, and the sample-ratio test on them."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from stream_ctr.errors import StateError
from stream_ctr.experiments.statistics.sample_ratio import log_bayes_factors
from stream_ctr.experiments.watcher.user_table import Keys, UserTable
from stream_ctr.state.state import Arrays, State


class UserHash:
    """64-bit hash of a user under a salt; modulo BUCKETS it is the bucket of the assignment.

    >>> from stream_ctr.config.experiment import BUCKETS
    >>> UserHash("main-1")("user-1") % BUCKETS
    1306
    """

    def __init__(self, salt: str) -> None:
        encoded = salt.encode()
        self._salted = hashlib.blake2b(len(encoded).to_bytes(4, "big") + encoded, digest_size=8)

    def __call__(self, user: str) -> int:
        """Hash of one user; see :func:`stream_ctr.experiments.assignment.bucket_of`."""
        encoded, digest = user.encode(), self._salted.copy()
        digest.update(len(encoded).to_bytes(4, "big") + encoded)
        return int.from_bytes(digest.digest(), "big")


class DistinctUsers:
    """Counts the distinct users of each arm, and tests the split after every new user.

    Users are identified by 64-bit hashes. Among 10^9 users, a collision has probability 2.7 %.

    Args:
        weights: [arms] expected share of each arm; arms of weight 0 are not tested.
        table: storage for the users.
    """

    def __init__(self, weights: Sequence[float], table: UserTable | None = None) -> None:
        self.counts = np.zeros(len(weights), np.int64)
        """[arms] distinct users."""
        self.peak = -math.inf
        """Largest log Bayes factor against the split so far."""
        self._tested = [arm for arm, weight in enumerate(weights) if weight > 0.0]
        self._weights = [weights[arm] for arm in self._tested]
        self._table = UserTable() if table is None else table

    @property
    def p_value(self) -> float:
        """Smallest always-valid p-value so far; the null hypothesis is a sound split."""
        return math.exp(min(0.0, -self.peak))

    def add(self, users: Keys, arms: NDArray[np.int64]) -> None:
        """Add users in order of appearance; known users are ignored.

        Args:
            users: uint64 [N] hashes.
            arms: int64 [N] arm of each; a user's arm never changes.
        """
        distinct, first = np.unique(users, return_index=True)
        new = self._table.insert(distinct)
        if not new.any():
            return
        new_arms = arms[np.sort(first[new])]
        if len(self._tested) > 1:
            tested = np.array(self._tested, np.int64)
            before = self.counts[tested]
            after_each = before + np.cumsum(new_arms[:, None] == tested[None, :], axis=0)
            self.peak = max(self.peak, float(log_bayes_factors(after_each, self._weights).max()))
        self.counts += np.bincount(new_arms, minlength=len(self.counts))

    def state(self) -> State:
        """Hashes with their numbers in the table, counts by arm, and the peak."""
        known, numbers = self._table.arrays()
        arrays: Arrays = {"known": known, "impressions": numbers, "counts": self.counts.copy()}
        return State(arrays, {"peak": self.peak})

    def load_state(self, state: State) -> None:
        """Restore the users from :meth:`state`; without numbers (earlier versions) they start at 0.

        Raises:
            StateError: the state is damaged, or of other arms.
        """
        known, counts = state.arrays.get("known"), state.arrays.get("counts")
        peak = state.values.get("peak")
        if known is None or counts is None or len(counts) != len(self.counts) or not isinstance(peak, float):
            raise StateError("saved users of the experiment are damaged, or of other arms")
        numbers = state.arrays.get("impressions", np.zeros(len(known), np.uint32))
        if len(numbers) != len(known):
            raise StateError("saved users of the experiment are damaged: their impressions are missing")
        self._table.load(known, numbers)
        self.counts, self.peak = counts.astype(np.int64), peak
