"""Prometheus metrics of records read and lost, for jobs other than trainers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

JOIN_PREFIX: Final = "stream_ctr_join_"


class LossNumbers(NamedTuple):
    """Records that a run has read and lost at one moment."""

    read: Mapping[str, int]
    """Records read since startup, by kind: impressions and clicks."""
    shares: Mapping[str, float]
    """Fraction of the recent records that were lost, by loss."""
    warnings: Mapping[str, bool]
    """Whether the loss is a warning, by loss."""


def loss_families(prefix: str, numbers: LossNumbers | None) -> Iterator[Metric]:
    """The three metric families; without samples before the first numbers."""
    read = CounterMetricFamily(
        f"{prefix}read_records",
        "Records read since startup, by kind: impressions and clicks.",
        labels=("kind",),
    )
    share = GaugeMetricFamily(
        f"{prefix}recent_loss_ratio",
        "Fraction of the most recent impressions or clicks that were read but not used, by loss.",
        labels=("loss",),
    )
    warning = GaugeMetricFamily(
        f"{prefix}loss_warning", "1 if a loss is above losses.warn_share, else 0.", labels=("loss",)
    )
    if numbers is not None:
        for family, values in ((read, numbers.read), (share, numbers.shares), (warning, numbers.warnings)):
            for label, value in values.items():
                family.add_metric((label,), float(value))
    yield from (read, share, warning)


class LossMetrics(Collector):
    """Exposes the last published numbers.

    >>> metrics = LossMetrics("stream_ctr_join_")
    >>> metrics.publish(LossNumbers({"clicks": 3}, {}, {}))
    >>> [sample.value for family in metrics.collect() for sample in family.samples]
    [3.0]
    """

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._numbers: LossNumbers | None = None

    def publish(self, numbers: LossNumbers) -> None:
        """Replace the numbers."""
        self._numbers = numbers

    def collect(self) -> Iterator[Metric]:
        """The metric families."""
        return loss_families(self._prefix, self._numbers)
