"""The trainer's pipeline as one fold: ordered entries in, batches out.

A stage turns entries into impressions and labels; this module turns these into the events of a batch. Each
impression that is admitted gives one PREDICT event at its place in the order and later one event with its
final label, at the place where that became known; the label policy decides about further events. Over a
topic of labelled impressions both are one event.

The state after n entries is a function of these n entries and the configuration, whatever chunks they came
in.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from stream_ctr.batch import ASIDE, LEARN, PREDICT, SETTLE, Batch
from stream_ctr.config.features import FeaturesConfig, FieldConfig
from stream_ctr.config.join import JoinConfig
from stream_ctr.errors import RecordError, StateError
from stream_ctr.events.log import Entry
from stream_ctr.events.records import Impression
from stream_ctr.features.keys.encoder import KeyEncoder
from stream_ctr.features.rows.tables import FeatureTables
from stream_ctr.pipeline.encode import Event, encode
from stream_ctr.pipeline.join_stage import Admitted, JoinStage
from stream_ctr.pipeline.joining.joiner import Labelled
from stream_ctr.pipeline.label_actions import LabelPolicy
from stream_ctr.pipeline.labelled_stage import FinalLabel, LabelledStage, check_final
from stream_ctr.pipeline.ordering.entry import OrderedEntry
from stream_ctr.state.frozen import FrozenState
from stream_ctr.state.state import State

NAN = float("nan")
LearnFrom = Literal["all", "own"]
_HELD: Final[dict[LearnFrom, struct.Struct]] = {"all": struct.Struct("<ff"), "own": struct.Struct("<ff?")}
"""Served and true probability, behind the keys in the payload that the stage holds; with ``own`` also whether
the impression is the arm's own."""


@dataclass(frozen=True, slots=True)
class Applied:
    """The result of applying some entries."""

    batch: Batch
    """Events to score and learn, in order."""
    rejected: list[tuple[Entry, str]]
    """Entries for the dead letters, each with its reason; write them before the next checkpoint."""


class Pipeline:
    """Labels and encodes the impressions of one arm's stream.

    Args:
        fields: the schema, in the order of the model's inputs.
        features: counts and admission.
        join: label policy.
        arm: whose served probability the events carry.
        stage: where the entries become impressions and labels.
        learn_from: whether all impressions are learned and their features counted, or only those that this
            arm's own answer was shown for (the served arm, whatever the assigned one). The others are
            scored all the same.

    Raises:
        ConfigError: the label policy needs labels before they are final, and the stage has only final ones.
    """

    def __init__(
        self,
        fields: tuple[FieldConfig, ...],
        features: FeaturesConfig,
        join: JoinConfig,
        arm: str,
        stage: JoinStage | LabelledStage,
        learn_from: LearnFrom = "all",
    ) -> None:
        if isinstance(stage, LabelledStage):
            check_final(join)
        self.stage = stage
        self.key_encoder = KeyEncoder(fields, features.unknown)
        self.tables = FeatureTables(self.key_encoder.slot_field, len(fields), features)
        self.labels = LabelPolicy(join)
        self.arm = arm
        self.learn_from: LearnFrom = learn_from
        self._held = _HELD[learn_from]
        self._others = 0

    @property
    def outcomes(self) -> dict[str, int]:
        """Counters: those of the stage, and :attr:`left_out`; where only own impressions are learned, the
        impressions of other arms."""
        others = {} if self.learn_from == "all" else {"others": self._others}
        return {**others, **self.stage.outcomes, **self.left_out}

    @property
    def left_out(self) -> dict[str, int]:
        """Counters of what was left out of the impressions: features that no field names, and values of
        multi-valued fields beyond ``max_values``."""
        tally = self.key_encoder.tally
        return {"features_ignored": tally.ignored_total, "values_truncated": tally.truncated}

    def apply(self, entries: Sequence[OrderedEntry]) -> Applied:
        """Apply the next entries of the order; the sizes of the chunks do not matter.

        Raises:
            StateError: these are not the entries that follow the ones applied so far.
        """
        events: list[Event] = []
        for item in self.stage.apply(entries):
            if isinstance(item, Labelled):
                event = self._labelled(item)
                if event.action:  # neither learned nor scored otherwise
                    events.append(event)
            elif isinstance(item, Admitted):
                self._admitted(item, events)
            else:
                self._final(item, events)
        rejected = self.stage.progress.take_rejected()
        return Applied(encode(events, self.tables, self.key_encoder.slots), rejected)

    def _admitted(self, admitted: Admitted, events: list[Event]) -> None:
        """Append the event of an impression without its label, and have the stage hold it."""
        stage, record, encoder = self.stage, admitted.record, self.key_encoder
        assert isinstance(stage, JoinStage)
        own = self._is_own(record.arm)
        self._others += not own
        if isinstance(record, Impression):
            try:
                keys = (encoder.keys if own else encoder.peek_keys)(record.features).tobytes()
            except RecordError as error:
                stage.progress.reject(admitted.entry, str(error))
                return
        else:
            assert admitted.row is not None
            keys = encoder.complete(admitted.row, observe=own).tobytes()
            if own and record.ignored:
                encoder.tally.ignore(record.ignored)
        served = record.p.get(self.arm, NAN)
        truth = NAN if record.truth is None else record.truth
        action = self.labels.shown(record.event_id) if own else PREDICT | ASIDE
        label = 0.0 if action & LEARN else NAN
        # A time ahead of the order's must not age what others counted.
        time_ms = min(record.ts_ms, stage.watermark_ms)
        events.append(Event(keys, action, label, served, time_ms, stage.joiner.impressions, truth))
        held = (served, truth) if self.learn_from == "all" else (served, truth, own)
        stage.hold(admitted, keys + self._held.pack(*held))

    def _labelled(self, labelled: Labelled) -> Event:
        """The event of a label that became known."""
        key_bytes, payload = 8 * self.key_encoder.slots, labelled.payload
        served, truth, *own = self._held.unpack_from(payload, key_bytes)
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

    def _final(self, item: FinalLabel, events: list[Event]) -> None:
        """Append the event of an impression that comes with its label."""
        record, encoder = item.impression, self.key_encoder
        own = self._is_own(record.arm)
        try:
            keys = (encoder.keys if own else encoder.peek_keys)(record.features).tobytes()
        except RecordError as error:
            self.stage.progress.reject(item.entry, str(error))
            return
        self._others += not own
        served = record.p.get(self.arm, NAN)
        truth = NAN if record.truth is None else record.truth
        settled = self.labels.labelled(record.event_id, item.label, final=True) if own else ASIDE | SETTLE
        events.append(Event(keys, PREDICT | settled, item.label, served, record.ts_ms, item.number, truth))

    def _is_own(self, served_arm: str) -> bool:
        """Whether this arm learns an impression that was answered by ``served_arm``."""
        return self.learn_from == "all" or served_arm == self.arm

    def state(self) -> State:
        """Everything that decides the result of the next entry, and the counters."""
        with self.freeze() as frozen:
            return frozen.thaw()

    def freeze(self) -> FrozenState:
        """The same as :meth:`state`, to be written in another thread while the pipeline goes on."""
        stage = self.stage.parts()
        if self.learn_from != "all":
            stage["order"] = State({}, {**stage["order"].values, "others": self._others})
        return FrozenState.gather({"keys": self.key_encoder.state(), "tables": self.tables.freeze(), **stage})

    def load_state(self, state: State) -> None:
        """Become the pipeline that handed out ``state``.

        Raises:
            StateError: it is damaged, or belongs to other fields, topics or partitions. The pipeline
                must not be used then.
        """
        others = state.part("order").values.get("others", 0)
        if not isinstance(others, int):
            raise StateError(f"saved order is damaged: others is {others!r}")
        self.key_encoder.load_state(state.part("keys"))
        self.tables.load_state(state.part("tables"))
        self.stage.load_parts(state)
        self._others = others
