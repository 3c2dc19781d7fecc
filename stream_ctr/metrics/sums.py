"""Metrics as pure functions of sums that merge by addition.

Every metric here (log loss, normalised entropy, AUC, calibration, share of the achievable uplift) is a
function of :class:`Sums`: counts per probability bin, and a few totals in float64. The sums of two disjoint
sets of events add up to the sums of their union.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stream_ctr.kernels.decorators import kernel
from stream_ctr.metrics.log_loss import EPSILON, logs_of
from stream_ctr.state.state import State

BINS: Final = 10_000
"""Bins of equal width, 0.0032, in the logit of the probability. They are nowhere coarser than 1,000 bins
of equal width in the probability, and equally fine at click rates of 0.1 % and 30 %. A click and a non-click
in the same bin count as a tie. This changes the AUC by less than 1e-4, or by less than 1 % of its standard
error if clicks are few."""

LOGIT_LIMIT: Final = math.log((1.0 - EPSILON) / EPSILON)
"""Bins range from -LOGIT_LIMIT to LOGIT_LIMIT, the logits of the clipped probabilities."""

LOSS, PROBABILITY, BASE, PLANTED_LOSS, PLANTED_PROBABILITY, PLANTED_BASE = range(6)
TRUTH, EXPECTED, OPTIMUM = range(6, 9)
TOTALS: Final = 9
CLIPPED, PLANTED = range(2)


@dataclass(frozen=True, slots=True)
class Sums:
    """Sufficient statistics of scored events; :func:`add_events` adds to them.

    >>> import numpy as np
    >>> nan = np.full(4, np.nan, np.float32)
    >>> p, half = np.array([0.9, 0.2, 0.6, 0.4], np.float32), np.full(4, 0.5, np.float32)
    >>> sums = Sums.empty()
    >>> sums.add(p, np.array([1, 0, 1, 1], np.uint8), nan, half)
    >>> values = sums.values()
    >>> values.events, values.clicks, values.auc, round(values.log_loss, 4), round(values.calibration, 4)
    (4, 3, 1.0, 0.4389, 0.7)
    """

    bins: NDArray[np.int64]
    """[2, BINS] events by label and bin of the predicted logit."""
    counts: NDArray[np.int64]
    """[2] events whose probability was clipped; events with a known ground truth."""
    totals: NDArray[np.float64]
    """[TOTALS] over all events: log loss, probability, log loss of the running base rate; over the events
    with ground truth: the same three, the true probability, its entropy, its log loss on the label. Losses
    and entropies are in nats."""

    @classmethod
    def empty(cls) -> Sums:
        """The sums over zero events."""
        return cls(np.zeros((2, BINS), np.int64), np.zeros(2, np.int64), np.zeros(TOTALS))

    def add(
        self,
        probability: NDArray[np.float32],
        label: NDArray[np.uint8],
        truth: NDArray[np.float32],
        base: NDArray[np.float32],
    ) -> None:
        """Add events [B] in place, one by one: chunks of any size give the same bits."""
        add_events(self.bins, self.counts, self.totals, probability, label, truth, base)

    def __add__(self, other: Sums) -> Sums:
        """The sums over both sets of events."""
        return Sums(self.bins + other.bins, self.counts + other.counts, self.totals + other.totals)

    def state(self) -> State:
        """A copy of the sums as named arrays."""
        return State(
            {"bins": self.bins.copy(), "counts": self.counts.copy(), "totals": self.totals.copy()}, {}
        )

    @classmethod
    def from_state(cls, state: State) -> Sums:
        """Restore the sums that produced ``state``.

        Raises:
            KeyError, ValueError: the arrays are not those of sums.
        """
        sums = cls.empty()
        for name, own in (("bins", sums.bins), ("counts", sums.counts), ("totals", sums.totals)):
            saved = state.arrays[name]
            if saved.shape != own.shape or saved.dtype != own.dtype:
                raise ValueError(
                    f"{name} is {saved.dtype}{list(saved.shape)}, not {own.dtype}{list(own.shape)}"
                )
            own[...] = saved
        return sums

    def values(self) -> MetricValues:
        """All metrics of these events; NaN if undefined, e.g. the AUC without clicks."""
        events, clicks = int(self.bins.sum()), int(self.bins[1].sum())
        planted = int(self.counts[PLANTED])
        total = self.totals
        log_loss, rate = ratio(total[LOSS], events), ratio(clicks, events)
        return MetricValues(
            events=events,
            clicks=clicks,
            log_loss=log_loss,
            ne=normalized_entropy(log_loss, rate),
            auc=auc(self.bins),
            calibration=ratio(total[PROBABILITY], clicks),
            base_rate=rate,
            mean_probability=ratio(total[PROBABILITY], events),
            base_log_loss=ratio(total[BASE], events),
            clipped=int(self.counts[CLIPPED]),
            planted_events=planted,
            planted_calibration=ratio(total[PLANTED_PROBABILITY], total[TRUTH]),
            bayes_log_loss=ratio(total[OPTIMUM], planted),
            bayes_expected_log_loss=ratio(total[EXPECTED], planted),
            share_of_way=share_of_way(total[PLANTED_BASE], total[PLANTED_LOSS], total[OPTIMUM]),
        )


@dataclass(frozen=True, slots=True)
class MetricValues:
    """The metrics of a set of events. Losses are means in nats per event; NaN means undefined."""

    events: int
    """Scored impressions."""
    clicks: int
    """Scored impressions with label 1."""
    log_loss: float
    """Mean of -ln p of clicks and -ln(1 - p) of the others."""
    ne: float
    """Normalised entropy: log loss over the entropy of the events' click rate; below 1 beats that rate."""
    auc: float
    """Area under the ROC curve: probability that a click scores above a non-click, ties count half."""
    calibration: float
    """Sum of probabilities over clicks; 1 is calibrated, above 1 is overestimation."""
    base_rate: float
    """Clicks over events."""
    mean_probability: float
    """Mean predicted probability."""
    base_log_loss: float
    """Mean log loss of the running base rate (:func:`running_base_rates`)."""
    clipped: int
    """Events whose probability lay within EPSILON of 0 or 1."""
    planted_events: int
    """Events with a known ground truth; the following metrics cover only these."""
    planted_calibration: float
    """Sum of predicted over sum of true probabilities: calibration without label noise."""
    bayes_log_loss: float
    """Mean log loss of the ground truth on the observed labels: the Bayes-optimal loss."""
    bayes_expected_log_loss: float
    """Mean entropy of the ground truth: the expectation of ``bayes_log_loss`` over labels."""
    share_of_way: float
    """Share of the achievable uplift, (base - model) / (base - Bayes): 0 is the running base rate, 1 is
    Bayes-optimal."""

    def as_dict(self) -> dict[str, int | float | None]:
        """The metrics for JSON, which has no NaN: undefined metrics are None."""
        return {
            name: None if isinstance(value, float) and math.isnan(value) else value
            for name, value in dataclasses.asdict(self).items()
        }


def ratio(numerator: float, denominator: float) -> float:
    """``numerator`` / ``denominator``; NaN if the denominator is 0."""
    return float(numerator) / float(denominator) if denominator else math.nan


def normalized_entropy(log_loss: float, base_rate: float) -> float:
    """Log loss over the entropy of the base rate, both of the same events (He et al. 2014, eq. 1).

    >>> round(normalized_entropy(0.3251, 0.1), 3)
    1.0
    """
    if not 0.0 < base_rate < 1.0:
        return math.nan
    entropy = -base_rate * math.log(base_rate) - (1.0 - base_rate) * math.log1p(-base_rate)
    return log_loss / entropy


def auc(bins: NDArray[np.int64]) -> float:
    """Area under the ROC curve from counts [2, BINS] of negatives and positives by ascending score.

    Trapezoidal rule: a positive beats all negatives in lower bins and half of those in its own.
    """
    negative, positive = bins[0].astype(np.float64), bins[1].astype(np.float64)
    pairs = negative.sum() * positive.sum()
    below = np.cumsum(negative) - negative
    return ratio(float(positive @ (below + 0.5 * negative)), float(pairs))


def share_of_way(base: float, model: float, bayes: float) -> float:
    """Share of the achievable uplift: (base - model) / (base - bayes).

    All arguments are sums of log losses on the labels of the same events: ``base`` of the running base rate,
    ``bayes`` of the ground truth. Label noise is part of all three and largely cancels.
    """
    return ratio(base - model, base - bayes)


@kernel
def bin_of_logit(logit: float) -> int:
    """The AUC bin of one clipped logit."""
    place = int((logit + LOGIT_LIMIT) * (BINS / (2.0 * LOGIT_LIMIT)))
    return min(max(place, 0), BINS - 1)


@kernel
def bin_of(probability: float) -> int:
    """The AUC bin of one probability in [0, 1]."""
    hit, miss = logs_of(probability)
    return bin_of_logit(hit - miss)


@kernel
def running_base_rates(label: NDArray[np.uint8], events: int, clicks: int) -> NDArray[np.float32]:
    """The running click rate [B] before each of the events [B], after ``clicks`` in ``events`` earlier ones.

    (clicks + 1/2) / (events + 1) over the events scored before, in scoring order: the Krichevsky-Trofimov
    estimate, 1/2 before the first event. It serves as the baseline model, which uses past labels alone.
    """
    out = np.empty(len(label), np.float32)
    for b in range(len(label)):
        out[b] = (clicks + 0.5) / (events + 1.0)
        events += 1
        clicks += label[b]
    return out


@kernel
def add_events(
    bins: NDArray[np.int64],
    counts: NDArray[np.int64],
    totals: NDArray[np.float64],
    probability: NDArray[np.float32],
    label: NDArray[np.uint8],
    truth: NDArray[np.float32],
    base: NDArray[np.float32],
) -> None:
    """Add events [B] to bins [2, BINS], counts [2] and totals [TOTALS], strictly in order.

    Probability, truth (NaN if unknown) and base rate are in [0, 1]; the label is 0 or 1.
    """
    for b in range(len(probability)):
        p, y, truth_b = np.float64(probability[b]), label[b], np.float64(truth[b])
        hit, miss = logs_of(p)
        base_hit, base_miss = logs_of(np.float64(base[b]))
        loss, base_loss = (-hit, -base_hit) if y else (-miss, -base_miss)
        bins[y, bin_of_logit(hit - miss)] += 1
        if p < EPSILON or p > 1.0 - EPSILON:
            counts[CLIPPED] += 1
        totals[LOSS] += loss
        totals[PROBABILITY] += p
        totals[BASE] += base_loss
        if not math.isnan(truth_b):
            truth_hit, truth_miss = logs_of(truth_b)
            counts[PLANTED] += 1
            totals[PLANTED_LOSS] += loss
            totals[PLANTED_PROBABILITY] += p
            totals[PLANTED_BASE] += base_loss
            totals[TRUTH] += truth_b
            totals[EXPECTED] -= truth_b * truth_hit + (1.0 - truth_b) * truth_miss
            totals[OPTIMUM] -= truth_hit if y else truth_miss
