"""What the server tells Prometheus about its routing."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge

PREFIX = "stream_ctr_serve_"


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
        """One ranking was answered."""
        child = self._children.get((arm, reason))
        if child is None:
            child = self._children[arm, reason] = self._routed.labels(arm, reason)
        child.inc()
