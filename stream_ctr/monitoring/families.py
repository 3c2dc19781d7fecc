"""The metrics of a trainer: names, help texts, labels, and the source of each value.

Names and units follow Prometheus' conventions: base units, ``_total`` added to counters, no ``_count``
or ``quantile`` outside summaries. ``promtool check metrics`` reports nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from stream_ctr.metrics.sums import MetricValues
from stream_ctr.monitoring.trainer_numbers import QUANTILES, Spread, TrainerNumbers

PREFIX: Final = "stream_ctr_"
Samples = list[tuple[tuple[str, ...], float]]
Read = Callable[[TrainerNumbers], Samples]


class Family(NamedTuple):
    """One metric of a trainer; the label ``arm`` comes before its own labels."""

    name: str
    """Name without prefix; a counter's without ``_total``."""
    help: str
    labels: tuple[str, ...]
    read: Read
    """Label values and value of each sample."""


def one(value: float | None) -> Samples:
    """A sample without labels; no sample if the value is unknown."""
    return [] if value is None else [((), float(value))]


def spread_gauges(
    name: str, what: str, read: Callable[[TrainerNumbers], Spread | None]
) -> tuple[Family, ...]:
    """Mean, maximum and quantiles of one spread. The label is ``q``; ``quantile`` is for summaries only."""

    def pick(take: Callable[[Spread], Samples]) -> Read:
        def samples(numbers: TrainerNumbers) -> Samples:
            spread = read(numbers)
            return [] if spread is None else take(spread)

        return samples

    return (
        Family(f"{name}_mean", f"Mean of {what}.", (), pick(lambda s: one(s.mean))),
        Family(f"{name}_max", f"Maximum of {what}.", (), pick(lambda s: one(s.maximum))),
        Family(
            f"{name}_quantile",
            f"Quantiles of {what}.",
            ("q",),
            pick(lambda s: [((f"{q:g}",), v) for q, v in zip(QUANTILES, s.quantiles, strict=True)]),
        ),
    )


def metric_gauges() -> tuple[Family, ...]:
    """The progressive (prequential) metrics, over the whole stream and over the recent window."""

    def pick(take: Callable[[MetricValues], float]) -> Read:
        def samples(numbers: TrainerNumbers) -> Samples:
            windows = (("lifetime", numbers.lifetime), ("recent", numbers.recent))
            return [((window,), take(values)) for window, values in windows if values is not None]

        return samples

    return (
        Family(
            "log_loss",
            "Progressive log loss in nats per impression.",
            ("window",),
            pick(lambda v: v.log_loss),
        ),
        Family(
            "normalized_entropy",
            "Progressive log loss divided by the entropy of the window's click rate.",
            ("window",),
            pick(lambda v: v.ne),
        ),
        Family(
            "auc",
            "Area under the ROC curve of the progressive predictions.",
            ("window",),
            pick(lambda v: v.auc),
        ),
        Family(
            "calibration_ratio",
            "Sum of the progressive predictions divided by clicks; 1 is calibrated.",
            ("window",),
            pick(lambda v: v.calibration),
        ),
        Family(
            "click_ratio", "Clicks divided by scored impressions.", ("window",), pick(lambda v: v.base_rate)
        ),
        Family(
            "scored_impressions",
            "Impressions covered by the progressive metrics.",
            ("window",),
            pick(lambda v: v.events),
        ),
    )


def behind(now: float) -> Family:
    """Age at time ``now`` (Unix time in seconds) of the last applied event; never negative."""
    return Family(
        "behind_seconds",
        "Wall time minus the event time up to which the stream has been applied.",
        (),
        lambda n: [] if n.watermark_ms is None else one(max(0.0, now - n.watermark_ms / 1000.0)),
    )


COUNTERS: Final[tuple[Family, ...]] = (
    Family(
        "events",
        "Events by outcome.",
        ("outcome",),
        lambda n: [((outcome,), float(count)) for outcome, count in sorted(n.events.items())],
    ),
    Family(
        "applied_entries",
        "Entries of the log applied to the state.",
        (),
        lambda n: one(n.applied_entries),
    ),
    Family(
        "joined_click_value",
        "Sum of the values of the clicks that made their impressions positive.",
        (),
        lambda n: one(n.joined_value),
    ),
    Family(
        "non_finite_updates",
        "Updates skipped because they were not finite.",
        (),
        lambda n: one(n.non_finite_updates),
    ),
    Family(
        "snapshot_failures",
        "Snapshots that were not published: writing failed, or predictions were not finite.",
        (),
        lambda n: one(n.snapshot_failures),
    ),
    Family(
        "drifts",
        "Changes of the progressive log loss detected by ADWIN: worse (higher) or better (lower).",
        ("direction",),
        lambda n: [(("worse",), float(n.drifts_worse)), (("better",), float(n.drifts_better))],
    ),
    Family(
        "dead_letters",
        "Records that could not be processed, by class of reason.",
        ("reason",),
        lambda n: [((reason,), float(count)) for reason, count in sorted(n.dead_letters.items())],
    ),
    Family(
        "read_records",
        "Records read since startup, by kind: impressions (or labelled records) and clicks.",
        ("kind",),
        lambda n: [((kind,), float(count)) for kind, count in sorted(n.read.items())],
    ),
    Family(
        "features_ignored",
        "Features of learned impressions that are not in the schema, by name.",
        ("field",),
        lambda n: [((name,), float(count)) for name, count in sorted(n.features_ignored.items())],
    ),
    Family(
        "values_truncated",
        "Values of multi-valued fields dropped because they exceed the field's max_values.",
        (),
        lambda n: one(n.values_truncated),
    ),
)

GAUGES: Final[tuple[Family, ...]] = (
    Family(
        "trainer_info",
        "Always 1; learn_from is all, or own if only impressions answered by the arm are learned.",
        ("learn_from",),
        lambda n: [((n.learn_from,), 1.0)],
    ),
    Family(
        "log_lag_entries",
        "Entries of the log not yet applied.",
        ("topic", "partition"),
        lambda n: [((tp.topic, str(tp.partition)), float(lag)) for tp, lag in sorted(n.lag_entries.items())],
    ),
    Family("vocabulary_rows", "Embedding rows in use.", (), lambda n: one(n.vocabulary_rows)),
    Family("open_impressions", "Impressions waiting for their label.", (), lambda n: one(n.open_impressions)),
    Family("joiner_memory_bytes", "Memory used by the joiner's records.", (), lambda n: one(n.joiner_bytes)),
    Family(
        "joiner_segment_bytes",
        "Size of the files to which the joiner spills records.",
        (),
        lambda n: one(n.joiner_segment_bytes),
    ),
    Family(
        "checkpoint_timestamp_seconds",
        "Unix time of the last complete checkpoint.",
        (),
        lambda n: one(n.checkpoint_seconds),
    ),
    Family(
        "snapshot_timestamp_seconds",
        "Unix time of the last published snapshot.",
        (),
        lambda n: one(n.snapshot_seconds),
    ),
    Family(
        "drift_detected",
        "1 if the progressive log loss has risen recently, else 0.",
        (),
        lambda n: one(n.drift_detected),
    ),
    Family(
        "recent_loss_ratio",
        "Fraction of the most recent impressions or clicks that were read but not used, by loss.",
        ("loss",),
        lambda n: [((loss,), share) for loss, share in sorted(n.loss_shares.items())],
    ),
    Family(
        "loss_warning",
        "1 if a loss is above losses.warn_share, else 0.",
        ("loss",),
        lambda n: [((loss,), float(warns)) for loss, warns in sorted(n.loss_warnings.items())],
    ),
    *metric_gauges(),
    *spread_gauges(
        "feature_occurrences", "the occurrences of a feature over all rows", lambda n: n.feature_counts
    ),
    *spread_gauges(
        "radius_ratio",
        "the perturbation radii of rows, relative to their field's largest",
        lambda n: n.radius_ratios,
    ),
)
