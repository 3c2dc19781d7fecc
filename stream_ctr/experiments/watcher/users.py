"""Who is in the experiment: distinct users by arm, and whether their split is sound."""

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
    """64-bit hash of a user under a salt: the one whose remainder is the bucket of the assignment.

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
    """Counts the distinct users of each arm, and tests the split after every new one.

    Users are distinguished by 64-bit hashes: two of 10^9 share one with probability 2.7 %.

    Args:
        weights: [arms] share that each arm should have; arms of weight 0 are in no test.
        table: where users are held.
    """

    def __init__(self, weights: Sequence[float], table: UserTable | None = None) -> None:
        self.counts = np.zeros(len(weights), np.int64)
        """[arms] distinct users."""
        self.peak = -math.inf
        """Largest logarithm of the evidence against the split so far."""
        self._tested = [arm for arm, weight in enumerate(weights) if weight > 0.0]
        self._weights = [weights[arm] for arm in self._tested]
        self._table = UserTable() if table is None else table

    @property
    def p_value(self) -> float:
        """Smallest always-valid p-value of a sound split so far."""
        return math.exp(min(0.0, -self.peak))

    def add(self, users: Keys, arms: NDArray[np.int64]) -> None:
        """Meet users, in order.

        Args:
            users: uint64 [N] hashes.
            arms: int64 [N] arm of each; a user has one arm for good.
        """
        distinct, first = np.unique(users, return_index=True)
        new = self._table.insert(distinct)
        if not new.any():
            return
        met = arms[np.sort(first[new])]
        if len(self._tested) > 1:
            tested = np.array(self._tested, np.int64)
            before = self.counts[tested]
            moments = before + np.cumsum(met[:, None] == tested[None, :], axis=0)
            self.peak = max(self.peak, float(log_bayes_factors(moments, self._weights).max()))
        self.counts += np.bincount(met, minlength=len(self.counts))

    def state(self) -> State:
        """Hashes, the number of each in the table, counts and the peak."""
        known, numbers = self._table.arrays()
        arrays: Arrays = {"known": known, "impressions": numbers, "counts": self.counts.copy()}
        return State(arrays, {"peak": self.peak})

    def load_state(self, state: State) -> None:
        """Become what handed out ``state``; earlier versions held no numbers: they begin at 0.

        Raises:
            StateError: it is damaged, or of other arms.
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
