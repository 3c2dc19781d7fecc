"""Datasets by name, their options and presets."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from stream_ctr.datasets.base import (
    PRESETS,
    convert_options,
    dataset_names,
    open_dataset,
    parse_options,
    preset_fields,
)
from stream_ctr.errors import UsageError


def test_an_unknown_dataset_names_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match=r"no dataset named 'critéo'; did you mean 'criteo'\?; known: criteo, "
    ):
        open_dataset("critéo", tmp_path)
    with pytest.raises(UsageError, match="known: criteo, avazu, taobao, open-bandit, world"):
        preset_fields("delimited")


def test_every_preset_equals_the_fields_of_its_dataset() -> None:
    for name in PRESETS:
        assert open_dataset(name).fields == preset_fields(name)
        names = [field.name for field in preset_fields(name)]
        assert len(names) == len(set(names)) > 5


def test_every_dataset_is_registered_under_its_own_name() -> None:
    assert set(dataset_names()) == {"criteo", "avazu", "taobao", "open-bandit", "delimited", "jsonl", "world"}
    for name in PRESETS:
        dataset = open_dataset(name)
        assert dataset.name == name
        assert dataset.note


def test_a_missing_path_fails_at_once(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file or folder"):
        open_dataset("avazu", tmp_path / "absent.csv")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"row": "1"},
            r"no option 'row'; did you mean 'rows'\?; known: on_bad_row, max_bad_share, rows, ",
        ),
        ({"rows": "many"}, "option rows = 'many' is not a whole number"),
        ({"span_seconds": "long"}, "is not a number"),
    ],
)
def test_bad_options_are_named(options: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        open_dataset("criteo", None, options)


def test_options_of_a_dataset_without_any() -> None:
    @dataclass
    class Bare:
        pass

    with pytest.raises(UsageError, match="no option 'x'; it has no options"):
        convert_options("bare", Bare, {"x": "1"})


def test_options_from_the_command_line() -> None:
    assert parse_options(["a=1", "b=c=d"]) == {"a": "1", "b": "c=d"}
    for texts in (["a"], ["=1"], ["a=1", "a=2"]):
        with pytest.raises(UsageError, match="option"):
            parse_options(texts)


def test_the_world_is_a_dataset() -> None:
    world = open_dataset("world", None, {"seed": "5", "events": "40"})
    examples = list(world.read(""))
    assert len(examples) == 40
    assert all(set(example.features) == {field.name for field in world.fields} for example in examples)
    assert list(world.read("", limit=7)) == examples[:7]
