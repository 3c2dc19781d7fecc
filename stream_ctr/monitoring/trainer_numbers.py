"""The numbers that a trainer reports about itself, passed on as one immutable value.

The learning loop updates its own integers and arrays, and publishes a :class:`TrainerNumbers` on a timer. No
other thread reads the state of the loop, so reporting cannot block it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stream_ctr.events.log import TopicPartition
from stream_ctr.metrics.sums import MetricValues

BOUNDS_SECONDS: Final = tuple(float(f"{digit}e{power}") for power in range(-6, 1) for digit in (1, 2, 5))
"""Upper bounds of the duration bins: 1, 2 and 5 per decade, from 1 microsecond to 5 seconds."""


@dataclass(frozen=True, slots=True)
class DurationCounts:
    """A histogram of durations at one moment."""

    counts: tuple[int, ...] = (0,) * (len(BOUNDS_SECONDS) + 1)
    """Durations in each bin, not cumulative; the last bin is for durations above all bounds."""
    sum_seconds: float = 0.0
    """Sum of all durations."""


class Durations:
    """Accumulates durations in fixed bins, at a cost of a few nanoseconds each.

    >>> import numpy as np
    >>> durations = Durations()
    >>> durations.add(np.array([2e-6, 3e-6, 100.0]))
    >>> durations.snapshot().counts[:4], durations.snapshot().counts[-1]
    ((0, 1, 1, 0), 1)
    """

    def __init__(self) -> None:
        self._bounds = np.array(BOUNDS_SECONDS)
        self._counts = np.zeros(len(BOUNDS_SECONDS) + 1, np.int64)
        self._sum_seconds = 0.0

    def add(self, seconds: NDArray[np.float64]) -> None:
        """Add durations [B]. A duration equal to a bound belongs to the bin below it, as in Prometheus."""
        places = np.searchsorted(self._bounds, seconds, side="left")
        self._counts += np.bincount(places, minlength=len(self._counts))
        self._sum_seconds += float(seconds.sum())

    def snapshot(self) -> DurationCounts:
        """A copy of the present histogram."""
        return DurationCounts(tuple(self._counts.tolist()), self._sum_seconds)


QUANTILES: Final = (0.5, 0.9, 0.99)


@dataclass(frozen=True, slots=True)
class Spread:
    """Mean, maximum and quantiles of many values."""

    mean: float
    maximum: float
    quantiles: tuple[float, ...]
    """One for each of QUANTILES."""

    @classmethod
    def of(cls, values: NDArray[np.float32] | NDArray[np.float64] | NDArray[np.int64]) -> Spread | None:
        """The spread of values [N]; None without values."""
        if not len(values):
            return None
        found = np.quantile(values, QUANTILES)
        return cls(float(values.mean()), float(values.max()), tuple(float(value) for value in found))


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainerNumbers:
    """One trainer at one moment. None means unknown; such metrics have no sample."""

    arm: str
    """Name of the arm."""
    learn_from: str = "all"
    """Which impressions are learned: all, or those that the arm answered."""
    events: Mapping[str, int] = field(default_factory=dict)
    """Events by outcome, such as learned, duplicate or late."""
    applied_entries: int = 0
    """Entries of the log that are part of the state."""
    watermark_ms: int | None = None
    """Event time up to which the stream has been applied."""
    lag_entries: Mapping[TopicPartition, int] = field(default_factory=dict)
    """Entries of the log not yet applied."""
    learn: DurationCounts = DurationCounts()
    """Time to learn one event."""
    lifetime: MetricValues | None = None
    """Progressive metrics over the whole stream."""
    recent: MetricValues | None = None
    """Progressive metrics over the sliding window."""
    vocabulary_rows: int = 0
    """Embedding rows in use."""
    feature_counts: Spread | None = None
    """How often features occurred, over all rows: N_jk of eq. 7."""
    radius_ratios: Spread | None = None
    """Perturbation radii over the largest of their field: N_jk / M_j of eq. 7."""
    checkpoint_seconds: float | None = None
    """Unix time of the last complete checkpoint."""
    snapshot_seconds: float | None = None
    """Unix time of the last published snapshot."""
    snapshot_failures: int = 0
    """Snapshots of this run that were not published: writing failed, or the model has diverged."""
    non_finite_updates: int = 0
    """Updates skipped because they were not finite."""
    drift_detected: bool = False
    """Whether the loss has risen recently."""
    drifts_worse: int = 0
    """Changes to a higher loss."""
    drifts_better: int = 0
    """Changes to a lower loss."""
    open_impressions: int = 0
    """Impressions that wait for their label."""
    joiner_bytes: int = 0
    """Memory of the joiner's records in bytes."""
    joiner_segment_bytes: int = 0
    """Size of the joiner's files in bytes."""
    joined_value: float = 0.0
    """Sum of the values of the clicks that made their impressions positive."""
    label_delays: tuple[int, ...] = ()
    """Clicks by delay after their impressions: counts per bin, not cumulative."""
    label_delay_sum_seconds: float = 0.0
    """Sum of the delays."""
    dead_letters: Mapping[str, int] = field(default_factory=dict)
    """Records that could not be used, by class of reason."""
    read: Mapping[str, int] = field(default_factory=dict)
    """Records read since the start: impressions (or labelled records), and clicks."""
    loss_shares: Mapping[str, float] = field(default_factory=dict)
    """Fraction of the recent records that were lost, by loss."""
    loss_warnings: Mapping[str, bool] = field(default_factory=dict)
    """Whether the loss is a warning, by loss."""
    features_ignored: Mapping[str, int] = field(default_factory=dict)
    """Features outside the schema, by name."""
    values_truncated: int = 0
    """Values of multi-valued fields beyond ``max_values``."""
