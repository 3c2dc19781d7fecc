"""Prequential (progressive) validation: every impression is scored before its label is learned.

The score uses the probability at the impression's position in the stream: the served one or, without a
server, the learner's prediction on the PREDICT row. The probability waits in a table until the final label
arrives with a LEARN or SETTLE row. Copies of labels (COPY) train the learner but are not scored. Later
predictions for the same impression never enter a metric.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from stream_ctr.batch import Batch
from stream_ctr.errors import StateError, UsageError
from stream_ctr.metrics.curve import Curve
from stream_ctr.metrics.drift import DriftDetector
from stream_ctr.metrics.log_loss import log_losses
from stream_ctr.metrics.open_predictions import SCORED, UNMATCHED, Pending
from stream_ctr.metrics.sums import MetricValues, Sums, running_base_rates
from stream_ctr.metrics.window import Window
from stream_ctr.state.state import State, damage_is_a_state_error, stored_integer

Kind = Literal["lifetime", "window", "tail"]


@dataclass(frozen=True, slots=True)
class Scored:
    """The N impressions of a batch that received their final label, in order."""

    row: NDArray[np.int64]
    """[N] index into the batch."""
    probability: NDArray[np.float32]
    """[N] probability at the impression's position in the stream."""
    label: NDArray[np.uint8]
    """[N] final label."""
    loss: NDArray[np.float64]
    """[N] log loss in nats."""


class ProgressiveMetrics:
    """Prequential metrics of one arm. Splitting a batch anywhere changes no bit of the state."""

    def __init__(self, window: int, tail_from: int | None = None) -> None:
        """``window`` is the sliding window in impressions; the tail covers impressions from ``tail_from`` on.

        Raises:
            UsageError: ``window`` is below 1.
        """
        if window < 1:
            raise UsageError(f"the metrics window must be at least 1 impression, got {window}")
        self.tail_from = tail_from
        self.unmatched = 0
        """Final labels without a prediction of their impression; not scored."""
        self.invalid = 0
        """Impressions not scored: the probability is NaN or outside [0, 1], or the label is not 0 or 1."""
        self.drift = DriftDetector(hold=window)
        self._lifetime, self._tail = Sums.empty(), Sums.empty()
        self._window = Window(window)
        self._curve = Curve(spacing=max(100, window // 20))
        self._pending = Pending()
        self._clicks = 0
        self._cached: tuple[int, MetricValues] | None = None

    @property
    def events(self) -> int:
        """Impressions scored so far."""
        return self._window.seen

    @property
    def open(self) -> int:
        """Impressions that wait for their label."""
        return self._pending.open

    @property
    def curve(self) -> Curve:
        """Windowed metrics along the stream."""
        return self._curve

    def update(self, batch: Batch, probability: NDArray[np.float32]) -> Scored:
        """Score a batch of B rows, given the learner's ``probability`` [B] for them.

        Sample weights are ignored: they control learning, and metrics count what happened.
        """
        given = np.where(np.isnan(batch.served), probability.astype(np.float32, copy=False), batch.served)
        p, outcome = self._pending.resolve(batch.action, batch.impression, given)
        self.unmatched += int(np.count_nonzero(outcome == UNMATCHED))
        asked = outcome == SCORED
        with np.errstate(invalid="ignore"):
            fit = (p >= 0.0) & (p <= 1.0) & ((batch.label == 0.0) | (batch.label == 1.0))
        row = np.flatnonzero(asked & fit)
        self.invalid += int(np.count_nonzero(asked)) - len(row)
        label = batch.label[row].astype(np.uint8)
        scored = Scored(row, p[row], label, log_losses(p[row], label))
        truth = batch.truth[row]
        base = running_base_rates(label, self.events, self._clicks)
        self._clicks += int(label.sum())
        self._add(scored, truth, base)
        if self.tail_from is not None:
            late = batch.impression[row] >= self.tail_from
            self._tail.add(scored.probability[late], label[late], truth[late], base[late])
        self.drift.update(scored.loss, batch.time_ms[row])
        return scored

    def result(self, kind: Kind = "lifetime") -> MetricValues:
        """Metrics over all impressions, over the last ``window`` of them, or from ``tail_from`` on.

        Raises:
            UsageError: ``kind`` is "tail" and ``tail_from`` was not given.
        """
        if kind == "lifetime":
            return self._lifetime.values()
        if kind == "tail":
            if self.tail_from is None:
                raise UsageError("no tail to report; set its first impression with --tail-from")
            return self._tail.values()
        if self._cached is None or self._cached[0] != self.events:
            self._cached = self.events, self._window.sums().values()
        return self._cached[1]

    def sums(self) -> Sums:
        """A copy of the lifetime sums, for merging with those of other streams."""
        return self._lifetime + Sums.empty()

    def _add(self, scored: Scored, truth: NDArray[np.float32], base: NDArray[np.float32]) -> None:
        """Add to lifetime and window, in parts that end wherever a point of the curve is due."""
        p, label = scored.probability, scored.label
        start = 0
        while start < len(p):
            stop = min(len(p), start + self._curve.until_next(self.events))
            part = slice(start, stop)
            self._lifetime.add(p[part], label[part], truth[part], base[part])
            self._window.add(p[part], label[part], truth[part], base[part])
            if self.events % self._curve.spacing == 0:
                self._curve.add(self.events, self.result("window"))
            start = stop

    def state(self) -> State:
        """Sums, window, curve, drift detector and open impressions."""
        parts = {
            "lifetime": self._lifetime.state(),
            "tail": self._tail.state(),
            "window": self._window.state(),
            "curve": self._curve.state(),
            "drift": self.drift.state(),
            "pending": self._pending.state(),
        }
        gathered = State.gather(parts)
        counters = {"unmatched": self.unmatched, "invalid": self.invalid, "tail_from": self.tail_from}
        return State(gathered.arrays, {**gathered.values, **counters})

    def load_state(self, state: State) -> None:
        """Restore the metrics that produced ``state``; a smaller window keeps only the newest events.

        Raises:
            StateError: the state is damaged, or its tail starts at another impression.
        """
        saved_tail = state.values.get("tail_from")
        if saved_tail != self.tail_from:
            raise StateError(
                f"the tail of the saved metrics starts at impression {saved_tail}, not {self.tail_from}"
            )
        with damage_is_a_state_error("metrics"):
            self._lifetime = Sums.from_state(state.part("lifetime"))
            self._tail = Sums.from_state(state.part("tail"))
            self._clicks = int(self._lifetime.bins[1].sum())
            self._window.load_state(state.part("window"))
            self._curve.load_state(state.part("curve"))
            self.drift.load_state(state.part("drift"))
            self._pending.load_state(state.part("pending"))
            self.unmatched = stored_integer(state, "unmatched")
            self.invalid = stored_integer(state, "invalid")
        self._cached = None
