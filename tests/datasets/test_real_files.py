"""The readers on the real files, if they are available."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from stream_ctr.datasets.base import Example, open_dataset


def _in_order(examples: Sequence[Example]) -> bool:
    times = [example.time_ms for example in examples]
    return times == sorted(times)


def _read(path: Path, name: str, options: dict[str, str] | None = None) -> list[Example]:
    if not path.exists():
        pytest.skip(f"no real data: {path} is not there")
    dataset = open_dataset(name, path, options)
    examples = list(dataset.read(path))
    known = {field.name for field in dataset.fields}
    assert all(example.features.keys() <= known for example in examples)
    assert len({example.event_id for example in examples}) == len(examples)
    return examples


def test_criteo(data_folder: Path) -> None:
    examples = _read(data_folder / "criteo_head" / "criteo_head.tsv.xz", "criteo", {"rows": "137139"})
    assert len(examples) == 80_000
    assert sum(example.label for example in examples) / len(examples) == pytest.approx(0.257, abs=0.005)
    assert _in_order(examples)
    assert examples[-1].time_ms / 86_400_000 == pytest.approx(4.1, abs=0.05)


def test_avazu(data_folder: Path) -> None:
    examples = _read(data_folder / "avazu_format" / "avazu_head.csv.xz", "avazu")
    assert len(examples) == 9_999
    assert sum(example.label for example in examples) / len(examples) == pytest.approx(0.1706, abs=5e-5)
    assert _in_order(examples)
    assert examples[-1].time_ms - examples[0].time_ms < 3_600_000


def test_open_bandit(data_folder: Path) -> None:
    clicks = 0
    for policy in ("random", "bts"):
        for campaign, items in (("all", 80), ("men", 34), ("women", 46)):
            examples = _read(data_folder / "open_bandit" / policy / campaign, "open-bandit")
            assert len(examples) == 10_000
            assert _in_order(examples)
            clicks += sum(example.label for example in examples)
            assert len({example.features["item_id"] for example in examples}) == items
            if policy == "random":
                assert {round((example.propensity or 0) * items, 9) for example in examples} == {1.0}
    assert clicks == 287
