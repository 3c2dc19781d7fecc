"""Embedding rows and count ratios of the stream's features: vocabulary, admission and counts together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from stream_ctr.batch import PREDICT, RowChanges
from stream_ctr.config.features import FeaturesConfig
from stream_ctr.errors import ConfigError, StateError
from stream_ctr.features.rows import admission
from stream_ctr.features.rows.frequency import NEVER, Counts
from stream_ctr.features.rows.kernels import CHANGES, IN_USE, STARTED, Changes, Tables, encode_events
from stream_ctr.features.rows.state_check import check_tables
from stream_ctr.features.rows.vocabulary import (
    Places,
    RowKeys,
    capacity_for,
    insert_all,
    lookup_rows,
    rehash,
    room,
)
from stream_ctr.state.frozen import FrozenRows, FrozenState, Source, Watch
from stream_ctr.state.state import Arrays, Json, State

_Scalar = TypeVar("_Scalar", bound=np.generic)


@dataclass(frozen=True, slots=True)
class Encoded:
    """B events over S slots, as input of the learner."""

    rows: NDArray[np.int64]
    """[B, S] embedding rows, ABSENT for an empty slot; a row occurs at most once in an event."""
    ratio: NDArray[np.float32]
    """[B, S] N / M of each row as of its event; 0 for default rows and empty slots."""
    changes: RowChanges
    """Rows that the events create. The stream's first event also creates the default rows, with key 0."""


class FeatureTables:
    """Embedding rows and count ratios of the stream's features.

    Rows 0 to F - 1 are the default rows of the F fields, for unknown values and values not yet admitted.
    Every other value gets the next row at its ``minimum_count``-th sighting and keeps it.

    >>> from stream_ctr.batch import PREDICT
    >>> tables = FeatureTables(np.array([0, 1], np.int32), 2, FeaturesConfig())
    >>> keys = np.array([[11, 12], [11, 13]], np.uint64)
    >>> encoded = tables.encode(keys, np.full(2, PREDICT, np.uint8), np.zeros(2, np.int64))
    >>> encoded.rows.tolist(), encoded.ratio.tolist()
    ([[2, 3], [2, 4]], [[1.0, 1.0], [1.0, 1.0]])
    >>> tables.lookup(np.array([[11, 99]], np.uint64)).tolist()
    [[2, 1]]
    """

    def __init__(self, slot_field: NDArray[np.int32], fields: int, config: FeaturesConfig) -> None:
        """slot_field int32 [S] is the index of the field of each slot, ascending.

        Raises:
            ConfigError: the half-life or the minimum count is out of range.
        """
        if not 1 <= config.minimum_count <= admission.LARGEST_COUNT:
            raise ConfigError(
                f"features.minimum_count must be between 1 and {admission.LARGEST_COUNT}, got "
                f"{config.minimum_count}"
            )
        decayed = config.counts == "decayed"
        if decayed and not 0.0 < config.half_life_seconds < float("inf"):
            raise ConfigError(
                f"features.half_life_seconds must be above 0 and finite, got {config.half_life_seconds}"
            )
        self.slot_field = np.ascontiguousarray(slot_field, np.int32)
        self.fields = fields
        if (
            fields < 1
            or bool((np.diff(self.slot_field) < 0).any())
            or not set(slot_field.tolist()) <= set(range(fields))
        ):
            raise ValueError(f"slot_field {slot_field.tolist()} must ascend and name fields below {fields}")
        self.config = config
        self._half_life_ms = config.half_life_seconds * 1000.0 if decayed else 0.0
        self._sizes = np.array([fields, 0, 0], np.int64)
        capacity = capacity_for(fields)
        self._table_keys = np.zeros(capacity, np.uint64)
        self._table_rows = np.zeros(capacity, np.int32)
        rows = room(capacity)
        self._row_field = np.zeros(rows, np.int32)
        self._row_field[:fields] = np.arange(fields)
        self._count = np.zeros(rows, np.float64)
        self._time_ms = np.zeros(rows if decayed else 0, np.int64)
        self._maximum = np.zeros(fields, np.float64)
        self._maximum_time_ms = np.zeros(fields, np.int64)
        self._clock_ms = np.array([NEVER], np.int64)
        self._sketch = admission.empty_sketch(admission.CELLS if config.minimum_count > 1 else 1)
        self._sketch_used = admission.used_cells(self._sketch)
        self._watch = Watch()

    @property
    def rows_in_use(self) -> int:
        """Number of assigned rows, including the default rows."""
        return int(self._sizes[IN_USE])

    @property
    def row_field(self) -> NDArray[np.int32]:
        """[rows_in_use] field of each row."""
        return self._row_field[: self.rows_in_use].copy()

    @property
    def row_count(self) -> NDArray[np.float64]:
        """[rows_in_use] N of each row as of the largest event time so far; 0 for default rows."""
        return self._now(self._count[: self.rows_in_use], self._time_ms[: self.rows_in_use])

    @property
    def field_maximum(self) -> NDArray[np.float64]:
        """[F] M of each field as of the largest event time so far."""
        return self._now(self._maximum, self._maximum_time_ms)

    def _now(self, count: NDArray[np.float64], time_ms: NDArray[np.int64]) -> NDArray[np.float64]:
        if self._half_life_ms == 0.0:
            return count.copy()
        age_ms = self._clock_ms[0].astype(np.float64) - time_ms.astype(np.float64)
        # A row that was never counted has no time.
        halvings = np.where(count > 0.0, age_ms, 0.0) / self._half_life_ms
        return np.asarray(count * np.exp2(-halvings), np.float64)

    def encode(
        self, keys: NDArray[np.uint64], action: NDArray[np.uint8], time_ms: NDArray[np.int64]
    ) -> Encoded:
        """Encode events in order: keys [B, S], 0 for an empty slot; action [B]; time_ms [B].

        For an event with the PREDICT bit, features are counted once and missing rows are created before rows
        and ratios are read. An event without it counts nothing: its impression came earlier.
        """
        events, slots = keys.shape
        if slots != len(self.slot_field) or action.shape != (events,) or time_ms.shape != (events,):
            raise ValueError(
                f"keys {keys.shape}, action {action.shape} and time_ms {time_ms.shape} do not belong to "
                f"one batch over {len(self.slot_field)} slots"
            )
        keys = np.ascontiguousarray(keys, np.uint64)
        action = np.ascontiguousarray(action, np.uint8)
        time_ms = np.ascontiguousarray(time_ms, np.int64)
        rows = np.empty((events, slots), np.int64)
        ratio = np.empty((events, slots), np.float32)
        most = keys.size + self.fields
        changes = Changes(
            event=np.empty(most, np.int64),
            row=np.empty(most, np.int64),
            field=np.empty(most, np.int32),
            key=np.empty(most, np.uint64),
        )
        self._sizes[CHANGES] = 0
        if self._watch.active:  # counts of existing rows are about to change; default rows have no counts
            self._watch.keep(self.lookup(keys[(action & PREDICT) > 0]))
        done = 0
        while True:
            done = encode_events(
                self._tables(), self._counts(), changes, done, keys, action, time_ms, rows, ratio
            )
            if done == events:
                break
            self._reserve(self.rows_in_use + slots)
        size = int(self._sizes[CHANGES])
        written = RowChanges(
            event=changes.event[:size].copy(),
            row=changes.row[:size].copy(),
            field=changes.field[:size].copy(),
            key=changes.key[:size].copy(),
        )
        return Encoded(rows, ratio, written)

    def lookup(self, keys: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Current rows int64 [B, S] of keys [B, S], ABSENT for key 0; changes nothing."""
        return lookup_rows(
            np.ascontiguousarray(keys, np.uint64), self._table_keys, self._table_rows, self.slot_field
        )

    def lookup_arrays(self) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
        """Keys and rows [C]: a copy of the vocabulary for :func:`.vocabulary.lookup_rows`."""
        return self._table_keys.copy(), self._table_rows.astype(np.int64)

    def freeze_lookup(self) -> tuple[Places, Places]:
        """The present result of :meth:`lookup_arrays`, in pieces that later changes do not affect."""
        table = (self._table_keys, self._table_rows, self.fields, self.rows_in_use)
        return Places(*table, rows=False), Places(*table, rows=True)

    def _tables(self) -> Tables:
        return Tables(
            self.slot_field,
            self._table_keys,
            self._table_rows,
            self._row_field,
            self._sketch,
            self._sketch_used,
            self._sizes,
            self.fields,
            self.config.minimum_count,
            len(self._row_field),
        )

    def _counts(self) -> Counts:
        return Counts(
            self._count,
            self._time_ms,
            self._maximum,
            self._maximum_time_ms,
            self._clock_ms,
            self._half_life_ms,
        )

    def _reserve(self, rows: int) -> None:
        """Make room for ``rows`` rows; doubling keeps the amortised cost per row constant."""
        capacity = capacity_for(rows)
        if capacity == len(self._table_keys):
            return
        table_keys, table_rows = np.zeros(capacity, np.uint64), np.zeros(capacity, np.int32)
        rehash(self._table_keys, self._table_rows, table_keys, table_rows)
        self._table_keys, self._table_rows = table_keys, table_rows
        self._row_field = _extended(self._row_field, room(capacity))
        self._count = _extended(self._count, room(capacity))
        if self._half_life_ms > 0.0:
            self._time_ms = _extended(self._time_ms, room(capacity))

    def state(self) -> State:
        """V rows in use: row_key uint64 [V - F], row_field int32 [V], row_count float64 [V], row_time_ms
        int64 [V] if decayed; maximum float64 [F], maximum_time_ms int64 [F]; the sketch."""
        with self.freeze() as frozen:
            return frozen.thaw()

    def freeze(self) -> FrozenState:
        """See :class:`stream_ctr.state.frozen.Freezable`."""
        used = self.rows_in_use
        by_row: Arrays = {"row_field": self._row_field, "row_count": self._count}
        if self._half_life_ms > 0.0:
            by_row["row_time_ms"] = self._time_ms
        rows = self._watch.add(FrozenRows(by_row, used))
        self.lookup(np.zeros((0, len(self.slot_field)), np.uint64))  # loads the kernel before encode needs it
        arrays: dict[str, Source] = {
            "row_time_ms": self._time_ms[:0],
            **{name: rows[name] for name in rows.names()},
            "row_key": RowKeys(self._table_keys, self._table_rows, self.fields, used),
            "maximum": self._maximum.copy(),
            "maximum_time_ms": self._maximum_time_ms.copy(),
            "sketch": self._sketch.copy(),
        }
        values: dict[str, Json] = {"clock_ms": int(self._clock_ms[0]), "started": bool(self._sizes[STARTED])}
        return FrozenState(arrays, values, (rows,))

    def load_state(self, state: State) -> None:
        """Restore a state that :meth:`state` returned; an error leaves the tables unchanged.

        Raises:
            StateError: the state belongs to other fields or settings, or is damaged.
        """
        fields, sketch = self.fields, self._sketch.shape
        saved = check_tables(state, fields, sketch, decayed=self._half_life_ms > 0.0)
        used = saved.used
        fresh = FeatureTables(self.slot_field, fields, self.config)
        fresh._reserve(used)
        repeated = insert_all(fresh._table_keys, fresh._table_rows, state.arrays["row_key"], fields)
        if repeated < used - fields:
            key = int(state.arrays["row_key"][repeated])
            raise StateError(
                f"saved feature tables: row {fields + repeated} has key {key}, "
                "which is 0 or another row's: the file is damaged"
            )
        fresh._row_field[:used] = state.arrays["row_field"]
        fresh._count[:used] = state.arrays["row_count"]
        fresh._time_ms[:used] = state.arrays["row_time_ms"]
        fresh._maximum[:] = state.arrays["maximum"]
        fresh._maximum_time_ms[:] = state.arrays["maximum_time_ms"]
        fresh._sketch[:] = state.arrays["sketch"]
        fresh._sketch_used[:] = admission.used_cells(fresh._sketch)
        fresh._sizes[:] = used, 0, saved.started
        fresh._clock_ms[0] = saved.clock_ms
        self.__dict__.update(fresh.__dict__)


def _extended(array: NDArray[_Scalar], length: int) -> NDArray[_Scalar]:
    """The array, padded with zeros to the new length."""
    longer = np.zeros(length, array.dtype)
    longer[: len(array)] = array
    return longer
