"""Columns on disk: equal to the pipeline's encoding, written once and atomically."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import numpy as np
import pytest

from stream_ctr.config.features import FeaturesConfig
from stream_ctr.daemon.process import StateLock
from stream_ctr.datasets.base import Example
from stream_ctr.errors import DataError, StateError
from stream_ctr.features.keys.encoder import KeyEncoder
from stream_ctr.features.rows.tables import FeatureTables
from stream_ctr.offline import encoded as module
from stream_ctr.offline.encoded import encoded_rows
from stream_ctr.pipeline.from_examples import direct_batches
from tests.support.planted_dataset import FIELDS, Made, columns


@dataclass(frozen=True)
class Counted(Made):
    """Stops after ``stop`` examples like a killed process; counts its reads in a file."""

    stop: int = 10**9
    log: str = ""

    def read(self, path: str | PathLike[str] = "", limit: int | None = None) -> Iterator[Example]:
        """The examples, up to the kill."""
        with Path(self.log).open("a", encoding="utf-8") as file:
            file.write("read\n")
        for number, made in enumerate(super().read(path, limit)):
            if number == self.stop:
                raise KeyboardInterrupt
            yield made


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK", 64)


def test_columns_hold_what_the_pipeline_encodes(tmp_path: Path) -> None:
    found = columns(tmp_path)
    encoder = KeyEncoder(FIELDS)
    tables = FeatureTables(encoder.slot_field, len(FIELDS), FeaturesConfig(fields=FIELDS))
    (batch,) = direct_batches(Made().read(), encoder, tables, 10_000)
    assert np.array_equal(found.row, batch.rows)
    assert np.array_equal(found.label, batch.label)
    assert np.array_equal(found.time_ms, batch.time_ms)
    assert np.array_equal(found.key, batch.changes.key)
    assert np.array_equal(found.field, batch.changes.field)
    assert found.keys_state.equals(encoder.state())


def test_a_work_folder_is_encoded_once(tmp_path: Path) -> None:
    made = Counted(log=str(tmp_path / "log"))
    for limit in (None, None, 300, 300):
        with encoded_rows(made, "", FIELDS, limit=limit, work=tmp_path / "work") as found:
            assert len(found) == (limit or made.rows)
    assert (tmp_path / "log").read_text() == "read\n" * 2


def test_an_interrupted_encoding_is_discarded(tmp_path: Path) -> None:
    work = tmp_path / "work"
    killed = Counted(stop=200, log=str(tmp_path / "log"))
    with (
        pytest.raises(KeyboardInterrupt),
        encoded_rows(killed, "", FIELDS, limit=None, work=work),
    ):
        pass
    assert len(columns(tmp_path)) == Made().rows
    assert not list(work.glob(".writing-*"))


def test_different_data_has_different_digests(tmp_path: Path) -> None:
    one, same, other = (columns(tmp_path / str(n), Made(seed=seed)) for n, seed in enumerate((0, 0, 1)))
    assert one.digest == same.digest != other.digest


def test_without_a_work_folder_no_files_remain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with encoded_rows(Made(), "", FIELDS, limit=50, work=None) as found:
        assert len(found) == 50
        assert list(tmp_path.iterdir())
    assert not list(tmp_path.iterdir())


def test_damaged_columns_are_rejected_by_name(tmp_path: Path) -> None:
    columns(tmp_path)
    (place,) = (tmp_path / "work").glob("encoded-*")
    label = place / "label"
    content = label.read_bytes()
    label.write_bytes(content[:-1])
    with pytest.raises(StateError, match="is damaged; remove it to encode the data again: the size of label"):
        columns(tmp_path)
    label.write_bytes(content)
    assert len(columns(tmp_path)) == 600
    (place / "manifest.json").write_text("{}")
    with pytest.raises(StateError, match="is damaged"):
        columns(tmp_path)


def test_empty_data_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="made: contains no rows to learn from"):
        columns(tmp_path, Made(rows=0))


def test_concurrent_encodings_are_rejected(tmp_path: Path) -> None:
    with StateLock(tmp_path / "work"), pytest.raises(StateError, match="in use by process"):
        columns(tmp_path)
