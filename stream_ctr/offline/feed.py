"""Batches for the learner from encoded columns: any rows, in any order."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from stream_ctr.batch import ABSENT, LEARN, PREDICT, Batch, RowChanges
from stream_ctr.offline.encoded import EncodedRows
from stream_ctr.offline.vocabulary import TrainingVocabulary

PREDICT_ROWS: Final = 8192
"""Rows per call of ``predict``, which bounds its memory."""


class Feed:
    """Batches of a dataset, with the embedding rows of a training vocabulary."""

    def __init__(self, encoded: EncodedRows, vocabulary: TrainingVocabulary) -> None:
        self.encoded = encoded
        self.vocabulary = vocabulary
        slot_field = encoded.slot_field
        fields, first, slots = np.unique(slot_field, return_index=True, return_counts=True)
        self._lists = [
            (int(field), slice(int(start), int(start + size)))
            for field, start, size in zip(fields, first, slots, strict=True)
            if size > 1
        ]

    def rows(self, index: NDArray[np.int64]) -> NDArray[np.int64]:
        """Embedding rows [B, S] of the examples ``index`` [B]; each row occurs once per event."""
        found = self.vocabulary.row_of[self.encoded.row[index]]
        for field, slots in self._lists:
            default = found[:, slots] == field
            repeated = default & (np.cumsum(default, axis=1) > 1)
            found[:, slots][repeated] = ABSENT
        return found

    def batch(self, index: NDArray[np.int64], *, first: bool = False) -> Batch:
        """A training batch of the examples ``index`` [B]; the ``first`` batch creates all embedding rows."""
        rows = self.rows(index)
        events = len(index)
        nan = np.full(events, np.nan, np.float32)
        return Batch(
            rows=rows,
            ratio=self.vocabulary.ratio[rows],
            label=self.encoded.label[index].astype(np.float32),
            weight=np.ones(events, np.float32),
            action=np.full(events, PREDICT | LEARN, np.uint8),
            served=nan,
            time_ms=np.asarray(self.encoded.time_ms[index]),
            impression=index,
            truth=nan,
            changes=self.vocabulary.changes() if first else RowChanges.none(),
        )
