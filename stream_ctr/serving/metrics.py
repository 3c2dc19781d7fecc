"""Prometheus metrics of the server."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from stream_ctr.config.features import UnknownFeatures
from stream_ctr.features.keys.tally import Tally

logger = logging.getLogger("stream_ctr.serving")

CONTENT_TYPE: Final = b"text/plain; version=0.0.4; charset=utf-8"
NO_ARM: Final = ""
"""Label of a request that was rejected before it had an arm."""
SECONDS: Final = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)

PREFIX = "stream_ctr_serve_"


class ServeMetrics:
    """The server's metrics, in a separate registry.

    The series that requests update are cached, because looking one up costs more than counting.
    """

    def __init__(self, unknown: UnknownFeatures = "ignore") -> None:
        """``unknown``: how features that are not in the schema are handled."""
        self.registry = CollectorRegistry()
        self.left_out = watched_tally(unknown, self.registry)
        self._make_answers(self.registry)
        self._make_snapshots(self.registry)
        self._make_impressions(self.registry)
        self._make_process(self.registry)
        self.routing = RoutingMetrics(self.registry)
        ProcessCollector(registry=self.registry)
        self._counted: dict[tuple[int, str], Counter] = {}
        self._answered: dict[str, Histogram] = {}
        self._predicted: dict[str, Counter] = {}

    def _make_answers(self, registry: CollectorRegistry) -> None:
        self._requests = Counter(
            "stream_ctr_serve_requests",
            "Rank requests by status code and arm.",
            ["code", "arm"],
            registry=registry,
        )
        self._inferences = Counter(
            "stream_ctr_serve_infer_requests",
            "Requests of the Open Inference Protocol by status code and model.",
            ["code", "model"],
            registry=registry,
        )
        self._seconds = Histogram(
            "stream_ctr_serve_request_duration_seconds",
            "Time from the headers of a rank request to its response.",
            ["arm"],
            buckets=SECONDS,
            registry=registry,
        )
        self._predictions = Counter(
            "stream_ctr_serve_predictions", "Probabilities computed.", ["arm"], registry=registry
        )
        self.clients_ahead = Counter(
            "stream_ctr_serve_clients_ahead",
            "Rankings whose ts_ms was ahead of the server's clock and was replaced by that clock.",
            registry=registry,
        )
        self.non_finite = Counter(
            "stream_ctr_serve_non_finite_predictions",
            "Predictions of an arm that failed or were not finite for some candidate.",
            ["arm"],
            registry=registry,
        )
        self.fallbacks = Counter(
            "stream_ctr_serve_fallbacks",
            "Requests for this arm that the control arm answered because the arm could not.",
            ["arm"],
            registry=registry,
        )

    def _make_snapshots(self, registry: CollectorRegistry) -> None:
        self.snapshot_version = Gauge(
            "stream_ctr_serve_snapshot_version",
            "Version of the snapshot in use.",
            ["arm"],
            registry=registry,
        )
        self.snapshot_created = Gauge(
            "stream_ctr_serve_snapshot_created_timestamp_seconds",
            "Unix time at which the snapshot in use was written.",
            ["arm"],
            registry=registry,
        )
        self.snapshot_event_time = Gauge(
            "stream_ctr_serve_snapshot_event_timestamp_seconds",
            "Event time up to which the snapshot in use has learned.",
            ["arm"],
            registry=registry,
        )
        self.snapshot_stale = Gauge(
            "stream_ctr_serve_snapshot_stale",
            "1 if the arm's newest snapshot is missing or unusable.",
            ["arm"],
            registry=registry,
        )
        self.snapshot_failures = Counter(
            "stream_ctr_serve_snapshot_failures", "Snapshots that were rejected.", ["arm"], registry=registry
        )

    def _make_impressions(self, registry: CollectorRegistry) -> None:
        self.impressions_logged = Counter(
            "stream_ctr_serve_impressions_logged",
            "Impressions acknowledged by the log.",
            registry=registry,
        )
        self.impressions_dropped = Counter(
            "stream_ctr_serve_impressions_dropped",
            "Impressions dropped because the queue was full or the server stopped.",
            registry=registry,
        )
        self.log_failures = Counter(
            "stream_ctr_serve_log_failures", "Failed appends to the log.", registry=registry
        )
        self.log_up = Gauge(
            "stream_ctr_serve_log_up", "1 if the event log accepts impressions.", registry=registry
        )
        self._queue = Gauge(
            "stream_ctr_serve_impressions_queued", "Impressions queued for the log.", registry=registry
        )
        self._queue_bytes = Gauge(
            "stream_ctr_serve_impressions_queued_bytes",
            "Memory of the impressions queued for the log, including those being appended.",
            registry=registry,
        )

    def _make_process(self, registry: CollectorRegistry) -> None:
        self.replaced = Counter(
            "stream_ctr_serve_worker_replacements",
            "Restarts of the worker on this port, by cause: ended or hung.",
            ["cause"],
            registry=registry,
        )
        self.tls_reloads = Counter(
            "stream_ctr_serve_tls_reloads", "Renewed TLS certificates that were loaded.", registry=registry
        )
        self.tls_stale = Gauge(
            "stream_ctr_serve_tls_stale",
            "1 if the renewed TLS certificate could not be loaded and the previous one is still in use.",
            registry=registry,
        )

    def watch_queue(self, waiting: Callable[[], float], waiting_bytes: Callable[[], float]) -> None:
        """Read the queue of impressions at each scrape: its length, and its size in bytes."""
        self._queue.set_function(waiting)
        self._queue_bytes.set_function(waiting_bytes)

    def count_request(self, code: int, arm: str) -> None:
        """Count a rank request with this status code."""
        child = self._counted.get((code, arm))
        if child is None:
            child = self._counted[code, arm] = self._requests.labels(str(code), arm)
        child.inc()

    def count_inference(self, code: int, model: str) -> None:
        """Count a request of the Open Inference Protocol with this status code."""
        self._inferences.labels(str(code), model).inc()

    def observe_answer(self, arm: str, seconds: float) -> None:
        """Record the duration of one ranking."""
        child = self._answered.get(arm)
        if child is None:
            child = self._answered[arm] = self._seconds.labels(arm)
        child.observe(seconds)

    def count_predictions(self, arm: str, count: int) -> None:
        """Count the probabilities that an arm has computed."""
        child = self._predicted.get(arm)
        if child is None:
            child = self._predicted[arm] = self._predictions.labels(arm)
        child.inc(count)

    def render(self) -> bytes:
        """The metrics in Prometheus' text format."""
        return generate_latest(self.registry)


class RoutingMetrics:
    """Metrics of assignment, kill switch, shadows and configuration, in the server's registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(PREFIX + name, text, labels, registry=registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(PREFIX + name, text, labels, registry=registry)

        self._routed = counter("routed", "Rankings by the arm that answered and the reason.", "arm", "reason")
        self.kills = counter("kills", "Kills of an arm seen by this process, by cause.", "arm", "cause")
        self.killed = gauge("arm_killed", "1 if the arm is killed.", "arm")
        self.share = gauge("arm_share", "Share of all users assigned to the arm.", "arm")
        self.override_refusals = counter("override_refusals", "Override headers that were rejected.")
        self.arm_failures = counter("arm_failures", "Predictions of an arm that raised an error.", "arm")
        self.shadow_predictions = counter(
            "shadow_predictions", "Impressions predicted by a shadow arm.", "arm"
        )
        self.shadow_skips = counter(
            "shadow_skips",
            "Impressions that a shadow arm should have predicted but skipped.",
            "arm",
        )
        self.sampling = gauge(
            "sampling_probability", "Probability that a sampled event is assigned to the arm.", "arm"
        )
        self.config_stale = gauge(
            "config_stale", "1 if the present configuration file was rejected and an earlier one is in use."
        )
        self.config_reloads = counter("config_reloads", "Experiments applied from the configuration file.")
        self.config_failures = counter("config_failures", "Configurations that were rejected.")
        self.control_stale = gauge(
            "control_stale", "1 if the file of the kill switch cannot be read or written."
        )
        self.sums_stale = gauge("sums_stale", "1 if the watcher's sums cannot be read.")
        self.sums_written = gauge(
            "sums_timestamp_seconds", "Unix time at which the watcher's sums in use were written."
        )
        self.log_gaps = counter("log_gaps", "Periods in which impressions could not be logged.")
        self._children: dict[tuple[str, str], Counter] = {}

    def count_routed(self, arm: str, reason: str) -> None:
        """Count one ranking by arm and reason."""
        child = self._children.get((arm, reason))
        if child is None:
            child = self._children[arm, reason] = self._routed.labels(arm, reason)
        child.inc()


class _Counts(Collector):
    """Exposes the counts at each scrape, so that a request only has to count."""

    def __init__(self, tally: Tally) -> None:
        self._tally = tally

    def collect(self) -> Iterator[CounterMetricFamily]:
        """The counters of ignored features and of truncated values."""
        ignored = CounterMetricFamily(
            "stream_ctr_serve_features_ignored",
            "Features in requests that are not in the schema, by name.",
            labels=["field"],
        )
        for name, count in self._tally.ignored.copy().items():
            ignored.add_metric([name], count)
        yield ignored
        yield CounterMetricFamily(
            "stream_ctr_serve_values_truncated",
            "Values of multi-valued fields in requests dropped because they exceed the field's max_values.",
            value=self._tally.truncated,
        )


def watched_tally(unknown: UnknownFeatures, registry: CollectorRegistry) -> Tally:
    """A tally exposed to Prometheus; each unknown feature is logged once."""
    tally = Tally(unknown, _warn)
    registry.register(_Counts(tally))
    return tally


def _warn(name: str) -> None:
    logger.warning(
        "feature %r is ignored: it is not in the schema; further occurrences are only counted. "
        "Add it to features.fields, stop sending it, or set features.unknown = 'refuse'",
        name,
    )
