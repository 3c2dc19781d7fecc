"""Training rows: a Criteo file, or 39 fields of Zipf-distributed values with known effects."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np

from stream_ctr.batch import Batch
from stream_ctr.config.features import FeaturesConfig, FieldConfig
from stream_ctr.datasets.base import Example, open_dataset
from stream_ctr.errors import DataError
from stream_ctr.events.records import FeatureValue
from stream_ctr.features.keys.encoder import KeyEncoder
from stream_ctr.features.rows.tables import FeatureTables
from stream_ctr.pipeline.from_examples import direct_batches

FIELDS: Final = 39
SEED: Final = 1
EXPONENT: Final = 1.2
"""Exponent of the Zipf law: about a tenth of a field's values in the stream are new."""
MOST_VALUES: Final = 100_000
"""Maximum number of values per field; larger values are clipped to it."""


def step_batches(path: str | None, events: int, chunk: int) -> tuple[list[Batch], str]:
    """Batches of ``chunk`` events, encoded as in the trainer, and a description of their source.

    Raises:
        DataError: the file cannot be read, is not a Criteo file, or has fewer rows than one chunk.
    """
    if path is None:
        fields = tuple(FieldConfig(f"field_{j}") for j in range(FIELDS))
        examples, source = zipf_examples(events), "Zipf rows"
    else:
        dataset = open_dataset("criteo", path)
        fields, examples, source = dataset.fields, dataset.read(path, events), f"Criteo rows of {path}"
    encoder = KeyEncoder(fields)
    tables = FeatureTables(encoder.slot_field, len(fields), FeaturesConfig(fields=fields))
    # Complete chunks only: a short last chunk would have the same weight in the timings.
    batches = [b for b in direct_batches(examples, encoder, tables, chunk) if len(b) == chunk]
    if not batches:
        raise DataError(f"{path}: has fewer than {chunk} rows, the size of one chunk; choose a larger file")
    return batches, source


def zipf_examples(events: int) -> Iterator[Example]:
    """Examples with 39 fields whose values follow a Zipf law; each value has a small effect on the logit.

    >>> first = next(zipf_examples(1))
    >>> len(first.features), first.label in (0, 1)
    (39, True)
    """
    rng = np.random.default_rng(SEED)
    effects = rng.normal(0.0, 0.25, (FIELDS, MOST_VALUES + 1))
    for number in range(events):
        values = np.minimum(rng.zipf(EXPONENT, FIELDS), MOST_VALUES)
        logit = -1.0 + float(effects[np.arange(FIELDS), values].sum())
        label = int(rng.random() < 1.0 / (1.0 + np.exp(-logit)))
        features: dict[str, FeatureValue] = {f"field_{j}": str(value) for j, value in enumerate(values)}
        yield Example(str(number), number, "", features, label)
