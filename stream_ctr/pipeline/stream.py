"""The pipeline as one fold: ordered entries in, batches out.

Its state after n entries is a function of these n entries and the configuration, whatever chunks they
came in. Each impression that is admitted gives one PREDICT event at its place in the order and later one
event with its final label, at the place where that became known; what else it gives, the label policy says.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from stream_ctr.batch import ASIDE, LEARN, PREDICT, SETTLE, Batch
from stream_ctr.config.features import FeaturesConfig, FieldConfig
from stream_ctr.config.join import JoinConfig
from stream_ctr.errors import RecordError, StateError
from stream_ctr.events.log import Entry, TopicPartition
from stream_ctr.events.records import Click, Impression, LabelledImpression
from stream_ctr.features.keys.encoder import KeyEncoder
from stream_ctr.features.rows.tables import FeatureTables
from stream_ctr.pipeline.encode import Event, encode
from stream_ctr.pipeline.joining.joiner import Joiner, Labelled
from stream_ctr.pipeline.joining.segments import SegmentFolder
from stream_ctr.pipeline.label_actions import LabelPolicy
from stream_ctr.pipeline.ordering.entry import OrderedEntry, OrderState
from stream_ctr.pipeline.ordering.progress import Progress
from stream_ctr.state.frozen import FrozenState
from stream_ctr.state.state import Json, State

NAN = float("nan")
LearnFrom = Literal["all", "own"]
_PLANTED: Final[dict[LearnFrom, struct.Struct]] = {"all": struct.Struct("<ff"), "own": struct.Struct("<ff?")}
"""Served probability and planted truth, after the keys in what the joiner holds; with ``own`` also whether
the impression is the arm's own."""


@dataclass(frozen=True, slots=True)
class Applied:
    """What some entries came to."""

    batch: Batch
    """Events to score and learn, in order."""
    rejected: list[tuple[Entry, str]]
    """Entries for the dead letters, each with its reason; write them before the next checkpoint."""


class Pipeline:
    """Joins, labels and encodes the entries of one arm's stream.

    Args:
        fields: the schema, in the order of the model's inputs.
        features: counts and admission.
        join: label policy.
        arm: whose served probability the events carry.
        impressions_topic, clicks_topic: the two topics; each has ``partitions`` partitions.
        segments: where the joiner's memory goes beyond its budget; without it, all of it stays in memory.
        learn_from: whether all impressions are learned and their features counted, or only those that this
            arm's own answer was shown for (the served arm, whatever the assigned one). The others are
            scored all the same.
    """

    def __init__(
        self,
        fields: tuple[FieldConfig, ...],
        features: FeaturesConfig,
        join: JoinConfig,
        arm: str,
        impressions_topic: str,
        clicks_topic: str,
        partitions: int,
        segments: SegmentFolder | None = None,
        learn_from: LearnFrom = "all",
    ) -> None:
        self.key_encoder = KeyEncoder(fields, features.unknown)
        self.tables = FeatureTables(self.key_encoder.slot_field, len(fields), features)
        self.joiner = Joiner(join, segments)
        self.labels = LabelPolicy(join)
        self.arm = arm
        self.learn_from: LearnFrom = learn_from
        self._planted = _PLANTED[learn_from]
        self._progress = Progress(
            TopicPartition(topic, number)
            for topic in (impressions_topic, clicks_topic)
            if topic
            for number in range(partitions)
        )
        self._rejected = 0
        self._others = 0

    @property
    def applied(self) -> int:
        """Entries applied, end marks included."""
        return self._progress.applied

    @property
    def watermark_ms(self) -> int:
        """Event time up to which labels are settled, plus the window."""
        return self.joiner.watermark_ms

    @property
    def open_impressions(self) -> int:
        """Impressions that wait for their label."""
        return self.joiner.open_impressions

    @property
    def outcomes(self) -> dict[str, int]:
        """Counters: entries, rejected and skipped entries, admitted impressions, those of the joiner, and
        :attr:`left_out`; where only own impressions are learned, those of others."""
        others = {} if self.learn_from == "all" else {"others": self._others}
        return {
            **others,
            "entries": self._progress.applied,
            "rejected": self._rejected,
            "skipped": self._progress.skipped,
            "impressions": self.joiner.impressions,
            **self.joiner.outcomes,
            **self.left_out,
        }

    @property
    def left_out(self) -> dict[str, int]:
        """Counters of what was left out of the impressions: features that no field names, and values of
        multi-valued fields beyond ``max_values``."""
        tally = self.key_encoder.tally
        return {"features_ignored": tally.ignored_total, "values_truncated": tally.truncated}

    def positions(self) -> dict[TopicPartition, int]:
        """Offset of the next entry of each partition."""
        return self._progress.positions()

    def digests(self) -> dict[TopicPartition, str]:
        """Digest of the last applied entry of each partition that had one: that at position - 1."""
        return self._progress.digests()

    def begin(self, positions: Mapping[TopicPartition, int]) -> None:
        """Start from these offsets instead of 0; for a log that no longer holds its first entries.

        Raises:
            StateError: entries were already applied, or a partition is not one of this pipeline's.
        """
        self._progress.begin(positions)

    def skip(self, positions: Mapping[TopicPartition, int]) -> None:
        """Go on at later offsets of some partitions; the entries up to there are lost, and counted."""
        self._progress.skip(positions)

    def order_state(self) -> OrderState:
        """Where the order goes on after the entries applied so far."""
        return self._progress.order_state()

    def apply(self, entries: Sequence[OrderedEntry]) -> Applied:
        """Apply the next entries of the order; chunks of any size come to the same.

        Raises:
            StateError: these are not the entries that follow the ones applied so far.
        """
        events, rejected = self._collect(entries)
        return Applied(encode(events, self.tables, self.key_encoder.slots), rejected)

    def _collect(self, entries: Sequence[OrderedEntry]) -> tuple[list[Event], list[tuple[Entry, str]]]:
        """The events of the next entries, and the entries that are rejected."""
        if not entries:
            return [], []
        self._progress.check_next(entries)
        events: list[Event] = []
        rejected: list[tuple[Entry, str]] = []
        for ordered in entries:
            if ordered.entry is None:
                self._settle(self.joiner.flush(), events)
                continue
            if ordered.time_ms > self.joiner.watermark_ms:
                self._settle(self.joiner.advance(ordered.time_ms), events)
            reason = self._apply_record(ordered, events)
            if reason:
                rejected.append((ordered.entry, reason))
        self._rejected += len(rejected)
        self._progress.note(entries)
        return events, rejected

    def _apply_record(self, ordered: OrderedEntry, events: list[Event]) -> str:
        """Append the events of one entry's record; why there is none, if so."""
        record, joiner = ordered.record, self.joiner
        if record is None:
            return ordered.reason
        if isinstance(record, LabelledImpression):
            return "a labelled impression, in a topic of another kind"
        if isinstance(record, Click):
            labelled = joiner.click(record.event_id, record.ts_ms, record.value)
        else:
            if not joiner.admits(record.event_id, record.ts_ms):
                return ""
            own = self._is_own(record.arm)
            self._others += not own
            encoder = self.key_encoder
            if isinstance(record, Impression):
                try:
                    keys = (encoder.keys if own else encoder.peek_keys)(record.features).tobytes()
                except RecordError as error:
                    return str(error)
            else:
                assert ordered.row is not None
                keys = encoder.complete(ordered.row, observe=own).tobytes()
                if own and record.ignored:
                    encoder.tally.ignore(record.ignored)
            served = record.p.get(self.arm, NAN)
            truth = NAN if record.truth is None else record.truth
            action = self.labels.shown(record.event_id) if own else PREDICT | ASIDE
            label = 0.0 if action & LEARN else NAN
            # A time ahead of the order's must not age what others counted.
            time_ms = min(record.ts_ms, joiner.watermark_ms)
            events.append(Event(keys, action, label, served, time_ms, joiner.impressions, truth))
            planted = (served, truth) if self.learn_from == "all" else (served, truth, own)
            payload = keys + self._planted.pack(*planted)
            labelled = joiner.hold(record.event_id, record.ts_ms, payload)
        if labelled is not None:
            self._settle([labelled], events)
        return ""

    def _is_own(self, served_arm: str) -> bool:
        """Whether this arm learns an impression that was answered by ``served_arm``."""
        return self.learn_from == "all" or served_arm == self.arm

    def _settle(self, known: Sequence[Labelled], events: list[Event]) -> None:
        """Append the events of labels that became known; one that nobody learns or scores gives none."""
        events += [event for event in map(self._labelled, known) if event.action]

    def _labelled(self, labelled: Labelled) -> Event:
        key_bytes, payload = 8 * self.key_encoder.slots, labelled.payload
        served, truth, *own = self._planted.unpack_from(payload, key_bytes)
        if own and not own[0]:
            action = SETTLE if labelled.final else 0
        else:
            action = self.labels.labelled(labelled.event_id, labelled.label, labelled.final)
        return Event(
            payload[:key_bytes],
            action,
            labelled.label,
            served,
            min(labelled.ts_ms, labelled.time_ms),
            labelled.number,
            truth,
        )

    def state(self) -> State:
        """Everything that decides what the next entry comes to, and the counters."""
        with self.freeze() as frozen:
            return frozen.thaw()

    def freeze(self) -> FrozenState:
        """What :meth:`state` gives, to be written in another thread while the pipeline goes on."""
        order: dict[str, Json] = {**self._progress.values(), "rejected": self._rejected}
        if self.learn_from != "all":
            order["others"] = self._others
        return FrozenState.gather(
            {
                "keys": self.key_encoder.state(),
                "tables": self.tables.freeze(),
                "join": self.joiner.state(),
                "order": State({}, order),
            }
        )

    def load_state(self, state: State) -> None:
        """Become the pipeline that handed out ``state``.

        Raises:
            StateError: it is damaged, or belongs to other fields, topics or partitions. The pipeline
                is then not to be used.
        """
        order = state.part("order").values
        progress = self._progress.loaded(order)
        rejected, others = order.get("rejected"), order.get("others", 0)
        if not isinstance(rejected, int) or not isinstance(others, int):
            raise StateError("saved order is damaged: a number of it is missing")
        self.key_encoder.load_state(state.part("keys"))
        self.tables.load_state(state.part("tables"))
        self.joiner.load_state(state.part("join"))
        self._progress, self._rejected, self._others = progress, rejected, others
