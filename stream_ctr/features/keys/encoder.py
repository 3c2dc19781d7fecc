"""Encodes the features of an impression as 64-bit keys, one for each slot.

:mod:`stream_ctr.features.keys.values` defines the canonical form of a value, and
:mod:`stream_ctr.features.keys.canonical` its key. A feature is missing if it is absent, ``None``, an empty
text or an empty list. 1, 1.0, "1" and "1.0" are the same value: JSON does not distinguish 1 from 1.0, and a
cell of a file is text.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from stream_ctr.config.features import FieldConfig, UnknownFeatures, slot_fields
from stream_ctr.errors import RecordError, StateError
from stream_ctr.features.keys.canonical import event_keys
from stream_ctr.features.keys.column import Column, check_fields, shown
from stream_ctr.features.keys.quantiles import QuantileBuckets
from stream_ctr.features.keys.tally import Tally
from stream_ctr.features.keys.value_batch import (
    ColumnGroup,
    Draft,
    Features,
    draft_event,
    integer_values,
    text_bytes,
)
from stream_ctr.state.state import Json, State

MOST_SPLITS = 64
"""Number of cached divisions of the fields between context and candidates."""


class KeyEncoder:
    """Encodes features as keys.

    :meth:`keys` observes: it must be called once for each impression, in order, because the buckets of float
    fields without boundaries are learned from the stream. An impression's own values are bucketed before
    they are observed. :meth:`peek_keys` changes nothing.

    >>> from stream_ctr.config.features import FieldConfig
    >>> encoder = KeyEncoder((FieldConfig("site"), FieldConfig("tags", "multi", max_values=3)))
    >>> keys = encoder.keys({"site": "news", "tags": ["b", "a", "b"]})
    >>> keys.shape, int((keys == 0).sum())
    ((4,), 1)
    >>> bool((keys == encoder.peek_keys({"site": "news", "tags": ["a", "b"]})).all())
    True
    """

    def __init__(self, fields: tuple[FieldConfig, ...], unknown: UnknownFeatures = "refuse") -> None:
        """``unknown`` decides whether features without a field are rejected or ignored.

        Raises:
            ConfigError: the fields are not a valid schema.
        """
        check_fields(fields)
        self.fields = fields
        self.slot_field: NDArray[np.int32] = np.array(slot_fields(fields), np.int32)
        """[S] index of the field of each slot."""
        self.slots = len(self.slot_field)
        """S, the number of slots of an event."""
        self.tally = Tally(unknown)
        """Counts of ignored features and truncated values so far."""
        self._names = frozenset(item.name for item in fields)
        first_slot = self.slot_field.tolist().index
        self._columns = [Column(item, first_slot(index)) for index, item in enumerate(fields)]
        self._all = ColumnGroup(self._columns)
        self._learned = [column for column in self._columns if column.learned is not None]
        # The sender chooses the candidates' feature names, so the number of cached splits is bounded.
        self._split = lru_cache(maxsize=MOST_SPLITS)(self._split_at)

    def keys(self, features: Features) -> NDArray[np.uint64]:
        """Keys uint64 [S] of the next impression of the stream; 0 in absent slots.

        Raises:
            RecordError: a name or value does not fit the schema; the encoder is unchanged.
        """
        return self._encode(self._all, (features,), observe=True).reshape(self.slots)

    def complete(self, row: NDArray[np.uint64], observe: bool = True) -> NDArray[np.uint64]:
        """Keys uint64 [S] from a row [S + X] of
        :class:`stream_ctr.features.scan.scanner.RecordScanner`: equal to the result of :meth:`keys` or,
        without ``observe``, of :meth:`peek_keys`."""
        if len(row) == self.slots:
            return row
        keys = row[: self.slots].copy()
        numbers = row[self.slots :].view(np.float64)
        for index, column in enumerate(self._learned):
            if keys[column.slot] == 0:  # a missing value already has its key
                keys[column.slot] = self._bucket_key(column, float(numbers[index]), observe)
        if observe and len(row) > self.slots + len(self._learned):
            self.tally.truncated += int(row[-1])
        return keys

    def _bucket_key(self, column: Column, number: float, observe: bool) -> int:
        """Key of a value's bucket, determined by the values before it."""
        summary = column.learned
        assert summary is not None
        key = column.bucket_keys[summary.bucket(number)]
        if observe:
            summary.observe(number)
        return key

    def peek_keys(self, features: Features) -> NDArray[np.uint64]:
        """The keys that :meth:`keys` would return now; changes nothing and counts nothing.

        Raises:
            RecordError: a name or value does not fit the schema.
        """
        return self._encode(self._all, (features,), observe=False).reshape(self.slots)

    def keys_many(self, features: Sequence[Features]) -> NDArray[np.uint64]:
        """Keys uint64 [B, S] of the next B impressions: equal to :meth:`keys` of each, but faster.

        Raises:
            RecordError: an impression does not fit the schema; none of them is observed.
        """
        return self._encode(self._all, features, observe=True)

    def peek_keys_many(self, features: Sequence[Features], tally: Tally | None = None) -> NDArray[np.uint64]:
        """Keys uint64 [B, S] of B impressions, equal to :meth:`peek_keys` of each. ``tally`` decides whether
        unknown features may be ignored, and counts what is left out."""
        return self._encode(self._all, features, observe=False, tally=tally)

    def peek_request_keys(
        self, context: Features, candidates: Sequence[Features], tally: Tally | None = None
    ) -> NDArray[np.uint64]:
        """Keys uint64 [B, S] of B candidates in one context; a candidate's features override the context's.

        Equal to ``peek_keys_many([{**context, **own} for own in candidates])``, but features that only the
        context has are hashed once. ``tally`` decides whether unknown features may be ignored, and counts
        what is left out; an unknown feature counts once.

        Raises:
            RecordError: a name or value does not fit the schema.
        """
        if not candidates:
            return np.zeros((0, self.slots), np.uint64)
        if len(candidates) == 1:  # nothing to share: one encoding takes half the time of two
            return self._encode(self._all, ({**context, **candidates[0]},), observe=False, tally=tally)
        names = frozenset().union(*candidates)
        if not (names <= self._names and context.keys() <= self._names):
            unknown = self._unknown_of(names | context.keys(), tally)
            names &= self._names
            if tally is not None:
                tally.ignore(unknown)
        shared, own, shared_slots = self._split(names)
        below = {name: context[name] for name in names if name in context}
        if below:
            candidates = [{**below, **features} for features in candidates]
        keys = self._encode(own, candidates, observe=False, tally=tally)
        keys[:, shared_slots] = self._encode(shared, (context,), observe=False, tally=tally)[0, shared_slots]
        return keys

    def _split_at(self, names: frozenset[str]) -> tuple[ColumnGroup, ColumnGroup, NDArray[np.int64]]:
        """The columns outside ``names``, the columns of ``names``, and the slots of the first group."""
        shared = [column for column in self._columns if column.name not in names]
        own = [column for column in self._columns if column.name in names]
        slots = [column.slot + offset for column in shared for offset in range(column.width)]
        return ColumnGroup(shared), ColumnGroup(own), np.array(slots, np.int64)

    def _encode(
        self, columns: ColumnGroup, events: Sequence[Features], observe: bool, tally: Tally | None = None
    ) -> NDArray[np.uint64]:
        """Keys [B, S] of some columns; 0 in the slots of the others. The caller checks the names, unless
        ``columns`` are all columns."""
        draft = Draft()
        for event, features in enumerate(events):
            if columns is self._all and not features.keys() <= self._names:
                draft.ignored.append(self._unknown_of(features.keys(), tally))
            draft_event(columns, event * self.slots, features, draft)
        data, lengths = text_bytes(columns.texts, draft.texts)
        integers = integer_values(columns.integers, draft.integers)
        # Nothing below can fail, so observations need no rollback.
        keys = event_keys(
            data, lengths, columns.text_table, integers, columns.integer_table, len(events), self.slots
        )
        flat = keys.reshape(-1)
        for position, known in draft.known:
            flat[position : position + len(known)] = known
        for position, column, number in draft.learned:
            flat[position] = self._bucket_key(column, number, observe)
        if observe:
            tally = self.tally
        if tally is not None:
            tally.truncated += draft.truncated
            for names in draft.ignored:
                tally.ignore(names)
        return keys

    def _unknown_of(self, names: AbstractSet[str], tally: Tally | None) -> AbstractSet[str]:
        """The names without a field.

        Raises:
            RecordError: unknown features are rejected.
        """
        found = names - self._names
        if (self.tally if tally is None else tally).refuses:
            raise self._unknown(found)
        return found

    def _unknown(self, names: AbstractSet[str]) -> RecordError:
        name = min(map(str, names))
        near = difflib.get_close_matches(name[:200], sorted(self._names), n=1)
        known = ", ".join(sorted(self._names)[:8])
        hint = f"did you mean {near[0]!r}?" if near else f"the schema has {known}"
        return RecordError(
            f"unknown field {shown(name)}: {hint}; add it to features.fields, leave it out, or "
            "set features.unknown = 'ignore'"
        )

    def state(self) -> State:
        """Quantile summaries of the learned fields, and the tally."""
        parts = {
            f"field{index}": column.learned.state()
            for index, column in enumerate(self._columns)
            if column.learned is not None
        }
        gathered = State.gather(parts)
        own: dict[str, Json] = {**self.tally.values(), "schema": self._schema()}
        return State(gathered.arrays, {**gathered.values, **own})

    def load_state(self, state: State) -> None:
        """Restore a state that :meth:`state` returned; an error leaves the encoder unchanged.

        Raises:
            StateError: the state belongs to other fields or is damaged.
        """
        if state.values.get("schema") != self._schema():
            raise StateError(
                f"the saved keys belong to the fields {state.values.get('schema')}, but the configuration "
                f"has {self._schema()}; restore features.fields"
            )
        tally = Tally("refuse" if self.tally.refuses else "ignore")
        tally.load(state.values)
        loaded: list[QuantileBuckets | None] = []
        for index, column in enumerate(self._columns):
            summary = None
            if column.learned is not None:
                summary = QuantileBuckets(column.learned.buckets)
                summary.load_state(state.part(f"field{index}"))
            loaded.append(summary)
        self.tally = tally
        for column, summary in zip(self._columns, loaded, strict=True):
            column.learned = summary

    def _schema(self) -> list[Json]:
        return [f"{item.name}:{item.kind}" for item in self.fields]
