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

from stream_ctr.errors import RecordError, StateError
from stream_ctr.events.log import Entry, TopicPartition
from stream_ctr.events.records import Click, Impression, LabelledImpression
from stream_ctr.features.keys import KeyEncoder
from stream_ctr.features.schema import FeaturesConfig, FieldConfig
from stream_ctr.features.tables import FeatureTables
from stream_ctr.frozen import FrozenState
from stream_ctr.pipeline.batch import ASIDE, LEARN, PREDICT, SETTLE, Batch
from stream_ctr.pipeline.config import JoinConfig
from stream_ctr.pipeline.digest import entry_digest
from stream_ctr.pipeline.encode import Event, encode
from stream_ctr.pipeline.join import Joiner, Labelled
from stream_ctr.pipeline.labels import LabelPolicy
from stream_ctr.pipeline.ordered import OrderedEntry, OrderState
from stream_ctr.pipeline.segments import SegmentFolder
from stream_ctr.state import Json, State

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


@dataclass(slots=True)
class _Progress:
    """How far one partition is applied."""

    position: int = 0
    time_ms: int = 0
    digest: str = ""
    lead: tuple[int, int] = (0, 0)
    last: Entry | None = None

    def current_digest(self) -> str:
        return self.digest if self.last is None else entry_digest(self.last)


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
        self.key_encoder = KeyEncoder(fields)
        self.tables = FeatureTables(self.key_encoder.slot_field, len(fields), features)
        self.joiner = Joiner(join, segments)
        self.labels = LabelPolicy(join)
        self.arm = arm
        self.learn_from: LearnFrom = learn_from
        self._planted = _PLANTED[learn_from]
        self._progress = {
            TopicPartition(topic, number): _Progress()
            for topic in (impressions_topic, clicks_topic)
            for number in range(partitions)
        }
        self._applied = 0
        self._time_ms = 0
        self._decisions = 0
        self._rejected = 0
        self._skipped = 0
        self._others = 0

    @property
    def applied(self) -> int:
        """Entries applied, end marks included."""
        return self._applied

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
        """Counters: entries, rejected and skipped entries, admitted impressions, and those of the joiner;
        where only own impressions are learned, those of others."""
        others = {} if self.learn_from == "all" else {"others": self._others}
        return {
            **others,
            "entries": self._applied,
            "rejected": self._rejected,
            "skipped": self._skipped,
            "impressions": self.joiner.impressions,
            **self.joiner.outcomes,
        }

    def positions(self) -> dict[TopicPartition, int]:
        """Offset of the next entry of each partition."""
        return {tp: progress.position for tp, progress in self._progress.items()}

    def digests(self) -> dict[TopicPartition, str]:
        """Digest of the last applied entry of each partition that had one: that at position - 1."""
        return {tp: d for tp, progress in self._progress.items() if (d := progress.current_digest())}

    def begin(self, positions: Mapping[TopicPartition, int]) -> None:
        """Start from these offsets instead of 0; for a log that no longer holds its first entries.

        Raises:
            StateError: entries were already applied, or a partition is not one of this pipeline's.
        """
        if self._applied or positions.keys() - self._progress.keys():
            raise StateError("a pipeline begins at given offsets of its own partitions, before any entry")
        for tp, position in positions.items():
            self._progress[tp].position = position

    def skip(self, positions: Mapping[TopicPartition, int]) -> None:
        """Go on at later offsets of some partitions; the entries up to there are lost, and counted."""
        for tp, position in positions.items():
            before = self._progress[tp]
            self._skipped += position - before.position
            self._progress[tp] = _Progress(position, before.time_ms)

    def order_state(self) -> OrderState:
        """Where the order goes on after the entries applied so far."""
        return OrderState(
            self._applied,
            self._time_ms,
            self._decisions,
            {tp: progress.time_ms for tp, progress in self._progress.items()},
            self.positions(),
            {tp: progress.lead for tp, progress in self._progress.items()},
        )

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
        if entries[0].number != self._applied or entries[-1].number != self._applied + len(entries) - 1:
            raise StateError(
                f"entry {self._applied} of the order must follow, not {entries[0].number}: order and "
                "pipeline were not restored from the same checkpoint"
            )
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
        self._note_progress(entries)
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

    def _note_progress(self, entries: Sequence[OrderedEntry]) -> None:
        last = entries[-1]
        self._applied, self._time_ms, self._decisions = last.number + 1, last.time_ms, last.decisions
        latest = {o.entry[:2]: o for o in entries if o.entry is not None}
        for ordered in latest.values():
            entry = ordered.entry
            if entry is not None:
                progress = self._progress[TopicPartition(entry.topic, entry.partition)]
                progress.position = entry.offset + 1
                progress.time_ms = ordered.partition_time_ms
                progress.lead = ordered.lead
                progress.last = entry

    def state(self) -> State:
        """Everything that decides what the next entry comes to, and the counters."""
        with self.freeze() as frozen:
            return frozen.thaw()

    def freeze(self) -> FrozenState:
        """What :meth:`state` gives, to be written in another thread while the pipeline goes on."""
        partitions: list[Json] = [
            [tp.topic, tp.partition, item.position, item.time_ms, item.current_digest(), *item.lead]
            for tp, item in self._progress.items()
        ]
        order: dict[str, Json] = {
            "applied": self._applied,
            "time_ms": self._time_ms,
            "decisions": self._decisions,
            "rejected": self._rejected,
            "skipped": self._skipped,
            "partitions": partitions,
        }
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
        try:
            progress = _read_partitions(order["partitions"])
            numbers = [order[name] for name in ("applied", "time_ms", "decisions", "rejected")]
            numbers += [order.get("skipped", 0), order.get("others", 0)]
            applied, time_ms, decisions, rejected, skipped, others = (
                n for n in numbers if isinstance(n, int)
            )
        except (KeyError, TypeError, ValueError):
            raise StateError("saved order is damaged: a number of it is missing") from None
        if progress.keys() != self._progress.keys():
            raise StateError(
                f"saved positions are of {_named(progress)}, the configuration reads "
                f"{_named(self._progress)}; topics and partition counts cannot change under a state"
            )
        self.key_encoder.load_state(state.part("keys"))
        self.tables.load_state(state.part("tables"))
        self.joiner.load_state(state.part("join"))
        self._progress = progress
        self._applied, self._time_ms, self._decisions = applied, time_ms, decisions
        self._rejected, self._skipped, self._others = rejected, skipped, others


def _read_partitions(table: Json) -> dict[TopicPartition, _Progress]:
    if not isinstance(table, list):
        raise TypeError("partitions are no list")
    progress: dict[TopicPartition, _Progress] = {}
    for item in table:
        match item:
            case [str(topic), int(number), int(position), int(time_ms), str(digest), int(run), int(least)]:
                name = TopicPartition(topic, number)
                progress[name] = _Progress(position, time_ms, digest, (run, least))
            case _:
                raise ValueError("a partition lacks a part")
    return progress


def _named(partitions: Mapping[TopicPartition, _Progress]) -> str:
    return ", ".join(f"{tp.topic}[{tp.partition}]" for tp in sorted(partitions))
