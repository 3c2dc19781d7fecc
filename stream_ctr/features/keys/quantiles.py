"""Quantiles of a stream in bounded memory, for the learned buckets of float fields.

A hierarchy of buffers as in Manku, Rajagopalan and Lindsay, "Approximate medians and other quantiles in
one pass and with limited memory" (SIGMOD 1998): a value at level h represents 2^h values of the stream. A
full buffer is sorted and every other value moves one level up. The half that moves alternates, so the
summary depends only on the stream.
"""

from __future__ import annotations

from bisect import bisect_right

import numpy as np
from numpy.typing import NDArray

from stream_ctr.errors import StateError
from stream_ctr.state.state import State

BUFFER = 1024
"""Values per level. The rank error is at most levels / (2 BUFFER) of the stream: 0.5 % after 10^6 values."""
FIRST_PUBLICATION = 256
"""Number of values before the first boundaries are published; until then every value is in bucket 0."""
MAX_LEVELS = 64


class QuantileBuckets:
    """Buckets of equal weight whose boundaries are learned from the stream.

    New boundaries are published after 256, 512, 1024, ... values and do not change in between, so that
    the number of a bucket keeps its meaning ("the i-th quantile, as last published") and the values of a
    bucket's row do not shift at every event. The cost is that this meaning drifts at each publication:
    strongly in the first thousand values, then rarely and little.

    >>> buckets = QuantileBuckets(4)
    >>> for value in range(256):
    ...     buckets.observe(float(value))
    >>> [buckets.bucket(v) for v in (-5.0, 63.0, 64.0, 255.0)]
    [0, 0, 1, 3]
    """

    def __init__(self, buckets: int) -> None:
        self.buckets = buckets
        self.count = 0
        """Number of values observed."""
        self.boundaries: list[float] = []
        """Ascending, ``buckets`` - 1 of them once published; equal ones enclose a bucket that stays empty."""
        self._levels: list[list[float]] = [[]]
        self._odd: list[bool] = [False]

    def bucket(self, value: float) -> int:
        """Bucket of the value: the number of boundaries at or below it."""
        return bisect_right(self.boundaries, value)

    def observe(self, value: float) -> None:
        """Add one finite value; publishes new boundaries after 256, 512, 1024, ... values."""
        self._levels[0].append(value)
        self.count += 1
        if len(self._levels[0]) == BUFFER:
            self._compact()
        if self.count >= FIRST_PUBLICATION and self.count & (self.count - 1) == 0:
            self.boundaries = self.quantiles().tolist()

    def quantiles(self) -> NDArray[np.float64]:
        """Boundaries of the stream so far, float64 [buckets - 1]."""
        values = np.concatenate([np.array(level, np.float64) for level in self._levels])
        weights = np.concatenate(
            [np.full(len(level), 1 << height, np.int64) for height, level in enumerate(self._levels)]
        )
        order = np.argsort(values, kind="stable")
        below = np.cumsum(weights[order]) - weights[order]
        # Boundary i is the first value with at least i / buckets of the total weight below it.
        targets = np.arange(1, self.buckets) * below[-1] / self.buckets
        boundaries: NDArray[np.float64] = values[order][np.searchsorted(below, targets, side="left")]
        return boundaries

    def _compact(self) -> None:
        height = 0
        while len(self._levels[height]) == BUFFER:
            if height + 1 == len(self._levels):
                self._levels.append([])
                self._odd.append(False)
            self._levels[height + 1].extend(sorted(self._levels[height])[self._odd[height] :: 2])
            self._odd[height] = not self._odd[height]
            self._levels[height] = []
            height += 1

    def state(self) -> State:
        """values float64 [N] level by level, lengths int64 [L], odd uint8 [L], boundaries float64."""
        return State(
            {
                "values": np.array([value for level in self._levels for value in level], np.float64),
                "lengths": np.array([len(level) for level in self._levels], np.int64),
                "odd": np.array(self._odd, np.uint8),
                "boundaries": np.array(self.boundaries, np.float64),
            },
            {"count": self.count, "buckets": self.buckets},
        )

    def load_state(self, state: State) -> None:
        """Restore a state that :meth:`state` returned.

        Raises:
            StateError: the state has another number of buckets or is damaged.
        """
        count, buckets = state.values.get("count"), state.values.get("buckets")
        if buckets != self.buckets:
            raise StateError(
                f"the saved quantile summary has {buckets} buckets, but the field is configured with "
                f"{self.buckets}; restore the field's buckets"
            )
        try:
            values, lengths = state.arrays["values"], state.arrays["lengths"]
            odd, boundaries = state.arrays["odd"], state.arrays["boundaries"]
        except KeyError as error:
            raise StateError(f"quantile summary lacks the array {error}: the file is damaged") from error
        weights = [1 << height for height in range(len(lengths))]
        if not (
            isinstance(count, int)
            and 1 <= len(lengths) == len(odd) <= MAX_LEVELS
            and values.ndim == boundaries.ndim == 1
            and all(0 <= length < BUFFER for length in lengths.tolist())
            and int(lengths.sum()) == len(values)
            and sum(n * weight for n, weight in zip(lengths.tolist(), weights, strict=True)) == count
            and len(boundaries) == (self.buckets - 1 if count >= FIRST_PUBLICATION else 0)
            and bool(np.isfinite(values).all() and np.isfinite(boundaries).all())
            and bool((np.diff(boundaries) >= 0).all())
        ):
            raise StateError(
                f"quantile summary of {count} values and level lengths {lengths.tolist()} "
                "is inconsistent: the file is damaged"
            )
        self.count = count
        self.boundaries = boundaries.tolist()
        stops = np.cumsum(lengths)
        self._levels = [part.tolist() for part in np.split(values, stops[:-1])]
        self._odd = [bool(flag) for flag in odd.tolist()]
