"""The figures of an experiment: their definitions, and their computation from the sums."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stream_ctr.experiments.report.model import Bounded, Definition, Figure, Verdict
from stream_ctr.experiments.statistics.confidence_sequence import (
    EVERYTHING,
    FIRST_LOOK_CLICKS,
    ConfidenceSequence,
    Span,
    concentration,
    fixed_factor,
    fixed_p_value,
    shortage,
    uplift_interval,
)
from stream_ctr.experiments.statistics.estimates import (
    NOTHING,
    Estimate,
    difference,
    over_entropy,
    ratio,
    uplift,
)
from stream_ctr.experiments.watcher.sums import BucketSums

PER_MILLE: Final = 1000.0
"""ADVV is value per thousand impressions."""

_CLUSTERED: Final = "Variance by the delta method, clustered by buckets of users."
_QUOTIENT: Final = "Interval by Fieller's method, clustered by buckets of users."

DEFINITIONS: Final = (
    Definition(
        name="ctr", title="CTR", unit="share", better="higher", paired=False,
        method=f"Clicks / impressions. {_CLUSTERED}",
    ),
    Definition(
        name="ctr_uplift", title="CTR uplift", unit="relative", better="higher", paired=False,
        method=f"CTR / the control's CTR - 1. {_QUOTIENT}",
    ),
    Definition(
        name="advv", title="ADVV", unit="per_mille", better="higher", paired=False,
        method=f"Sum of bid x click per thousand impressions. {_CLUSTERED}",
    ),
    Definition(
        name="advv_uplift", title="ADVV uplift", unit="relative", better="higher", paired=False,
        method=f"ADVV / the control's ADVV - 1. {_QUOTIENT}",
    ),
    Definition(
        name="advv_clipped", title="clipped ADVV", unit="per_mille", better="higher", paired=False,
        method=f"ADVV with the value of each click clipped at the declared quantile. {_CLUSTERED}",
    ),
    Definition(
        name="advv_clipped_uplift", title="clipped ADVV uplift", unit="relative", better="higher",
        paired=False, method=f"Clipped ADVV / the control's clipped ADVV - 1. {_QUOTIENT}",
    ),
    Definition(
        name="log_loss", title="log loss", unit="nats", better="lower", paired=True,
        method=f"Mean log loss; differences on the same impressions. {_CLUSTERED}",
    ),
    Definition(
        name="normalized_entropy", title="normalized entropy", unit="ratio", better="lower", paired=True,
        method=f"Log loss / entropy of the click rate. {_CLUSTERED}",
    ),
    Definition(
        name="auc", title="AUC", unit="area", better="higher", paired=True,
        method="Area under the ROC curve within closed windows, averaged with impressions as weights. "
        "Variance from DeLong's placements, clustered by buckets of users.",
    ),
    Definition(
        name="calibration", title="calibration", unit="ratio", better="one", paired=True,
        method=f"Sum of predicted probabilities / clicks; not compared between arms. {_CLUSTERED}",
    ),
)  # fmt: skip
"""Every figure, in the order in which reports show them."""

_LOWER: Final = frozenset(each.name for each in DEFINITIONS if each.better == "lower")
_RANGES: Final = {
    "ctr": (0.0, 1.0), "advv": (0.0, math.inf), "advv_clipped": (0.0, math.inf), "log_loss": (0.0, math.inf),
    "normalized_entropy": (0.0, math.inf), "auc": (0.0, 1.0), "calibration": (0.0, math.inf),
}  # fmt: skip
"""Possible range of an arm's figure, to which its interval is cut."""
_DIFFERENCES: Final = {"ctr": (-1.0, 1.0), "auc": (-1.0, 1.0)}
"""The same for differences."""
ALL_ARMS: Final = "all arms together"
"""The impressions that paired figures are computed from, for messages."""
_NO_AREA: Final = "no closed window has 10 clicks and 10 impressions without a click"

Counts = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Judged:
    """A figure with its possible range and, if it has no interval, the reason."""

    estimate: Estimate
    why: str = ""
    """Why there is no interval; empty if there is one."""
    missing: bool = False
    """Whether the log lacks the data for the figure, so that waiting does not help."""
    low: float = -math.inf
    high: float = math.inf
    """Smallest and largest possible value."""
    quotient: tuple[Estimate, Estimate] | None = None
    """For an uplift: the arm's estimate and the control's."""

    def span(self, factor: float) -> Span | None:
        """The interval whose half-width is ``factor`` standard errors; None if ``why`` is not empty."""
        if self.why:
            return None
        if self.quotient is not None:
            return uplift_interval(*self.quotient, factor)
        half = factor * self.estimate.standard_error
        if not (math.isfinite(self.estimate.value) and math.isfinite(half)):
            return EVERYTHING
        low, high = self.estimate.value - half, self.estimate.value + half
        return Span(max(self.low, low), min(self.high, high))

    @property
    def tested(self) -> Estimate:
        """The difference whose expectation is zero under the null hypothesis."""
        return self.estimate if self.quotient is None else difference(*self.quotient)


Estimates = dict[str, Judged]
"""Figures by name."""


def arm_estimates(
    sums: BucketSums, names: Sequence[str], arm: int, area: Estimate, *, shadow: bool
) -> Estimates:
    """Figures of one arm.

    Args:
        sums: sums of closed windows.
        names: names of the arms.
        arm: index of the arm.
        area: AUC of the arm, pooled over windows.
        shadow: whether it is a shadow arm, which never answers and so has no clicks of its own.
    """
    found: Estimates = {}
    who = names[arm]
    if not shadow:
        shown = _float(sums.impressions[arm])
        why = shortage(who, sums.clicks[arm], sums.impressions[arm])
        found["ctr"] = _own("ctr", ratio(_float(sums.clicks[arm]), shown), why)
        for name, worth in (("advv", sums.worth[arm]), ("advv_clipped", sums.clipped[arm])):
            unpriced = _unpriced(sums, who, arm)
            estimate = NOTHING if unpriced else ratio(PER_MILLE * worth, shown)
            lacks = unpriced or why or _few_priced(sums, who, arm) or concentration(who, "value", worth)
            found[name] = _own(name, estimate, lacks, missing=bool(unpriced))
    scored, clicks = _float(sums.scored[arm]), _float(sums.scored_clicks[arm])
    missing = bool(sums.impressions.any() and not sums.scored[arm].any())
    why = shortage(ALL_ARMS, sums.scored_clicks[arm], sums.scored[arm])
    why = f"no impression has a prediction by {who}" if missing else why
    losses = {
        "log_loss": ratio(sums.loss[arm], scored),
        "normalized_entropy": over_entropy(sums.loss[arm], clicks, scored),
        "calibration": ratio(sums.predicted[arm], clicks, scored),
    }
    found |= {name: _own(name, each, why, missing=missing) for name, each in losses.items()}
    constant = f"{who} predicts the same probability for all impressions of a window"
    found["auc"] = _own("auc", area, why or _area_shortage(area, constant), missing=missing)
    return found


def comparison_estimates(
    sums: BucketSums, names: Sequence[str], arm: int, area: Estimate, *, shadow: bool
) -> Estimates:
    """Figures of one arm minus those of the control; arguments as in :func:`arm_estimates`."""
    found: Estimates = {}
    if not shadow:
        one, other = (arm_estimates(sums, names, index, area, shadow=False) for index in (arm, 0))
        for name in ("ctr", "advv", "advv_clipped"):
            found |= _effect(name, one[name], other[name], names[0])
    pairs, clicks = _float(sums.pairs[arm]), _float(sums.pair_clicks[arm])
    missing = bool(sums.impressions.any() and not sums.pairs[arm].any())
    why = f"no impression has predictions by both {names[arm]} and {names[0]}" if missing else ""
    why = why or shortage(ALL_ARMS, sums.pair_clicks[arm], sums.pairs[arm])
    losses = {
        "log_loss": ratio(sums.pair_loss[arm], pairs),
        "normalized_entropy": over_entropy(sums.pair_loss[arm], clicks, pairs),
    }
    found |= {name: _compared(name, each, why, missing=missing) for name, each in losses.items()}
    alike = "both arms rank all impressions identically"
    found["auc"] = _compared("auc", area, why or _area_shortage(area, alike), missing=missing)
    return found


def _effect(name: str, one: Judged, other: Judged, control: str) -> Estimates:
    """Difference and uplift of two arms' figures."""
    why = "; ".join(dict.fromkeys(each.why for each in (other, one) if each.why))
    missing = one.missing or other.missing
    pair = one.estimate, other.estimate
    relative = uplift(*pair)
    unbounded = "" if math.isfinite(relative.value) else f"the value of {control} is not positive"
    return {
        name: _compared(name, difference(*pair), why, missing=missing),
        f"{name}_uplift": Judged(relative, why or unbounded, missing, -1.0, quotient=pair),
    }


def _own(name: str, estimate: Estimate, why: str, *, missing: bool = False) -> Judged:
    return Judged(estimate, why or _unknown(estimate), missing, *_RANGES[name])


def _compared(name: str, estimate: Estimate, why: str, *, missing: bool) -> Judged:
    return Judged(
        estimate, why or _unknown(estimate), missing, *_DIFFERENCES.get(name, (-math.inf, math.inf))
    )


def _unknown(estimate: Estimate) -> str:
    """Why an estimate has no variance although there are enough clicks and users."""
    known = math.isfinite(estimate.value) and estimate.variance >= 0.0
    return "" if known else "every impression was clicked"


def _area_shortage(area: Estimate, constant: str) -> str:
    if not area.observations > 0.0:
        return _NO_AREA
    return "" if area.variance >= 0.0 else constant


def _unpriced(sums: BucketSums, who: str, arm: int) -> str:
    """Why there is no value to measure; empty if there is."""
    if sums.priced[arm] or not sums.impressions[arm].any():
        return ""
    of = "" if not sums.priced.any() else f" of {who}"
    return f"no impression{of} has a {'usable ' if sums.unusable_bids[arm] else ''}bid"


def _few_priced(sums: BucketSums, who: str, arm: int) -> str:
    priced = int(sums.priced_clicks[arm])
    return (
        ""
        if priced >= FIRST_LOOK_CLICKS
        else (f"{priced:,} of {FIRST_LOOK_CLICKS} clicks with a bid needed in {who}")
    )


def bounded(estimates: Estimates, sequence: ConfidenceSequence) -> dict[str, Bounded]:
    """Figures with always-valid intervals."""
    found = {}
    for name, judged in estimates.items():
        span = judged.span(sequence.factor(judged.estimate.observations))
        found[name] = Bounded(estimate=_known(judged.estimate.value), **_ends(span))
    return found


def figures(estimates: Estimates, sequence: ConfidenceSequence) -> dict[str, Figure]:
    """Figures of a comparison with always-valid intervals, p-values and verdicts."""
    return {
        name: _figure(name, judged, sequence.factor(judged.estimate.observations), sequence.p_value)
        for name, judged in estimates.items()
    }


def fixed_figures(estimates: Estimates, level: float) -> dict[str, Figure]:
    """Figures of a comparison with ordinary intervals, for the declared look."""
    factor = fixed_factor(level)
    return {name: _figure(name, judged, factor, fixed_p_value) for name, judged in estimates.items()}


def withheld(figures: Mapping[str, Figure], why: str) -> dict[str, Figure]:
    """The figures without estimates and intervals, with the reason ``why``."""
    return {
        name: Figure(impressions=each.impressions, verdict="withheld", why=why)
        for name, each in figures.items()
    }


def _figure(name: str, judged: Judged, factor: float, p_value: Callable[[Estimate], float]) -> Figure:
    span = judged.span(factor)
    why = judged.why
    if span is not None and not math.isfinite(span.high):
        why = "the control's own interval reaches zero" if judged.quotient else "the interval is unbounded"
        span = None
    ends = _ends(span)
    return Figure(
        estimate=_known(judged.estimate.value),
        p=None if judged.why else p_value(judged.tested),
        impressions=int(judged.estimate.observations),
        verdict="missing" if judged.missing else verdict_of(name, span),
        why=why,
        low=ends.get("low"),
        high=ends.get("high"),
    )


def verdict_of(name: str, span: Span | None) -> Verdict:
    """The verdict that follows from the interval of a difference."""
    if span is None or not (math.isfinite(span.low) and math.isfinite(span.high)):
        return "early"
    if not span.excludes_zero:
        return "unknown"
    return "better" if (span.high < 0.0) == (name in _LOWER) else "worse"


def _ends(span: Span | None) -> dict[str, float | None]:
    if span is None:
        return {}
    return {"low": _known(span.low), "high": _known(span.high)}


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _float(values: Counts) -> NDArray[np.float64]:
    return values.astype(np.float64)
