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
            "Time from a rank request's headers to its answer.",
            ["arm"],
            buckets=SECONDS,
            registry=registry,
        )
        self._predictions = Counter(
            "stream_ctr_serve_predictions", "Probabilities computed.", ["arm"], registry=registry
        )
        self.clients_ahead = Counter(
            "stream_ctr_serve_clients_ahead",
            "Rankings whose ts_ms was ahead of the server's clock and was replaced by it.",
            registry=registry,
        )
        self.non_finite = Counter(
            "stream_ctr_serve_non_finite_predictions",
            "Times that an arm was asked and gave no finite number for some candidate, or failed.",
            ["arm"],
            registry=registry,
        )
        self.fallbacks = Counter(
            "stream_ctr_serve_fallbacks",
            "Requests of this arm's users that the control arm answered.",
            ["arm"],
            registry=registry,
        )

    def _make_snapshots(self, registry: CollectorRegistry) -> None:
        self.snapshot_version = Gauge(
            "stream_ctr_serve_snapshot_version",
            "Version of the snapshot that serves.",
            ["arm"],
            registry=registry,
        )
        self.snapshot_created = Gauge(
            "stream_ctr_serve_snapshot_created_timestamp_seconds",
            "When the snapshot that serves was written.",
            ["arm"],
            registry=registry,
        )
        self.snapshot_event_time = Gauge(
            "stream_ctr_serve_snapshot_event_timestamp_seconds",
            "Event time up to which the snapshot that serves has learned.",
            ["arm"],
            registry=registry,
        )
        self.snapshot_stale = Gauge(
            "stream_ctr_serve_snapshot_stale",
            "1 while the arm's newest snapshot is missing or cannot be used.",
            ["arm"],
            registry=registry,
        )
        self.snapshot_failures = Counter(
            "stream_ctr_serve_snapshot_failures", "Snapshots that were refused.", ["arm"], registry=registry
        )

    def _make_impressions(self, registry: CollectorRegistry) -> None:
        self.impressions_logged = Counter(
            "stream_ctr_serve_impressions_logged",
            "Impressions that the log has acknowledged.",
            registry=registry,
        )
        self.impressions_dropped = Counter(
            "stream_ctr_serve_impressions_dropped",
            "Impressions lost to a full queue or at exit.",
            registry=registry,
        )
        self.log_failures = Counter(
            "stream_ctr_serve_log_failures", "Appends that the log did not acknowledge.", registry=registry
        )
        self.log_up = Gauge(
            "stream_ctr_serve_log_up", "1 while the event log takes impressions.", registry=registry
        )
        self._queue = Gauge(
            "stream_ctr_serve_impressions_queued", "Impressions waiting for the log.", registry=registry
        )
        self._queue_bytes = Gauge(
            "stream_ctr_serve_impressions_queued_bytes",
            "Memory of the impressions that wait for the log, those of the append under way included.",
            registry=registry,
        )

    def _make_process(self, registry: CollectorRegistry) -> None:
        self.replaced = Counter(
            "stream_ctr_serve_worker_replacements",
            "Times that the worker of this port was started anew, by why: ended, or hung.",
            ["cause"],
            registry=registry,
        )
        self.tls_reloads = Counter(
            "stream_ctr_serve_tls_reloads", "Renewed certificates that were taken.", registry=registry
        )
        self.tls_stale = Gauge(
            "stream_ctr_serve_tls_stale",
            "1 while the certificate's files cannot be used and those of before serve.",
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

        self._routed = counter(
            "routed", "Rankings by the arm that answered and by why it did.", "arm", "reason"
        )
        self.kills = counter("kills", "Times that this process saw an arm killed, by cause.", "arm", "cause")
        self.killed = gauge("arm_killed", "1 while the arm is killed.", "arm")
        self.share = gauge("arm_share", "Share of all users that the arm owns.", "arm")
        self.override_refusals = counter("override_refusals", "Override headers that were refused.")
        self.arm_failures = counter("arm_failures", "Predictions of an arm that ended in an error.", "arm")
        self.shadow_predictions = counter(
            "shadow_predictions", "Impressions that a shadow arm has predicted.", "arm"
        )
        self.shadow_skips = counter(
            "shadow_skips", "Impressions that a shadow arm should have predicted and did not.", "arm"
        )
        self.sampling = gauge(
            "sampling_probability", "Probability of the arm for events that are sampled.", "arm"
        )
        self.config_stale = gauge(
            "config_stale", "1 while the configuration file is not the one that serves."
        )
        self.config_reloads = counter("config_reloads", "Experiments taken over from the file.")
        self.config_failures = counter("config_failures", "Configurations that were refused.")
        self.control_stale = gauge(
            "control_stale", "1 while the kill switch's file cannot be read or written."
        )
        self.sums_stale = gauge("sums_stale", "1 while the watcher's sums cannot be read.")
        self.sums_written = gauge("sums_timestamp_seconds", "When the sums that are used were written.")
        self.log_gaps = counter("log_gaps", "Spans in which impressions could not be logged.")
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
            "Features in requests that no field of the schema has, by name.",
            labels=["field"],
        )
        for name, count in self._tally.ignored.copy().items():
            ignored.add_metric([name], count)
        yield ignored
        yield CounterMetricFamily(
            "stream_ctr_serve_values_truncated",
            "Values of multi-valued fields in requests beyond the field's max_values.",
            value=self._tally.truncated,
        )


def watched_tally(unknown: UnknownFeatures, registry: CollectorRegistry) -> Tally:
    """A tally exposed to Prometheus; each unknown feature is logged once."""
    tally = Tally(unknown, _warn)
    registry.register(_Counts(tally))
    return tally


def _warn(name: str) -> None:
    logger.warning(
        "feature %r is ignored: no field of the schema has that name; further ones are counted. "
        "Add it to features.fields, stop sending it, or set features.unknown = 'refuse'",
        name,
    )
