"""Rows and counts of the training rows: equal to the stream's, with the papers' minimum count."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from stream_ctr.batch import ABSENT, PREDICT
from stream_ctr.config.features import FeaturesConfig
from stream_ctr.features.keys.encoder import KeyEncoder
from stream_ctr.features.rows.tables import FeatureTables
from stream_ctr.offline import vocabulary as module
from stream_ctr.offline.protocol import BatchProtocol
from stream_ctr.offline.split import TRAINING
from tests.support.planted_dataset import FIELDS, Made, prepared

BY_TIME = BatchProtocol(split="time")


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BLOCK", 100)


def streamed(config: FeaturesConfig, rows: int) -> FeatureTables:
    """The stream's tables after the first rows."""
    encoder = KeyEncoder(FIELDS)
    tables = FeatureTables(encoder.slot_field, len(FIELDS), config)
    for made in Made(rows=rows).read():
        tables.encode(
            encoder.keys(made.features)[None, :],
            np.full(1, PREDICT, np.uint8),
            np.array([made.time_ms], np.int64),
        )
    return tables


@pytest.mark.parametrize("counts", ["running", "decayed"])
def test_tables_are_those_of_the_stream_after_the_training_rows(tmp_path: Path, counts: str) -> None:
    config = FeaturesConfig(
        counts="decayed" if counts == "decayed" else "running", half_life_seconds=60.0, fields=FIELDS
    )
    made = prepared(tmp_path, BY_TIME, features=config)
    training = int((made.part == TRAINING).sum())
    tables = streamed(config, training)
    state = made.feed.vocabulary.tables_state(config, made.feed.encoded.slot_field, len(FIELDS))
    expected = tables.state()
    for name in ("row_key", "row_field", "sketch"):
        assert np.array_equal(state.arrays[name], expected.arrays[name]), name
    assert state.values == expected.values
    ours = FeatureTables(made.feed.encoded.slot_field, len(FIELDS), config)
    ours.load_state(state)
    assert np.allclose(ours.row_count, tables.row_count, rtol=1e-9)
    assert np.allclose(ours.field_maximum, tables.field_maximum, rtol=1e-9)
    ratio = made.feed.vocabulary.ratio
    maximum = tables.field_maximum[tables.row_field]
    assert np.allclose(ratio[len(FIELDS) : -1], (tables.row_count / maximum)[len(FIELDS) :], rtol=1e-6)
    assert not ratio[: len(FIELDS)].any()
    assert ratio[-1] == 0.0


def test_a_value_needs_the_minimum_count_of_training_rows(tmp_path: Path) -> None:
    made = prepared(tmp_path, features=FeaturesConfig(minimum_count=5, fields=FIELDS))
    encoded, vocabulary = made.feed.encoded, made.feed.vocabulary
    seen: Counter[int] = Counter()
    for row, part in zip(encoded.row, made.part, strict=True):
        if part == TRAINING:
            seen.update(int(number) for number in row if number >= 0)
    rows = made.feed.rows(np.arange(len(encoded)))
    defaults = repeated = 0
    for own, numbers in zip(rows, encoded.row, strict=True):
        present = own[own != ABSENT]
        assert len(set(present.tolist())) == len(present)
        for slot, number in enumerate(numbers):
            if number == ABSENT:
                assert own[slot] == ABSENT
            elif seen[int(number)] >= 5:
                assert vocabulary.key[own[slot]] == encoded.key[number]
                assert vocabulary.count[own[slot]] == seen[int(number)]
            else:
                field = int(encoded.slot_field[slot])
                assert own[slot] in (field, ABSENT)
                assert field in own
                defaults += own[slot] == field
                repeated += own[slot] == ABSENT
    assert defaults > 20
    assert len(vocabulary.key) == len(FIELDS) + sum(count >= 5 for count in seen.values())


def test_two_rare_tags_of_one_event_share_the_default_row_once(tmp_path: Path) -> None:
    made = prepared(tmp_path, features=FeaturesConfig(minimum_count=10_000, fields=FIELDS))
    rows = made.feed.rows(np.arange(len(made.feed.encoded)))
    tags = rows[:, 3:]
    several = (made.feed.encoded.row[:, 3:] != ABSENT).sum(axis=1) > 1
    assert several.sum() > 50
    assert ((tags == 3).sum(axis=1) <= 1).all()
    assert (tags[several].max(axis=1) == 3).all()


def test_a_value_that_was_rare_in_training_is_admitted_at_its_next_sightings(tmp_path: Path) -> None:
    config = FeaturesConfig(minimum_count=5, fields=FIELDS)
    made = prepared(tmp_path, BY_TIME, features=config)
    slot_field = made.feed.encoded.slot_field
    tables = FeatureTables(slot_field, len(FIELDS), config)
    tables.load_state(made.feed.vocabulary.tables_state(config, slot_field, len(FIELDS)))
    waiting, times = made.feed.vocabulary.waiting
    assert len(waiting) > 3
    for key, seen in zip(waiting[:10], times[:10], strict=True):
        keys = np.zeros((1, len(slot_field)), np.uint64)
        slot = int(
            np.flatnonzero(slot_field == _field_of(made.feed.encoded.key, made.feed.encoded.field, key))[0]
        )
        keys[0, slot] = key
        sightings = 0
        while tables.lookup(keys)[0, slot] < len(FIELDS):
            tables.encode(keys, np.full(1, PREDICT, np.uint8), np.array([2 * 10**12]))
            sightings += 1
        assert seen + sightings == 5


def _field_of(keys: np.ndarray, fields: np.ndarray, key: np.uint64) -> int:
    return int(fields[np.flatnonzero(keys == key)[0]])
