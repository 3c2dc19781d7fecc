"""From keys and actions to a batch: the last step of the pipeline."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from stream_ctr.batch import ASIDE, Batch, RowChanges
from stream_ctr.features.rows.tables import FeatureTables


class Event(NamedTuple):
    """One row of a batch before it is encoded; the names are those of the batch."""

    keys: bytes
    """uint64 [S] as bytes, which are faster to join and to hold than arrays."""
    action: int
    label: float
    served: float
    time_ms: int
    impression: int
    truth: float


def encode(events: Sequence[Event], tables: FeatureTables, slots: int) -> Batch:
    """Encode events in order; the tables count their features and admit them.

    Encoding a sequence as a whole or in parts gives the same rows, ratios and changes.
    """
    if not events:
        return _empty(slots)
    keys, action, label, served, time_ms, impression, truth = zip(*events, strict=True)
    actions = np.array(action, np.uint8)
    times = np.array(time_ms, np.int64)
    taken = np.frombuffer(bytearray().join(keys), np.uint64).reshape(len(events), slots)
    encoded = tables.encode(taken, actions, times)
    actions &= np.uint8(255 - ASIDE)
    return Batch(
        rows=encoded.rows,
        ratio=encoded.ratio,
        label=np.array(label, np.float32),
        weight=np.ones(len(events), np.float32),
        action=actions,
        served=np.array(served, np.float32),
        time_ms=times,
        impression=np.array(impression, np.int64),
        truth=np.array(truth, np.float32),
        changes=encoded.changes,
    )


def _empty(slots: int) -> Batch:
    number, count = np.zeros(0, np.float32), np.zeros(0, np.int64)
    return Batch(
        rows=np.zeros((0, slots), np.int64),
        ratio=np.zeros((0, slots), np.float32),
        label=number,
        weight=number,
        action=np.zeros(0, np.uint8),
        served=number,
        time_ms=count,
        impression=count,
        truth=number,
        changes=RowChanges.none(),
    )
