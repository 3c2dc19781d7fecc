"""From the log's entries to the experiment: the trainer's own order and joiner, with no learner behind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from stream_ctr.config.features import FeaturesConfig, FieldConfig
from stream_ctr.config.join import JoinConfig
from stream_ctr.errors import ConfigError
from stream_ctr.events.dead_letter_replay import REPLAYED_HEADER
from stream_ctr.events.log import Entry
from stream_ctr.events.records import Impression, LabelledImpression
from stream_ctr.experiments.watcher.experiment import Experiment
from stream_ctr.pipeline.encode import Event
from stream_ctr.pipeline.joining.joiner import Labelled
from stream_ctr.pipeline.joining.segments import SegmentFolder
from stream_ctr.pipeline.labelled_stream import LabelledPipeline
from stream_ctr.pipeline.ordering.entry import OrderedEntry
from stream_ctr.pipeline.stream import NAN, Pipeline

_NO_FEATURES = (FieldConfig("unused"),)
"""The watcher looks at no feature; a schema has at least one."""
_NO_EVENT = Event(b"", 0, NAN, NAN, 0, 0, NAN)
"""What a label is to a learner, which there is none of."""


def settling(join: JoinConfig) -> JoinConfig:
    """The joiner's settings under which every label settles once, in the order of the impressions.

    How a trainer is shown labels before they are final is its own affair.
    """
    return replace(join, policy="wait", release="window")


class Watching(Pipeline):
    """What the two ways of reading have in common."""

    experiment: Experiment

    def watch(self, entries: Sequence[OrderedEntry]) -> list[tuple[Entry, str]]:
        """Apply the next entries of the order; those that are no usable records, each with its reason.

        Raises:
            StateError: these are not the entries that follow the ones applied so far.
        """
        # An end mark closes the window that is open there, so what comes behind it is another chunk.
        rejected: list[tuple[Entry, str]] = []
        start = 0
        for place, ordered in enumerate(entries):
            if ordered.entry is None:
                rejected += self._watch(entries[start : place + 1], ended=True)
                start = place + 1
        return rejected + self._watch(entries[start:], ended=False)

    def _watch(self, entries: Sequence[OrderedEntry], *, ended: bool) -> list[tuple[Entry, str]]:
        if not entries:
            return []
        rejected = self._collect(entries)[1]
        self.experiment.absorb(self.watermark_ms, ended=ended)
        return rejected


class WatchPipeline(Watching):
    """Joins impressions and clicks, and tells the experiment.

    Args:
        experiment: what to tell.
        join: label window and horizon.
        impressions_topic, clicks_topic: the two topics; each has ``partitions`` partitions.
        segments: where the joiner's memory goes beyond its budget.
    """

    def __init__(
        self,
        experiment: Experiment,
        join: JoinConfig,
        impressions_topic: str,
        clicks_topic: str,
        partitions: int,
        segments: SegmentFolder | None = None,
    ) -> None:
        names = impressions_topic, clicks_topic, partitions
        super().__init__(_NO_FEATURES, FeaturesConfig(), settling(join), "", *names, segments)
        self.experiment = experiment

    def _apply_record(self, ordered: OrderedEntry, events: list[Event]) -> str:
        record = ordered.record
        if not isinstance(record, Impression):
            return super()._apply_record(ordered, events)
        joiner = self.joiner
        if joiner.admits(record.event_id, record.ts_ms):
            payload = self.experiment.shown(record, max(record.ts_ms, joiner.watermark_ms))
            joiner.hold(record.event_id, record.ts_ms, payload)
        return ""

    def _labelled(self, labelled: Labelled) -> Event:
        time_ms = max(labelled.ts_ms, labelled.time_ms)
        self.experiment.settled(labelled.payload, labelled.number, time_ms, labelled.label)
        return _NO_EVENT


class LabelledWatchPipeline(LabelledPipeline, Watching):
    """The same over a topic of labelled impressions, which a process of its own joined.

    Raises:
        ConfigError: labels become known out of the order of the impressions.
    """

    def __init__(self, experiment: Experiment, join: JoinConfig, topic: str, partitions: int) -> None:
        if join.release != "window":
            raise ConfigError(
                f"join.release = {join.release!r}: the labelled topic then holds clicked impressions "
                "before the others, and no window of an experiment is whole; set 'window'"
            )
        super().__init__(_NO_FEATURES, FeaturesConfig(), join, "", topic, partitions)
        self.experiment = experiment

    def _apply_record(self, ordered: OrderedEntry, events: list[Event]) -> str:
        record, entry = ordered.record, ordered.entry
        if not isinstance(record, LabelledImpression) or entry is None:
            return ordered.reason
        replayed = any(name == REPLAYED_HEADER for name, _ in entry.headers)
        if not replayed and not self._follows(entry.partition, record.sequence):
            return ""
        # A label is told at the end of its window, so that its window began so much earlier.
        time_ms = max(0, ordered.time_ms - self.joiner.window_ms)
        number = self._counts["impressions"]
        payload = self.experiment.shown(record.impression, time_ms)
        self.experiment.settled(payload, number, time_ms, float(record.label))
        self._counts["impressions"] += 1
        self._counts["positives"] += record.label
        return ""
