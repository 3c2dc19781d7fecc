"""The experiment's figures as Prometheus metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from stream_ctr.experiments.report.model import Bounded, Report
from stream_ctr.experiments.watcher.figures import DEFINITIONS
from stream_ctr.monitoring.loss_metrics import LossNumbers, loss_families

PREFIX: Final = "stream_ctr_experiment_"
_ENDS: Final = (
    ("", "estimate"),
    ("_low", "lower end of the always-valid interval"),
    ("_high", "upper end of the always-valid interval"),
)


class ExperimentMetrics(Collector):
    """Exports the latest report.

    Figures of an arm over closed windows: ``stream_ctr_experiment_ctr{arm}`` and so on for every figure, with
    ``_low`` and ``_high``. Figures of a comparison with the control:
    ``stream_ctr_experiment_ctr_difference{arm}`` and so on.
    """

    def __init__(
        self, latest: Callable[[], Report | None], losses: Callable[[], LossNumbers | None] = lambda: None
    ) -> None:
        """``losses`` returns the numbers of records read and lost in this run of the watcher so far."""
        self._latest, self._losses = latest, losses

    def collect(self) -> Iterator[Metric]:
        """All metric families, with a sample for each arm."""
        yield from loss_families(PREFIX, self._losses())
        report = self._latest()
        if report is None:
            return
        yield from _counts(report)
        yield from _progress(report)
        for definition in DEFINITIONS:
            name, title = definition.name, f"{definition.title} ({definition.unit})"
            own = {arm.name: arm.figures[name] for arm in report.arms if name in arm.figures}
            yield from _bounded(name, title, own)
            compared: dict[str, Bounded] = {
                each.arm: each.figures[name] for each in report.comparisons if name in each.figures
            }
            uplift = definition.unit == "relative"
            suffix, text = ("", title) if uplift else ("_difference", f"{title}, minus the control's")
            yield from _bounded(name + suffix, text, compared)


def _counts(report: Report) -> Iterator[Metric]:
    shown = _counter("impressions", "Impressions of the arm's users with settled labels.", "arm")
    clicks = _counter("clicks", "Clicks on these impressions.", "arm")
    users = _gauge("users", "Distinct users assigned to the arm.", "arm")
    reasons = _counter(
        "exposures", "Impressions of the arm's users by the reason why an arm answered.", "arm", "reason"
    )
    for arm in report.arms:
        shown.add_metric([arm.name], arm.impressions)
        clicks.add_metric([arm.name], arm.clicks)
        users.add_metric([arm.name], arm.users)
        for reason, count in arm.reasons.items():
            reasons.add_metric([arm.name, reason], count)
    of_user = _gauge(
        "heaviest_user_share",
        "Share of the arm's impressions from its most active user, before the per-user cap.",
        "arm",
    )
    effective = _gauge(
        "effective_users",
        "Effective number of users: squared number of counted impressions over the sum of squares by user.",
        "arm",
    )
    over = _counter("over_cap_impressions", "Impressions over the per-user cap, which do not count.", "arm")
    faulty = _gauge("excluded_share", "Share of the arm's impressions excluded because of a fault.", "arm")
    for arm in report.arms:
        over.add_metric([arm.name], arm.over_cap)
        for family, value in ((of_user, arm.heaviest_share), (effective, arm.effective_users)):
            if value is not None:
                family.add_metric([arm.name], value)
    for name, share in report.sample_ratio.excluded.items():
        faulty.add_metric([name], share)
    excluded = _counter("excluded_impressions", "Impressions excluded from all comparisons.", "reason")
    for reason, count in report.excluded.items():
        excluded.add_metric([reason], count)
    yield from (shown, clicks, users, reasons, of_user, effective, over, faulty, excluded)


def _progress(report: Report) -> Iterator[Metric]:
    split, progress = report.sample_ratio, report.progress
    values = [
        ("sample_ratio_p_value", "Smallest always-valid p-value of the sample-ratio test so far.", split.p),
        (
            "sample_ratio_sound",
            "1 without a sample-ratio mismatch and with the share of excluded impressions within its limit.",
            float(split.sound),
        ),
        ("lag_entries", "Log entries that the watcher has not applied yet.", progress.lag_entries),
        ("open_impressions", "Impressions that await their label.", progress.open_impressions),
        ("log_up", "1 if the log is available to the watcher.", float(progress.log_up)),
        ("report_timestamp_seconds", "Unix time of the latest report.", report.generated_ms / 1000.0),
        ("log_gaps", "Spans in which servers could not log impressions.", float(len(report.gaps))),
    ]
    if progress.watermark_ms is not None:
        text = "Event time that the watcher has reached."
        values.append(("watermark_timestamp_seconds", text, progress.watermark_ms / 1000.0))
    if progress.behind_seconds is not None:
        text = "Wall-clock time of the report minus the event time reached."
        values.append(("behind_seconds", text, progress.behind_seconds))
    if progress.final_until_ms is not None:
        text = "End of the last closed window; metrics cover impressions shown before it."
        values.append(("final_timestamp_seconds", text, progress.final_until_ms / 1000.0))
    for name, text, value in values:
        yield GaugeMetricFamily(PREFIX + name, text, value=value)


def _bounded(name: str, title: str, figures: dict[str, Bounded]) -> Iterator[Metric]:
    if not figures:
        return
    for suffix, end in _ENDS:
        family = _gauge(name + suffix, f"{title}: {end}.", "arm")
        for arm, figure in figures.items():
            value = (figure.low if suffix == "_low" else figure.high) if suffix else figure.estimate
            if value is not None:
                family.add_metric([arm], value)
        yield family


def _gauge(name: str, text: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(PREFIX + name, text, labels=labels)


def _counter(name: str, text: str, *labels: str) -> CounterMetricFamily:
    return CounterMetricFamily(PREFIX + name, text, labels=labels)
