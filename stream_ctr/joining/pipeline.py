"""The joiner as a fold of its own: ordered entries in, labelled records out.

It is the joiner that the trainer uses, on the same order; what it holds of an impression are its place in
the log and its bytes. Each labelled record goes to the partition of its impression and carries the next
sequence of that partition. Entries, journal and configuration determine the records: after a restart the
same ones come out with the same sequences.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from stream_ctr.config.features import FeaturesConfig, FieldConfig
from stream_ctr.config.join import JoinConfig
from stream_ctr.errors import StateError
from stream_ctr.events.log import Entry, Record
from stream_ctr.events.records import Impression
from stream_ctr.pipeline.decoding.labelled import labelled_value
from stream_ctr.pipeline.encode import Event
from stream_ctr.pipeline.joining.joiner import Labelled
from stream_ctr.pipeline.joining.segments import SegmentFolder
from stream_ctr.pipeline.labelled_stream import check_final
from stream_ctr.pipeline.ordering.entry import OrderedEntry
from stream_ctr.pipeline.stream import NAN, Pipeline
from stream_ctr.state.frozen import FrozenState
from stream_ctr.state.state import State

_NO_FEATURES = (FieldConfig("unused"),)
"""The joiner looks at no feature; a schema has at least one."""

_NO_EVENT = Event(b"", 0, NAN, NAN, 0, 0, NAN)
"""What a label is to the learner, which there is none of."""

_PLACE = struct.Struct("<iq")
"""Partition and offset, in front of the impression's bytes in what the joiner holds."""


@dataclass(frozen=True, slots=True)
class SequencedRecord:
    """A labelled record and its sequence in its partition."""

    record: Record
    partition: int
    sequence: int


@dataclass(frozen=True, slots=True)
class Joined:
    """What some entries came to."""

    records: list[SequencedRecord]
    """For the labelled topic, in order."""
    rejected: list[tuple[Entry, str]]
    """Entries for the dead letters, each with its reason."""


class JoinPipeline(Pipeline):
    """From impressions and clicks to labelled records.

    Args:
        join: label policy, which must be ``wait``: a labelled record is final.
        impressions_topic, clicks_topic: the two topics; each has ``partitions`` partitions.
        segments: where the joiner's memory goes beyond its budget.

    Raises:
        ConfigError: another label policy.
    """

    def __init__(
        self,
        join: JoinConfig,
        impressions_topic: str,
        clicks_topic: str,
        partitions: int,
        segments: SegmentFolder | None = None,
    ) -> None:
        check_final(join)
        super().__init__(
            _NO_FEATURES, FeaturesConfig(), join, "", impressions_topic, clicks_topic, partitions, segments
        )
        self._topic = impressions_topic
        self._known: list[Labelled] = []
        self.sequences = [0] * partitions
        """Sequence of the next record of each output partition."""

    def join(self, entries: Sequence[OrderedEntry]) -> Joined:
        """Apply the next entries of the order.

        Raises:
            StateError: these are not the entries that follow the ones applied so far.
        """
        joined = Joined([], [])
        for ordered in entries:  # one at a time, because its place is the time of the labels that it settles
            joined.rejected.extend(self._collect([ordered])[1])
            joined.records.extend(map(self._record, self._known))
            self._known.clear()
        return joined

    def _apply_record(self, ordered: OrderedEntry, events: list[Event]) -> str:
        record, entry = ordered.record, ordered.entry
        if not isinstance(record, Impression) or entry is None:
            return super()._apply_record(ordered, events)
        if self.joiner.admits(record.event_id, record.ts_ms):
            payload = _PLACE.pack(entry.partition, entry.offset) + (entry.value or b"")
            labelled = self.joiner.hold(record.event_id, record.ts_ms, payload)
            if labelled is not None:
                self._known.append(labelled)
        return ""

    def _labelled(self, labelled: Labelled) -> Event:
        self._known.append(labelled)
        return _NO_EVENT

    def _record(self, labelled: Labelled) -> SequencedRecord:
        partition, offset = _PLACE.unpack_from(labelled.payload)
        sequence = self.sequences[partition]
        self.sequences[partition] += 1
        # A label that a click did not settle is known when the window ends, whenever that is noticed.
        end_ms = max(labelled.time_ms, labelled.ts_ms) + self.joiner.window_ms
        ts_ms = min(self.joiner.watermark_ms, end_ms)
        source = (self._topic, partition, offset)
        value = labelled_value(labelled.payload[_PLACE.size :], int(labelled.label), ts_ms, source, sequence)
        return SequencedRecord(
            Record(labelled.event_id.encode(), value, ts_ms, partition), partition, sequence
        )

    def freeze(self) -> FrozenState:
        """The pipeline's state and the sequences."""
        inner = super().freeze()
        return FrozenState(inner.arrays, {**inner.values, "sequences": list(self.sequences)}, inner.views)

    def load_state(self, state: State) -> None:
        """Become the pipeline that handed out ``state``.

        Raises:
            StateError: it is damaged, or belongs to other topics or partitions.
        """
        super().load_state(state)
        sequences = state.values.get("sequences")
        numbers = [n for n in sequences if isinstance(n, int)] if isinstance(sequences, list) else []
        if len(numbers) != len(self.sequences):
            raise StateError(f"saved sequences of the joiner are missing or damaged: {sequences!r}")
        self.sequences = numbers
