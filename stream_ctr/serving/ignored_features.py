"""What the server leaves out of the features that it is sent, for its log and for Prometheus."""

from __future__ import annotations

import logging
from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector, CollectorRegistry

from stream_ctr.config.features import UnknownFeatures
from stream_ctr.features.keys.tally import Tally

logger = logging.getLogger("stream_ctr.serving")


class _Counts(Collector):
    """Reads the counts when Prometheus asks, so that a request only counts."""

    def __init__(self, tally: Tally) -> None:
        self._tally = tally

    def collect(self) -> Iterator[CounterMetricFamily]:
        """The two counters."""
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
    """A tally whose counts Prometheus reads; each unknown feature is logged once."""
    tally = Tally(unknown, _warn)
    registry.register(_Counts(tally))
    return tally


def _warn(name: str) -> None:
    logger.warning(
        "feature %r is ignored: no field of the schema has that name; further ones are counted. "
        "Add it to features.fields, stop sending it, or set features.unknown = 'refuse'",
        name,
    )
