"""Confidence interval of the loss difference of two learners over one stream: paired by event, by blocks."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stream_ctr.errors import UsageError

FEWEST_BLOCKS = 5
"""Minimum number of blocks for a useful interval."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean difference with its confidence interval; negative if the first learner has less loss."""

    mean: float
    low: float
    high: float
    blocks: int

    @property
    def certain(self) -> bool:
        """Whether the interval excludes 0."""
        return not self.low <= 0.0 <= self.high


def block_interval(difference: NDArray[np.float64], block: int, level: float = 0.95) -> Interval:
    """Mean of per-event differences [n] in stream order, with a confidence interval.

    Differences of neighbouring events are autocorrelated, so an interval from single events would be too
    narrow. The means of blocks of ``block`` consecutive events are nearly independent if a block is longer
    than the autocorrelation. The interval is Student's t over the block means (batch means: Law and Kelton,
    Simulation Modeling and Analysis, 9.5.3). An incomplete last block is ignored.

    >>> found = block_interval(np.tile([0.1, 0.3], 50), 10)
    >>> round(found.mean, 6), found.blocks, found.certain
    (0.2, 10, True)

    Raises:
        UsageError: fewer than 5 whole blocks.
    """
    blocks = len(difference) // block if block >= 1 else 0
    if blocks < FEWEST_BLOCKS:
        raise UsageError(
            f"{len(difference)} scored events in blocks of {block} give {blocks} blocks; at least "
            f"{FEWEST_BLOCKS} are needed; score more events or choose smaller blocks"
        )
    from scipy.stats import t

    means = difference[: blocks * block].reshape(blocks, block).mean(axis=1)
    mean = float(means.mean())
    deviation = float(means.std(ddof=1)) / math.sqrt(blocks)
    reach = float(t.ppf(0.5 + level / 2.0, blocks - 1)) * deviation
    return Interval(mean, mean - reach, mean + reach, blocks)
