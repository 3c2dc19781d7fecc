"""Examples straight to batches."""

from __future__ import annotations

import numpy as np
import pytest

from stream_ctr.batch import COPY, LEARN, PREDICT, SETTLE, Batch
from stream_ctr.config.features import FeaturesConfig, FieldConfig
from stream_ctr.config.join import JoinConfig
from stream_ctr.datasets.base import Example
from stream_ctr.errors import DataError
from stream_ctr.features.keys.encoder import KeyEncoder
from stream_ctr.features.rows.tables import FeatureTables
from stream_ctr.pipeline.from_examples import direct_batches
from stream_ctr.pipeline.label_actions import LabelPolicy
from tests.pipeline.test_stream import assert_same, concatenated

FIELDS = (FieldConfig("site"), FieldConfig("price", "float", buckets=4))


def batches(examples: list[Example], chunk: int, labels: LabelPolicy | None = None) -> list[Batch]:
    encoder = KeyEncoder(FIELDS)
    tables = FeatureTables(encoder.slot_field, len(FIELDS), FeaturesConfig(minimum_count=2))
    return list(direct_batches(examples, encoder, tables, chunk, labels))


def some(count: int) -> list[Example]:
    return [
        Example(str(n), 10 * n, "u", {"site": f"s{n % 3}", "price": n / 7}, n % 2, truth=n / count)
        for n in range(count)
    ]


def test_each_example_is_predicted_and_learned_at_once() -> None:
    (batch,) = batches([*some(3), Example("x", 99, "u", {}, 1)], 10)
    assert batch.action.tolist() == [PREDICT | LEARN] * 4
    assert batch.label.tolist() == [0, 1, 0, 1]
    assert batch.impression.tolist() == [0, 1, 2, 3]
    assert batch.time_ms.tolist() == [0, 10, 20, 99]
    assert batch.truth[:3].tolist() == np.array([0, 1 / 3, 2 / 3], np.float32).tolist()
    assert np.isnan(batch.truth[3])
    assert np.isnan(batch.served).all()


def test_examples_become_what_their_impressions_would_under_a_label_policy() -> None:
    fast = LabelPolicy(JoinConfig(policy="fast"))
    (batch,) = batches(some(2), 10, fast)
    at_once, copy = PREDICT | LEARN | COPY, LEARN | COPY
    rows = list(zip(batch.action.tolist(), batch.impression.tolist(), batch.label.tolist(), strict=True))
    assert rows == [
        (at_once, 0, 0.0),
        (SETTLE, 0, 0.0),
        (at_once, 1, 0.0),
        (copy, 1, 1.0),
        (SETTLE, 1, 1.0),
    ]
    assert (batch.rows[3] == batch.rows[2]).all(), "a copy counts nothing again"
    none = LabelPolicy(JoinConfig(keep_negatives=1e-9))
    (batch,) = batches(some(2), 10, none)
    assert batch.action.tolist() == [PREDICT, SETTLE, PREDICT, LEARN]


def test_chunks_of_any_size_come_to_the_same_bits() -> None:
    examples = some(300)
    whole = batches(examples, 1000)
    for chunk in (1, 7, 256):
        parts = batches(examples, chunk)
        assert len(parts) == -(-300 // chunk)
        assert_same(concatenated(parts), concatenated(whole))


def test_no_examples_give_no_batch() -> None:
    assert batches([], 7) == []


@pytest.mark.parametrize("chunk", [1, 2, 100])
def test_example_that_does_not_fit_is_named(chunk: int) -> None:
    examples = some(5)
    examples[3] = examples[3]._replace(features={"color": "red"})
    with pytest.raises(DataError, match=r"example 4: .*color"):
        batches(examples, chunk)
    examples[3] = examples[3]._replace(features={}, label=2)
    with pytest.raises(DataError, match="example 4: label must be 0 or 1, got 2"):
        batches(examples, chunk)
