"""Snapshots for tests: small models with random weights over a few fields."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from stream_ctr.config.features import FieldConfig
from stream_ctr.config.model import ModelConfig
from stream_ctr.features.keys.encoder import KeyEncoder
from stream_ctr.features.keys.value_batch import Features
from stream_ctr.features.rows.vocabulary import capacity_for, insert_all
from stream_ctr.predictors.compiled_forward import expected_shapes
from stream_ctr.predictors.snapshot import SnapshotContent
from stream_ctr.state.state import Arrays

FIELDS = (
    FieldConfig("site"),
    FieldConfig("tags", "multi", max_values=3),
    FieldConfig("age", "integer"),
    FieldConfig("price", "float", boundaries=(1.0, 10.0)),
)
SMALL = ModelConfig(embedding=4, hidden=(8, 6))


def random_dense(model: ModelConfig, fields: int, seed: int = 1) -> Arrays:
    """Weights large enough that every part of the network bends the result."""
    random = np.random.default_rng(seed)
    return {
        name: (random.normal(0.0, 0.6, shape)).astype(np.float32)
        for name, shape in expected_shapes(model, fields).items()
    }


def random_table(model: ModelConfig, rows: int, seed: int = 2) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(0.0, 1.0, (rows, model.embedding)).astype(np.float32)


def random_rows(slot_field: list[int], table: int, events: int, seed: int = 3) -> NDArray[np.int64]:
    """Rows [B, S] with empty slots here and there, also whole fields without a value."""
    random = np.random.default_rng(seed)
    rows = random.integers(0, table, (events, len(slot_field)))
    return np.where(random.random(rows.shape) < 0.3, -1, rows).astype(np.int64)


def vocabulary(fields: tuple[FieldConfig, ...], known: list[Features]) -> tuple[Arrays, int]:
    """Lookup arrays that give each key of these features a row of its own, and the number of rows."""
    keys = np.unique(KeyEncoder(fields).peek_keys_many(known))
    keys = keys[keys != 0]
    capacity = capacity_for(len(keys))
    table_keys, table_rows = np.zeros(capacity, np.uint64), np.zeros(capacity, np.int32)
    assert insert_all(table_keys, table_rows, keys, len(fields)) == len(keys)
    return {"table_keys": table_keys, "table_rows": table_rows}, len(fields) + len(keys)


def example_snapshot(seed: int = 1) -> SnapshotContent:
    """A model of some weight that knows a few values of each field."""
    known: list[Features] = [
        {"site": site, "tags": tags, "age": age, "price": price}
        for site, tags, age, price in (
            ("news", ["a", "b"], 31, 0.5),
            ("sport", ["b", "c"], 5, 5.0),
            ("games", [], 70, 50.0),
        )
    ]
    arrays, rows = vocabulary(FIELDS, [*known, {}])
    return SnapshotContent(
        model=SMALL,
        fields=FIELDS,
        dense=random_dense(SMALL, len(FIELDS), seed),
        rows=random_table(SMALL, rows, seed),
        vocabulary=arrays,
        encoder=KeyEncoder(FIELDS).state(),
        event_time_ms=1_700_000_000_000,
    )
