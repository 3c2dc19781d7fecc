"""A learner over raw dicts: encoder, vocabulary and network, copied and pickled through their state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stream_ctr.batch import LEARN, PREDICT, Batch
from stream_ctr.config.features import FeaturesConfig
from stream_ctr.config.learner import LearnerConfig
from stream_ctr.config.model import ModelConfig
from stream_ctr.config.optimizer import OptimizerConfig
from stream_ctr.features.rows.tables import FeatureTables
from stream_ctr.learners.build import build_learner
from stream_ctr.river.encoding import DictEncoder, Features
from stream_ctr.state.state import State


@dataclass(frozen=True, slots=True)
class DictLearnerConfig:
    """Settings of a :class:`DictLearner`."""

    model: ModelConfig
    optimizer: OptimizerConfig
    learner: LearnerConfig
    fields: int
    max_values: int
    buckets: int


class DictLearner:
    """Encoder, feature tables and learner of raw dicts.

    Copies and pickles consist of :meth:`state`, because the arrays of the learner share memory and a copy
    attribute by attribute would break this sharing.
    """

    def __init__(self, config: DictLearnerConfig) -> None:
        """Raises UsageError (or its subclass ModelError) if settings are invalid or incompatible."""
        self._make(config)

    def _make(self, config: DictLearnerConfig) -> None:
        self._config = config
        self._encoder = DictEncoder(config.fields, config.max_values, config.buckets)
        slot_field = self._encoder.slot_field
        self._tables = FeatureTables(slot_field, config.fields, FeaturesConfig())
        self._learner = build_learner(
            config.model, config.optimizer, config.learner, slot_field.tolist(), config.fields
        )
        self.learned = 0
        """Number of events learned."""
        self.skipped = 0
        """Number of updates that were skipped because they were not finite."""
        # An empty batch creates the default rows, which predictions need.
        self._take(np.zeros((0, len(slot_field)), np.uint64), [], [])

    @property
    def names(self) -> list[Any]:
        """Features with their own field, in the order of the fields."""
        return self._encoder.names

    @property
    def row_bytes(self) -> int:
        """Bytes of embedding rows and their optimizer state, which Python does not account for."""
        state = self._learner.state().part("rows")
        return sum(array.nbytes for array in state.arrays.values())

    def learn(self, events: Sequence[Features], labels: Sequence[bool], weights: Sequence[float]) -> None:
        """Learn B events in order, one by one; on an error none of them is learned.

        Raises:
            RecordError: a feature has a name or value of an unsupported type.
        """
        parsed = [self._encoder.parse(x) for x in events]
        keys = [self._encoder.keys(x) for x in parsed]
        slots = len(self._encoder.slot_field)
        self._take(np.array(keys, np.uint64).reshape(len(events), slots), labels, weights)

    def predict(self, events: Sequence[Features]) -> NDArray[np.float64]:
        """Click probabilities [B]; changes nothing.

        Raises:
            RecordError: a feature has a name or value of an unsupported type.
        """
        keys = [self._encoder.peek(self._encoder.parse(x)) for x in events]
        slots = len(self._encoder.slot_field)
        rows = self._tables.lookup(np.array(keys, np.uint64).reshape(len(events), slots))
        return self._learner.predict(rows).astype(np.float64)

    def _take(self, keys: NDArray[np.uint64], labels: Sequence[bool], weights: Sequence[float]) -> None:
        """Encode keys [B, S] of B events, updating the counts, and learn the events."""
        events = len(keys)
        action = np.full(events, PREDICT | LEARN, np.uint8)
        time_ms = np.zeros(events, np.int64)
        encoded = self._tables.encode(keys, action, time_ms)
        unknown = np.full(events, np.nan, np.float32)
        result = self._learner.learn(
            Batch(
                rows=encoded.rows,
                ratio=encoded.ratio,
                label=np.array(labels, np.float32),
                weight=np.array(weights, np.float32),
                action=action,
                served=unknown,
                time_ms=time_ms,
                impression=np.arange(self.learned, self.learned + events, dtype=np.int64),
                truth=unknown,
                changes=encoded.changes,
            )
        )
        self.learned += events
        self.skipped += int(result.skipped.sum())

    def state(self) -> State:
        """Schema, vocabulary with counts, weights and optimizer state."""
        parts = {
            "encoder": self._encoder.state(),
            "tables": self._tables.state(),
            "learner": self._learner.state(),
            "totals": State({}, {"learned": self.learned, "skipped": self.skipped}),
        }
        return State.gather(parts)

    def load_state(self, state: State) -> None:
        """Restore the learner that produced ``state``.

        Raises:
            StateError: the state is damaged, or belongs to other settings.
        """
        self._encoder.load_state(state.part("encoder"))
        self._tables.load_state(state.part("tables"))
        self._learner.load_state(state.part("learner"))
        totals = state.part("totals").values
        self.learned, self.skipped = int(str(totals["learned"])), int(str(totals["skipped"]))

    def __getstate__(self) -> dict[str, Any]:
        state = self.state()
        return {"config": self._config, "arrays": state.arrays, "values": state.values}

    def __setstate__(self, saved: dict[str, Any]) -> None:
        self._make(saved["config"])
        self.load_state(State(saved["arrays"], saved["values"]))
