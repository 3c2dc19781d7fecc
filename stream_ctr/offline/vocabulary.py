"""Embedding rows from the counts of the training rows, as in the papers' preprocessing.

A value with fewer than ``minimum_count`` occurrences in the training rows shares its field's default row, as
does a value that occurs only in validation or test rows. Counts and vocabulary equal those of the stream's
tables after the training rows, so a stream can continue from them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stream_ctr.batch import ABSENT, RowChanges
from stream_ctr.config.features import FeaturesConfig
from stream_ctr.features.rows import admission
from stream_ctr.features.rows.tables import FeatureTables
from stream_ctr.kernels.decorators import kernel
from stream_ctr.offline.encoded import EncodedRows
from stream_ctr.offline.split import TRAINING
from stream_ctr.optim.count_ratios import count_ratios
from stream_ctr.state.state import State

_BLOCK: Final = 1 << 18
"""Rows counted at a time."""


@dataclass(frozen=True, slots=True)
class TrainingVocabulary:
    """R embedding rows for V value ids; the F default rows come first."""

    row_of: NDArray[np.int64]
    """[V + 1] embedding row of each value id; the last entry is for ABSENT, which is -1."""
    field: NDArray[np.int32]
    """[R] field of each row."""
    key: NDArray[np.uint64]
    """[R] key of each row, 0 for default rows."""
    count: NDArray[np.float64]
    """[R] occurrences in the training rows, decayed if so configured; 0 for default rows."""
    ratio: NDArray[np.float32]
    """[R + 1] count over the field's largest count: N_jk / M_j of eq. 7; 0 for default rows and ABSENT."""
    waiting: tuple[NDArray[np.uint64], NDArray[np.int64]]
    """[W] keys of training values below the minimum count, and [W] their occurrences."""
    now_ms: int
    """Latest time of a training row."""

    def changes(self) -> RowChanges:
        """Row changes that initialise all rows before the first event of a batch."""
        rows = len(self.key)
        return RowChanges(np.zeros(rows, np.int64), np.arange(rows), self.field, self.key)

    def tables_state(self, config: FeaturesConfig, slot_field: NDArray[np.int32], fields: int) -> State:
        """State of the stream's tables after the training rows."""
        decayed = config.counts == "decayed"
        maximum = np.zeros(fields)
        np.maximum.at(maximum, self.field, self.count)
        sketch = admission.empty_sketch(admission.CELLS if config.minimum_count > 1 else 1)
        if config.minimum_count > 1:
            _sight(sketch, admission.used_cells(sketch), *self.waiting, config.minimum_count)
        tables = FeatureTables(slot_field, fields, config)
        tables.load_state(
            State(
                {
                    "row_key": self.key[fields:].copy(),
                    "row_field": self.field.copy(),
                    "row_count": self.count.copy(),
                    "row_time_ms": np.full(len(self.key) if decayed else 0, self.now_ms, np.int64),
                    "maximum": maximum,
                    "maximum_time_ms": np.full(fields, self.now_ms, np.int64),
                    "sketch": sketch,
                },
                {"clock_ms": self.now_ms, "started": True},
            )
        )
        return tables.state()


def training_vocabulary(
    encoded: EncodedRows, part: NDArray[np.uint8], config: FeaturesConfig
) -> TrainingVocabulary:
    """The vocabulary of the training rows; ``part`` uint8 [N] is the output of the split."""
    fields = len(encoded.fields)
    sightings, weight, now_ms = _counted(encoded, part, config)
    admitted = sightings >= config.minimum_count
    admitted[:fields] = True
    row_of = np.full(len(sightings) + 1, ABSENT, np.int64)
    row_of[:-1] = encoded.field
    row_of[:-1][admitted] = np.arange(int(admitted.sum()))
    field = encoded.field[admitted]
    count = weight[admitted]
    count[:fields] = 0.0
    ratio = np.append(count_ratios(count, field.astype(np.int64), fields, fields), np.float32(0.0))
    unadmitted = (sightings > 0) & ~admitted
    return TrainingVocabulary(
        row_of,
        np.ascontiguousarray(field),
        np.ascontiguousarray(encoded.key[admitted]),
        count,
        ratio,
        (np.ascontiguousarray(encoded.key[unadmitted]), sightings[unadmitted]),
        now_ms,
    )


def _counted(
    encoded: EncodedRows, part: NDArray[np.uint8], config: FeaturesConfig
) -> tuple[NDArray[np.int64], NDArray[np.float64], int]:
    """Occurrences [V] of each value id in the training rows, their weights [V], and the latest time."""
    values = len(encoded.key)
    sightings = np.zeros(values, np.int64)
    decayed = config.counts == "decayed"
    weight = np.zeros(values if decayed else 0)
    now_ms = int(encoded.time_ms[part == TRAINING].max())
    for start in range(0, len(encoded), _BLOCK):
        training = part[start : start + _BLOCK] == TRAINING
        row = encoded.row[start : start + _BLOCK][training]
        present = row >= 0
        np.add.at(sightings, row[present], 1)
        if decayed:
            age = now_ms - encoded.time_ms[start : start + _BLOCK][training].astype(np.float64)
            share = np.exp2(-age / (config.half_life_seconds * 1000.0))
            np.add.at(weight, row[present], np.broadcast_to(share[:, None], row.shape)[present])
    return sightings, weight if decayed else sightings.astype(np.float64), now_ms


@kernel
def _sight(
    sketch: NDArray[np.uint16],
    used: NDArray[np.int64],
    key: NDArray[np.uint64],
    times: NDArray[np.int64],
    enough: int,
) -> None:
    """Count each key [W] ``times`` [W] times in the sketch [DEPTH, CELLS]; ``used`` [DEPTH]: used cells."""
    for index in range(len(key)):
        for _ in range(times[index]):
            admission.count_sighting(sketch, used, key[index], enough)
