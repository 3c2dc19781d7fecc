"""Learning from a topic of labelled impressions, which a process of its own joined.

Every record is one event: counted, scored and learned at its place. That is what the joining trainer does
with the same labels in the same order, except that it counts and scores an impression earlier, at the
impression's own place. So weights are equal bit for bit where neither counts nor buckets that are learned
from the stream enter them, and the label times of two partitions do not tie.

A record whose sequence was seen is a repeat: a joiner that lost an acknowledgement wrote it again. It is
dropped and counted, as ``labelled_repeated``; numbers that are left out are counted as ``labelled_missing``.
A replayed dead letter comes with its old sequence, and is learned all the same.
"""

from __future__ import annotations

import msgspec

from stream_ctr.batch import ASIDE, PREDICT, SETTLE
from stream_ctr.config.features import FeaturesConfig, FieldConfig
from stream_ctr.config.join import JoinConfig
from stream_ctr.errors import ConfigError, RecordError, StateError
from stream_ctr.events.dead_letter_replay import REPLAYED_HEADER
from stream_ctr.events.records import Impression, LabelledImpression
from stream_ctr.pipeline.encode import Event
from stream_ctr.pipeline.ordering.entry import OrderedEntry
from stream_ctr.pipeline.stream import NAN, LearnFrom, Pipeline
from stream_ctr.state.frozen import FrozenState
from stream_ctr.state.state import Json, State


def check_final(join: JoinConfig) -> None:
    """Refuse what a topic of final labels cannot do.

    Raises:
        ConfigError: a policy that learns before the label is final.
    """
    if join.policy != "wait":
        raise ConfigError(
            f"join.policy = {join.policy!r} does not go through a labelled topic, whose labels are "
            "final; set 'wait', or let the trainer join (join.input = 'clicks')"
        )


class LabelledPipeline(Pipeline):
    """A :class:`~stream_ctr.pipeline.stream.Pipeline` over one topic of labelled impressions."""

    def __init__(
        self,
        fields: tuple[FieldConfig, ...],
        features: FeaturesConfig,
        join: JoinConfig,
        arm: str,
        topic: str,
        partitions: int,
        learn_from: LearnFrom = "all",
    ) -> None:
        check_final(join)
        super().__init__(fields, features, join, arm, topic, "", partitions, learn_from=learn_from)
        self._sequences: dict[int, int] = {}
        self._counts = {"impressions": 0, "positives": 0, "labelled_repeated": 0, "labelled_missing": 0}

    @property
    def outcomes(self) -> dict[str, int]:
        """Counters: entries, rejected and skipped ones, impressions, positives, repeats, missing ones, and
        what was :attr:`left_out`; where only own impressions are learned, those of others."""
        inner = super().outcomes
        names = ("entries", "rejected", "skipped", "others")
        return {**{name: inner[name] for name in names if name in inner}, **self._counts, **self.left_out}

    def _apply_record(self, ordered: OrderedEntry, events: list[Event]) -> str:
        """Append the one event of a labelled record; why there is none, if so."""
        record, entry = ordered.record, ordered.entry
        if not isinstance(record, LabelledImpression) or entry is None:
            return ordered.reason
        replayed = any(name == REPLAYED_HEADER for name, _ in entry.headers)
        if not replayed and not self._follows(entry.partition, record.sequence):
            return ""
        shown: Impression = record.impression
        own, encoder = self._is_own(shown.arm), self.key_encoder
        try:
            keys = (encoder.keys if own else encoder.peek_keys)(shown.features).tobytes()
        except RecordError as error:
            return str(error)
        served = shown.p.get(self.arm, NAN)
        truth = NAN if shown.truth is None else shown.truth
        number = self._counts["impressions"]
        label = float(record.label)
        self._others += not own
        settled = self.labels.labelled(shown.event_id, label, final=True) if own else ASIDE | SETTLE
        action = PREDICT | settled
        events.append(Event(keys, action, label, served, shown.ts_ms, number, truth))
        self._counts["impressions"] += 1
        self._counts["positives"] += record.label
        return ""

    def _follows(self, partition: int, sequence: int) -> bool:
        """Whether a record is new in its partition; its number is remembered."""
        if sequence < 0:
            return True
        last = self._sequences.get(partition)
        if last is not None and sequence <= last:
            self._counts["labelled_repeated"] += 1
            return False
        if last is not None:
            self._counts["labelled_missing"] += sequence - last - 1
        self._sequences[partition] = sequence
        return True

    def freeze(self) -> FrozenState:
        """The pipeline's state, the last sequence of each partition and the counters."""
        own: dict[str, Json] = {
            "sequences": [[partition, last] for partition, last in sorted(self._sequences.items())],
            "counts": dict(self._counts),
        }
        inner = super().freeze()
        return FrozenState(inner.arrays, {**inner.values, "labelled": own}, inner.views)

    def load_state(self, state: State) -> None:
        """Become the pipeline that handed out ``state``.

        Raises:
            StateError: it is damaged, or belongs to other fields, topics or partitions.
        """
        super().load_state(state)
        try:
            own = msgspec.convert(state.values["labelled"], _Saved)
        except (KeyError, msgspec.ValidationError):
            raise StateError("saved sequences of the labelled topic are missing or damaged") from None
        self._sequences, self._counts = dict(own.sequences), own.counts


class _Saved(msgspec.Struct):
    sequences: list[tuple[int, int]]
    counts: dict[str, int]
