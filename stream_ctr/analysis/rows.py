"""Data of an analysis: batches to learn from, and a held-out slice after them to measure on."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from stream_ctr.batch import Batch, RowChanges
from stream_ctr.config.features import FieldConfig
from stream_ctr.config.settings import Settings
from stream_ctr.datasets.base import WITHOUT_PATH, Dataset, Example, open_dataset, parse_options
from stream_ctr.errors import DataError, UsageError
from stream_ctr.features.keys.encoder import KeyEncoder
from stream_ctr.features.rows.tables import FeatureTables
from stream_ctr.optim.count_ratios import count_ratios
from stream_ctr.pipeline.from_examples import direct_batches

STREAM_CHUNK = 256
"""Events per batch if every event is an update of its own."""


@dataclass(frozen=True, slots=True)
class Slice:
    """n held-out events over S slots, with the rows that training assigned to their features."""

    rows: NDArray[np.int64]
    """[n, S] rows; the field's default row for a feature that was not learned, ABSENT for an empty slot."""
    label: NDArray[np.float64]
    """[n] 1 clicked, 0 not."""
    examples: tuple[Example, ...]
    """The original events."""


@dataclass(frozen=True, slots=True)
class Rows:
    """A dataset, encoded in the same way as by the trainer."""

    dataset: str
    note: str
    fields: tuple[FieldConfig, ...]
    slot_field: NDArray[np.int64]
    """[S] field of each slot."""
    batches: tuple[Batch, ...]
    """The events to learn from, in order."""
    events: int
    """Number of events in the batches."""
    final_ratio: NDArray[np.float32]
    """[V] N / M of each row after all batches."""
    held_out: Slice

    def steps(self, count: int) -> Iterator[Batch]:
        """``count`` batches; after the last one, again from the first.

        From the second pass on, no row is initialized again, and N / M is that of the whole set.
        """
        again = [
            replace(
                batch,
                changes=RowChanges.none(),
                ratio=np.where(batch.rows >= 0, self.final_ratio[batch.rows], np.float32(0.0)),
            )
            for batch in (self.batches if count > len(self.batches) else ())
        ]
        for step in range(count):
            yield self.batches[step] if step < len(self.batches) else again[step % len(again)]


def open_rows(
    arguments: argparse.Namespace,
    settings: Settings,
    *,
    events: int,
    held_out: int,
    chunk: int,
    steps: int | None = None,
) -> Rows:
    """Read ``events`` rows to learn from, in batches of ``chunk``, and the ``held_out`` rows after them.

    If only ``steps`` batches will be learned, the rows between them and the slice are skipped.

    Raises:
        UsageError: the dataset, the path or an option does not exist.
        DataError: the data cannot be read, or have too few rows.
    """
    dataset = _dataset(arguments)
    fields = settings.features.fields if arguments.config and settings.features.fields else dataset.fields
    encoder = KeyEncoder(fields)
    tables = FeatureTables(encoder.slot_field, len(fields), settings.features)
    examples = dataset.read(arguments.path or "", events + held_out)
    use = events if steps is None else min(events, steps * chunk)
    batches = tuple(direct_batches(islice(examples, use), encoder, tables, chunk))
    learned = sum(len(batch) for batch in batches)
    skipped = sum(1 for _ in islice(examples, events - use))
    rest = tuple(examples)
    if (found := learned + skipped + len(rest)) < events + held_out:
        wanted = f"--events {events:,}" + (f" and --slice {held_out:,}" if held_out else "")
        raise DataError(
            f"{arguments.path or arguments.dataset}: contains {found:,} rows, fewer than {wanted} "
            "require; reduce them"
        )
    keys = encoder.peek_keys_many([example.features for example in rest])
    ratio = count_ratios(tables.row_count, tables.row_field.astype(np.int64), len(fields), len(fields))
    label = np.array([example.label for example in rest], np.float64)
    return Rows(
        dataset.name,
        dataset.note,
        fields,
        encoder.slot_field.astype(np.int64),
        batches,
        learned,
        ratio,
        Slice(tables.lookup(keys), label, rest),
    )


def _dataset(arguments: argparse.Namespace) -> Dataset:
    if arguments.path is None and arguments.dataset not in WITHOUT_PATH:
        open_dataset(arguments.dataset, None)
        raise UsageError(f"{arguments.dataset} requires the path of its data")
    return open_dataset(arguments.dataset, arguments.path, parse_options(arguments.option))
