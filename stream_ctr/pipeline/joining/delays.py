"""Histogram of the delays from impressions to their clicks, over the life of a state."""

from __future__ import annotations

from bisect import bisect_left
from typing import Final

from stream_ctr.errors import StateError
from stream_ctr.state.state import Json

DELAY_BOUNDS_SECONDS: Final = (
    *(float(f"{digit}e{power}") for power in range(-1, 2) for digit in (1, 2, 5)),
    *(60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 7200.0, 21600.0, 43200.0, 86400.0, 604800.0),
)
"""Upper bounds of the bins: 0.1 to 50 seconds by 1, 2, 5; then minutes, hours, days and a week."""
_BOUNDS_MS: Final = tuple(round(bound * 1000) for bound in DELAY_BOUNDS_SECONDS)


class DelayCounts:
    """Counts of delays in fixed bins.

    >>> delays = DelayCounts()
    >>> delays.add(1500)
    >>> delays.counts[:6], delays.sum_ms
    ([0, 0, 0, 0, 1, 0], 1500)
    """

    def __init__(self) -> None:
        self.counts = [0] * (len(_BOUNDS_MS) + 1)
        """Delays per bin; a bin includes its upper bound, and the last bin has none."""
        self.sum_ms = 0
        """Sum of all delays."""

    def add(self, delay_ms: int) -> None:
        """Count one delay."""
        self.counts[bisect_left(_BOUNDS_MS, delay_ms)] += 1
        self.sum_ms += delay_ms

    def state(self) -> Json:
        """Counts of all bins, then the sum."""
        return [*self.counts, self.sum_ms]

    @classmethod
    def from_state(cls, saved: Json) -> DelayCounts:
        """The counts whose :meth:`state` is ``saved``.

        Raises:
            StateError: they are damaged.
        """
        found = cls()
        numbers = [n for n in saved if isinstance(n, int) and n >= 0] if isinstance(saved, list) else []
        if len(numbers) != len(found.counts) + 1:
            raise StateError(f"saved joiner is damaged: delays are {saved!r}")
        *found.counts, found.sum_ms = numbers
        return found
