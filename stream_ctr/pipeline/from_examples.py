"""Labelled examples to batches, for evaluation without a log: every label is known from the start."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from stream_ctr.batch import LEARN, PREDICT, SETTLE, Batch
from stream_ctr.errors import DataError, RecordError
from stream_ctr.events.records import FeatureValue
from stream_ctr.features.keys.encoder import KeyEncoder
from stream_ctr.features.rows.tables import FeatureTables
from stream_ctr.pipeline.encode import Event, encode
from stream_ctr.pipeline.label_actions import LabelPolicy

NAN = float("nan")


class LabelledExample(Protocol):
    """One impression with its outcome, as the readers of datasets return it."""

    @property
    def time_ms(self) -> int: ...
    @property
    def features(self) -> Mapping[str, FeatureValue]: ...
    @property
    def label(self) -> int: ...
    @property
    def truth(self) -> float | None: ...


def direct_batches(
    examples: Iterable[LabelledExample],
    key_encoder: KeyEncoder,
    tables: FeatureTables,
    chunk: int,
    labels: LabelPolicy | None = None,
) -> Iterator[Batch]:
    """Batches of at most ``chunk`` examples, each predicted and then learned, in the order given.

    With a label policy, each example gives the events that its impression would give if its click came
    immediately. The chunk size does not affect the concatenated batches.

    Raises:
        DataError: an example's features do not fit the schema, or its label is neither 0 nor 1.
    """
    remaining = iter(examples)
    first = 0
    while part := list(islice(remaining, chunk)):
        keys = _keys(part, key_encoder, first)
        events = [
            Event(
                keys[index].tobytes(),
                action,
                label,
                NAN,
                example.time_ms,
                first + index,
                NAN if example.truth is None else example.truth,
            )
            for index, example in enumerate(part)
            for action, label in _rows(_label(example, first + index), f"{first + index}", labels)
        ]
        yield encode(events, tables, key_encoder.slots)
        first += len(part)


def _keys(part: list[LabelledExample], key_encoder: KeyEncoder, first: int) -> NDArray[np.uint64]:
    try:
        return key_encoder.keys_many([example.features for example in part])
    except RecordError:
        # None of them was observed; encoding them one by one finds the invalid one.
        for index, example in enumerate(part):
            try:
                key_encoder.keys(example.features)
            except RecordError as error:
                raise DataError(f"example {first + index + 1}: {error}") from None
        raise


def _rows(label: float, event_id: str, labels: LabelPolicy | None) -> list[tuple[int, float]]:
    """Action and label of each event of one example."""
    if labels is None:
        return [(PREDICT | LEARN, label)]
    shown, final = labels.shown(event_id), labels.labelled(event_id, label, final=True)
    rows = [(shown, 0.0 if shown & LEARN else NAN), (final, label)]
    if label and final == SETTLE:
        rows.insert(1, (labels.labelled(event_id, label, final=False), label))
    return rows


def _label(example: LabelledExample, index: int) -> float:
    if example.label not in (0, 1):
        raise DataError(f"example {index + 1}: label must be 0 or 1, got {example.label!r}")
    return float(example.label)
