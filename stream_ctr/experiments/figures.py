"""The figures of an experiment: what they mean, and how they come from the sums."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stream_ctr.experiments.comparison import enough
from stream_ctr.experiments.estimates import Estimate, difference, over_entropy, ratio, uplift
from stream_ctr.experiments.report_model import Bounded, Definition, Figure, Verdict
from stream_ctr.experiments.sequence import ConfidenceSequence, Span, fixed_interval, fixed_p_value
from stream_ctr.experiments.sums import BucketSums

PER_MILLE: Final = 1000.0
"""ADVV is worth per thousand impressions."""

_CLUSTERED: Final = "Spread over buckets of users, by the delta method."

DEFINITIONS: Final = (
    Definition(
        name="ctr", title="CTR", unit="share", better="higher", paired=False,
        method=f"Clicks over impressions. {_CLUSTERED}",
    ),
    Definition(
        name="ctr_uplift", title="CTR uplift", unit="relative", better="higher", paired=False,
        method=f"CTR over the control's, less 1. {_CLUSTERED}",
    ),
    Definition(
        name="advv", title="ADVV", unit="per_mille", better="higher", paired=False,
        method=f"Sum of bid x click per thousand impressions. {_CLUSTERED}",
    ),
    Definition(
        name="advv_uplift", title="ADVV uplift", unit="relative", better="higher", paired=False,
        method=f"ADVV over the control's, less 1. {_CLUSTERED}",
    ),
    Definition(
        name="advv_clipped", title="ADVV, clipped", unit="per_mille", better="higher", paired=False,
        method=f"ADVV with each click's worth cut at the declared quantile. {_CLUSTERED}",
    ),
    Definition(
        name="advv_clipped_uplift", title="ADVV uplift, clipped", unit="relative", better="higher",
        paired=False, method=f"Clipped ADVV over the control's, less 1. {_CLUSTERED}",
    ),
    Definition(
        name="log_loss", title="log loss", unit="nats", better="lower", paired=True,
        method=f"Mean log loss; differences on the same impressions. {_CLUSTERED}",
    ),
    Definition(
        name="normalized_entropy", title="normalized entropy", unit="ratio", better="lower", paired=True,
        method=f"Log loss over the entropy of the click rate. {_CLUSTERED}",
    ),
    Definition(
        name="auc", title="AUC", unit="area", better="higher", paired=True,
        method="Area under the ROC curve within closed windows, pooled by impressions; DeLong, which takes "
        "impressions as independent.",
    ),
    Definition(
        name="calibration", title="calibration", unit="ratio", better="one", paired=True,
        method=f"Sum of probabilities over clicks; in no comparison. {_CLUSTERED}",
    ),
)  # fmt: skip
"""Every figure, in the order in which reports show them."""

_LOWER: Final = frozenset(each.name for each in DEFINITIONS if each.better == "lower")

Counts = NDArray[np.int64]
Estimates = dict[str, tuple[Estimate, bool]]
"""Figures by name, each with whether there are clicks and users enough for an interval."""


def arm_estimates(sums: BucketSums, arm: int, area: Estimate, *, shadow: bool) -> Estimates:
    """Figures of one arm by itself.

    Args:
        sums: of closed windows.
        arm: its index.
        area: its AUC, pooled over windows.
        shadow: whether it answers nobody, and so has no clicks of its own.
    """
    found: Estimates = {}
    if not shadow:
        shown, fit = _float(sums.impressions[arm]), _enough(sums.clicks[arm], sums.impressions[arm])
        found["ctr"] = ratio(_float(sums.clicks[arm]), shown), fit
        found["advv"] = ratio(PER_MILLE * sums.worth[arm], shown), fit
        found["advv_clipped"] = ratio(PER_MILLE * sums.clipped[arm], shown), fit
    scored, clicks = _float(sums.scored[arm]), _float(sums.scored_clicks[arm])
    fit = _enough(sums.scored_clicks[arm], sums.scored[arm])
    found["log_loss"] = ratio(sums.loss[arm], scored), fit
    found["normalized_entropy"] = over_entropy(sums.loss[arm], clicks, scored), fit
    found["auc"] = area, fit
    found["calibration"] = ratio(sums.predicted[arm], clicks, scored), fit
    return found


def comparison_estimates(sums: BucketSums, arm: int, area: Estimate, *, shadow: bool) -> Estimates:
    """Figures of one arm less those of the control; the arguments as in :func:`arm_estimates`."""
    found: Estimates = {}
    if not shadow:
        one, other = (arm_estimates(sums, index, area, shadow=False) for index in (arm, 0))
        for name in ("ctr", "advv", "advv_clipped"):
            fit = one[name][1] and other[name][1]
            found[name] = difference(one[name][0], other[name][0]), fit
            found[f"{name}_uplift"] = uplift(one[name][0], other[name][0]), fit
    pairs, clicks = _float(sums.pairs[arm]), _float(sums.pair_clicks[arm])
    fit = _enough(sums.pair_clicks[arm], sums.pairs[arm])
    found["log_loss"] = ratio(sums.pair_loss[arm], pairs), fit
    found["normalized_entropy"] = over_entropy(sums.pair_loss[arm], clicks, pairs), fit
    found["auc"] = area, fit
    return found


def bounded(estimates: Estimates, sequence: ConfidenceSequence) -> dict[str, Bounded]:
    """Figures with always-valid intervals."""
    found = {}
    for name, (estimate, fit) in estimates.items():
        span = sequence.interval(estimate) if fit else None
        found[name] = Bounded(estimate=_known(estimate.value), **_ends(span))
    return found


def figures(estimates: Estimates, sequence: ConfidenceSequence) -> dict[str, Figure]:
    """Figures of a comparison with always-valid intervals, p-values and verdicts."""
    found = {}
    for name, (estimate, fit) in estimates.items():
        span = sequence.interval(estimate) if fit else None
        p_value = sequence.p_value(estimate) if fit else None
        found[name] = _figure(name, estimate, span, p_value)
    return found


def fixed_figures(estimates: Estimates, level: float) -> dict[str, Figure]:
    """Figures of a comparison with ordinary intervals: for the one look that was declared beforehand."""
    found = {}
    for name, (estimate, fit) in estimates.items():
        span = fixed_interval(estimate, level) if fit else None
        p_value = fixed_p_value(estimate) if fit else None
        found[name] = _figure(name, estimate, span, p_value)
    return found


def withheld(figures: Mapping[str, Figure]) -> dict[str, Figure]:
    """The same figures with nothing to read in them."""
    return {name: Figure(impressions=each.impressions, verdict="withheld") for name, each in figures.items()}


def _figure(name: str, estimate: Estimate, span: Span | None, p_value: float | None) -> Figure:
    ends = _ends(span)
    return Figure(
        estimate=_known(estimate.value),
        p=p_value,
        impressions=int(estimate.observations),
        verdict=verdict_of(name, span),
        low=ends.get("low"),
        high=ends.get("high"),
    )


def verdict_of(name: str, span: Span | None) -> Verdict:
    """What an interval of a difference says."""
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


def _enough(clicks: Counts, impressions: Counts) -> bool:
    return enough(clicks[None, :], impressions[None, :])


def _float(values: Counts) -> NDArray[np.float64]:
    return values.astype(np.float64)
