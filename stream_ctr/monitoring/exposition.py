"""Exposes the numbers of trainers as Prometheus metrics."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from stream_ctr.monitoring.families import COUNTERS, GAUGES, PREFIX, behind
from stream_ctr.monitoring.trainer_numbers import BOUNDS_SECONDS, TrainerNumbers
from stream_ctr.pipeline.joining.delays import DELAY_BOUNDS_SECONDS


class TrainerMetrics(Collector):
    """Exposes the last numbers that each arm's trainer published.

    >>> metrics = TrainerMetrics()
    >>> metrics.publish(TrainerNumbers(arm="main", vocabulary_rows=7))
    >>> [s.value for m in metrics.collect() if m.name == "stream_ctr_vocabulary_rows" for s in m.samples]
    [7.0]
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        """``clock`` returns Unix time in seconds; ``behind_seconds`` grows with it if a trainer hangs."""
        self._clock = clock
        self._arms: dict[str, TrainerNumbers] = {}

    def publish(self, numbers: TrainerNumbers) -> None:
        """Replace the numbers of an arm, by one assignment, which is safe for concurrent readers."""
        self._arms = {**self._arms, numbers.arm: numbers}

    def collect(self) -> Iterator[Metric]:
        """All metric families, with samples of each arm."""
        arms = self._arms
        for family in COUNTERS:
            counter = CounterMetricFamily(PREFIX + family.name, family.help, labels=("arm", *family.labels))
            for arm, numbers in arms.items():
                for labels, value in family.read(numbers):
                    counter.add_metric((arm, *labels), value)
            yield counter
        for family in (*GAUGES, behind(self._clock())):
            gauge = GaugeMetricFamily(PREFIX + family.name, family.help, labels=("arm", *family.labels))
            for arm, numbers in arms.items():
                for labels, value in family.read(numbers):
                    if not math.isnan(value):
                        gauge.add_metric((arm, *labels), value)
            yield gauge
        learn = HistogramMetricFamily(
            PREFIX + "learn_duration_seconds", "Wall time to predict and learn one event.", labels=("arm",)
        )
        for arm, numbers in arms.items():
            learn.add_metric((arm,), cumulative(numbers.learn.counts), numbers.learn.sum_seconds)
        yield learn
        delays = HistogramMetricFamily(
            PREFIX + "label_delay_seconds",
            "Event time from an impression to the click that made it positive.",
            labels=("arm",),
        )
        for arm, numbers in arms.items():
            if numbers.label_delays:
                buckets = cumulative(numbers.label_delays, DELAY_BOUNDS_SECONDS)
                delays.add_metric((arm,), buckets, numbers.label_delay_sum_seconds)
        yield delays


def cumulative(
    counts: tuple[int, ...], bounds: tuple[float, ...] = BOUNDS_SECONDS
) -> list[tuple[str, float]]:
    """Cumulative buckets as Prometheus expects: for each bound, the count of values up to it."""
    names = (*(f"{bound:g}" for bound in bounds), "+Inf")
    total, out = 0, []
    for name, count in zip(names, counts, strict=True):
        total += count
        out.append((name, float(total)))
    return out
