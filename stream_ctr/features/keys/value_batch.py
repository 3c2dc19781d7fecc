"""Collects the values of several events by field, for the kernels that hash them."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stream_ctr.events.records import FeatureValue
from stream_ctr.features.keys.canonical import MISSING_INTEGER, TEXT_TAG
from stream_ctr.features.keys.column import Column
from stream_ctr.features.keys.values import may_need_rewriting, plain_text

Features = Mapping[str, FeatureValue]


@dataclass(slots=True)
class Draft:
    """Values of several events, in order. The encoder changes only after all of them have been checked."""

    texts: list[Any] = field(default_factory=list)
    """Values of the categorical fields, event by event."""
    integers: list[Any] = field(default_factory=list)
    """Values of the integer fields, event by event."""
    learned: list[tuple[int, Column, float]] = field(default_factory=list)
    """Position in the keys, column and value, for values whose bucket depends on the values before them."""
    known: list[tuple[int, list[int]]] = field(default_factory=list)
    """Position in the keys, and the keys that start there."""
    truncated: int = 0
    """Number of list values without a slot."""
    ignored: list[AbstractSet[str]] = field(default_factory=list)
    """Names without a field, for each event that has such names."""


class ColumnGroup:
    """Several columns, grouped by how they are encoded, in schema order."""

    def __init__(self, columns: Sequence[Column]) -> None:
        self.texts = [column for column in columns if column.kind == "categorical"]
        self.integers = [column for column in columns if column.kind == "integer"]
        self.others = [column for column in columns if column.kind in ("multi", "float")]
        self.names = frozenset(column.name for column in columns)
        self.text_names = [column.name for column in self.texts]
        self.integer_names = [column.name for column in self.integers]
        self.text_values, self.integer_values = map(_values_of, (self.text_names, self.integer_names))
        """Getters for events with all features, three times as fast as a lookup by name."""
        self.text_table = _table(self.texts)
        self.integer_table = _table(self.integers)


def draft_event(columns: ColumnGroup, start: int, features: Features, draft: Draft) -> None:
    """Add the values of one event, whose keys begin at ``start``, to the draft."""
    if features.keys() >= columns.names:
        draft.texts += columns.text_values(features)
        draft.integers += columns.integer_values(features)
    else:
        draft.texts += map(features.get, columns.text_names)
        draft.integers += map(features.get, columns.integer_names)
    for column in columns.others:
        value = features.get(column.name)
        position = start + column.slot
        if column.kind == "multi":
            keys, cut = column.list_keys(value)
            draft.truncated += cut
            draft.known.append((position, keys))
        elif value is None or value == "":
            draft.known.append((position, [column.missing_key]))
        elif column.learned is not None:
            draft.learned.append((position, column, column.number(value)))
        else:
            bucket = bisect_right(column.boundaries, column.number(value))
            draft.known.append((position, [column.bucket_keys[bucket]]))


def text_bytes(columns: list[Column], texts: list[Any]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Canonical bytes of all texts and the length of each, as input of the kernel."""
    if not texts:
        # Read-only as below: for a writable array the kernel would be compiled again, during a request.
        return np.frombuffer(b"", np.uint8), np.zeros(0, np.int64)
    if None in texts:
        texts = ["" if text is None else text for text in texts]
    try:
        joined = TEXT_TAG + TEXT_TAG.join(texts)
    except TypeError:  # some values are not texts
        fields = len(columns)
        texts = [
            value if isinstance(value, str) else columns[index % fields].text(value)
            for index, value in enumerate(texts)
        ]
        joined = TEXT_TAG + TEXT_TAG.join(texts)
    if may_need_rewriting(joined):
        texts = [plain_text(text) for text in texts]
        joined = TEXT_TAG + TEXT_TAG.join(texts)
    try:
        data = joined.encode()
    except UnicodeEncodeError:
        for index, text in enumerate(texts):
            columns[index % len(columns)].check_unicode(text)
        raise
    ascii_only = len(data) == len(joined)
    # array.array converts Python integers faster than NumPy.
    lengths = array("q", map(len, texts) if ascii_only else [len(text.encode()) for text in texts])
    return np.frombuffer(data, np.uint8), np.frombuffer(lengths, np.int64)


def integer_values(columns: list[Column], values: list[Any]) -> NDArray[np.int64]:
    """All integers, as input of the kernel."""
    if bool not in map(type, values) and MISSING_INTEGER not in values:
        try:
            filled = [MISSING_INTEGER if value is None else value for value in values]
            return np.frombuffer(array("q", filled), np.int64)
        except (TypeError, OverflowError):
            pass  # the columns convert whole floats and texts, and raise an error for anything else
    fields = len(columns)
    checked = [
        MISSING_INTEGER if value is None or value == "" else columns[index % fields].integer(value)
        for index, value in enumerate(values)
    ]
    return np.array(checked, np.int64)


def _values_of(names: list[str]) -> Callable[[Features], tuple[Any, ...]]:
    if len(names) > 1:
        return itemgetter(*names)
    # For one name itemgetter returns the bare value, and it does not accept zero names.
    return (lambda features: (features[names[0]],)) if names else (lambda features: ())


def _table(columns: list[Column]) -> NDArray[np.uint64]:
    """[C, 3] slot, seed and missing key of each column."""
    rows = [(column.slot, column.seed, column.missing_key) for column in columns]
    return np.array(rows, np.uint64).reshape(len(columns), 3)
