"""The join stage: ordered entries in, impressions and their labels out.

The trainer, the experiment's watcher and the joining process each hold one. The stage knows the order's
progress and the joiner; what an impression means is up to the owner, who reads the stage as a loop:

    for item in stage.apply(entries):
        if isinstance(item, Labelled):
            ...  # a label became known; item.payload is what was held for it
        else:
            stage.hold(item, payload)  # an admitted impression; payload comes back with its label

The state after n entries is a function of these n entries and the configuration, whatever chunks they came
in.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from stream_ctr.config.join import JoinConfig
from stream_ctr.events.log import Entry
from stream_ctr.events.records import Click, Impression, LabelledImpression, ScannedImpression
from stream_ctr.pipeline.joining.joiner import Joiner, Labelled
from stream_ctr.pipeline.joining.segments import SegmentFolder, SegmentName
from stream_ctr.pipeline.ordering.entry import OrderedEntry
from stream_ctr.pipeline.ordering.progress import Progress
from stream_ctr.pipeline.stage import JoinNumbers, topic_partitions
from stream_ctr.state.state import State


class Admitted(NamedTuple):
    """An impression that is new and in time."""

    record: Impression | ScannedImpression
    entry: Entry
    row: NDArray[np.uint64] | None
    """Keys of a scanned impression, as :meth:`.keys.encoder.KeyEncoder.complete` takes them."""


class JoinStage:
    """Joins the clicks of one topic to the impressions of another.

    Args:
        join: window, grace, horizon and release of the labels.
        impressions_topic, clicks_topic: the two topics; each has ``partitions`` partitions.
        segments: where the joiner's memory beyond its budget goes; without it, all of it stays in memory.

    >>> stage = JoinStage(JoinConfig(), "impressions", "clicks", partitions=1)
    >>> stage.open_impressions, list(stage.apply([]))
    (0, [])
    """

    def __init__(
        self,
        join: JoinConfig,
        impressions_topic: str,
        clicks_topic: str,
        partitions: int,
        segments: SegmentFolder | None = None,
    ) -> None:
        self.progress = Progress(topic_partitions((impressions_topic, clicks_topic), partitions))
        self.joiner = Joiner(join, segments)
        self._known: Labelled | None = None

    @property
    def watermark_ms(self) -> int:
        """Event time up to which labels are settled, plus window and grace."""
        return self.joiner.watermark_ms

    @property
    def open_impressions(self) -> int:
        """Impressions that wait for their label."""
        return self.joiner.open_impressions

    @property
    def outcomes(self) -> dict[str, int]:
        """Counters: entries, rejected and skipped entries, admitted impressions, and those of the joiner."""
        return {
            "entries": self.progress.applied,
            "rejected": self.progress.rejected,
            "skipped": self.progress.skipped,
            "impressions": self.joiner.impressions,
            **self.joiner.outcomes,
        }

    def segments(self) -> list[SegmentName]:
        """Files in use: a checkpoint of :meth:`parts` must keep them."""
        return self.joiner.segments()

    def numbers(self) -> JoinNumbers:
        """Memory, value and delays of the joiner, for Prometheus."""
        joiner = self.joiner
        return JoinNumbers(
            memory_bytes=joiner.memory_bytes,
            segment_bytes=sum(segment.bytes for segment in joiner.segments()),
            joined_value=joiner.joined_value,
            delay_counts=tuple(joiner.delays.counts),
            delay_sum_seconds=joiner.delays.sum_ms / 1000.0,
        )

    def apply(self, entries: Sequence[OrderedEntry]) -> Iterator[Admitted | Labelled]:
        """Apply the next entries of the order; the iterator must be read to its end.

        Yields each label at the place where it becomes known, and each admitted impression at its own place,
        for :meth:`hold` or ``progress.reject``. Entries without a usable record are rejected.

        Raises:
            StateError: these are not the entries that follow the ones applied so far.
        """
        if not entries:
            return
        self.progress.check_next(entries)
        joiner = self.joiner
        for ordered in entries:
            entry, record = ordered.entry, ordered.record
            if entry is None:
                yield from joiner.flush()
                continue
            if ordered.time_ms > joiner.watermark_ms:
                yield from joiner.advance(ordered.time_ms)
            if record is None:
                self.progress.reject(entry, ordered.reason)
            elif isinstance(record, Click):
                labelled = joiner.click(record.event_id, record.ts_ms, record.value)
                if labelled is not None:
                    yield labelled
            elif isinstance(record, LabelledImpression):
                self.progress.reject(entry, "a labelled impression does not belong in this topic")
            elif joiner.admits(record.event_id, record.ts_ms):
                yield Admitted(record, entry, ordered.row)
                if self._known is not None:
                    labelled, self._known = self._known, None
                    yield labelled
        self.progress.note(entries)

    def hold(self, admitted: Admitted, payload: bytes) -> None:
        """Hold the impression that :meth:`apply` has just yielded until its label is known.

        If a click that came first settles the label, :meth:`apply` yields that next.
        """
        record = admitted.record
        self._known = self.joiner.hold(record.event_id, record.ts_ms, payload)

    def parts(self) -> dict[str, State]:
        """Everything that decides what comes next, by part."""
        return {"join": self.joiner.state(), "order": State({}, self.progress.values())}

    def load_parts(self, state: State) -> None:
        """Become the stage whose :meth:`parts` were gathered into ``state``; other parts are ignored.

        Raises:
            StateError: it is damaged, or belongs to other topics or partitions.
        """
        progress = self.progress.loaded(state.part("order").values)
        self.joiner.load_state(state.part("join"))
        self.progress = progress
