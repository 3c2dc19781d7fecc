"""The joining process as a fold: ordered entries in, labelled records out.

It runs the trainer's join stage on the same order, and holds the log position and the bytes of each open
impression. Each labelled record goes to the partition of its impression and carries the next sequence number
of that partition. Entries, journal and configuration determine the records, so a restart produces the same
records with the same sequence numbers.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from stream_ctr.config.join import JoinConfig
from stream_ctr.errors import StateError
from stream_ctr.events.log import Entry, Record
from stream_ctr.pipeline.decoding.labelled import labelled_value
from stream_ctr.pipeline.join_stage import JoinStage
from stream_ctr.pipeline.joining.joiner import Labelled
from stream_ctr.pipeline.joining.segments import SegmentFolder
from stream_ctr.pipeline.labelled_stage import check_final
from stream_ctr.pipeline.ordering.entry import OrderedEntry
from stream_ctr.state.frozen import FrozenState
from stream_ctr.state.state import State

_PLACE: Final = struct.Struct("<iq")
"""Partition and offset; precede the impression's bytes in the payload that the stage holds."""


@dataclass(frozen=True, slots=True)
class SequencedRecord:
    """A labelled record and its sequence number within its partition."""

    record: Record
    partition: int
    sequence: int


@dataclass(frozen=True, slots=True)
class Joined:
    """The result of applying some entries."""

    records: list[SequencedRecord]
    """For the labelled topic, in order."""
    rejected: list[tuple[Entry, str]]
    """Entries for the dead letters, each with its reason."""


class JoinPipeline:
    """From impressions and clicks to labelled records.

    Args:
        join: label policy, which must be ``wait``: a labelled record is final.
        impressions_topic, clicks_topic: the two topics; each has ``partitions`` partitions.
        segments: stores the joiner's records beyond its memory budget.

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
        self.stage = JoinStage(join, impressions_topic, clicks_topic, partitions, segments)
        self._topic = impressions_topic
        self.sequences = [0] * partitions
        """Sequence number of the next record of each output partition."""

    @property
    def outcomes(self) -> dict[str, int]:
        """Counters of the stage."""
        return self.stage.outcomes

    def apply(self, entries: Sequence[OrderedEntry]) -> Joined:
        """Apply the next entries of the order.

        Raises:
            StateError: these are not the entries that follow the ones applied so far.
        """
        records: list[SequencedRecord] = []
        for item in self.stage.apply(entries):
            if isinstance(item, Labelled):
                records.append(self._record(item))
            else:
                entry = item.entry
                self.stage.hold(item, _PLACE.pack(entry.partition, entry.offset) + (entry.value or b""))
        return Joined(records, self.stage.progress.take_rejected())

    def _record(self, labelled: Labelled) -> SequencedRecord:
        joiner = self.stage.joiner
        partition, offset = _PLACE.unpack_from(labelled.payload)
        sequence = self.sequences[partition]
        self.sequences[partition] += 1
        # Without a click, the label is known at the end of the window, however late the next entry comes.
        end_ms = max(labelled.time_ms, labelled.ts_ms) + joiner.window_ms
        ts_ms = min(joiner.watermark_ms, end_ms)
        source = (self._topic, partition, offset)
        value = labelled_value(labelled.payload[_PLACE.size :], int(labelled.label), ts_ms, source, sequence)
        return SequencedRecord(
            Record(labelled.event_id.encode(), value, ts_ms, partition), partition, sequence
        )

    def freeze(self) -> FrozenState:
        """The complete state, to be written in another thread."""
        inner = FrozenState.gather(self.stage.parts())
        return FrozenState(inner.arrays, {**inner.values, "sequences": list(self.sequences)})

    def state(self) -> State:
        """The complete state as a copy."""
        return self.freeze().thaw()

    def load_state(self, state: State) -> None:
        """Load a state that :meth:`state` or :meth:`freeze` returned.

        Raises:
            StateError: it is damaged, or belongs to other topics or partitions.
        """
        self.stage.load_parts(state)
        sequences = state.values.get("sequences")
        numbers = [n for n in sequences if isinstance(n, int)] if isinstance(sequences, list) else []
        if len(numbers) != len(self.sequences):
            raise StateError(f"saved sequence numbers are missing or damaged: {sequences!r}")
        self.sequences = numbers
