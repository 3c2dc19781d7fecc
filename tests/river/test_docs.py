"""The examples of docs/river.md run as they stand."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from stream_ctr.config.settings import load_settings
from stream_ctr.learners.river.registry import NAMED

PAGE = (Path(__file__).parents[2] / "docs" / "river.md").read_text("utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def test_python_examples_run() -> None:
    found = blocks("python")
    assert len(found) == 2
    names: dict[str, Any] = {}
    for block in found:
        exec(compile(block, "docs/river.md", "exec"), names)


@pytest.mark.parametrize(
    ("number", "arm", "weight", "classifier"),
    [(0, "ftrl", 0.5, "river-ftrl"), (1, "forest", 1.0, "river-forest")],
)
def test_configuration_examples_name_arms_of_river(
    number: int, arm: str, weight: float, classifier: str, tmp_path: Path
) -> None:
    text = blocks("toml")[number]
    assert tomllib.loads(text)
    other = f'[[experiment.arms]]\nname = "other"\nweight = {weight}\n'
    path = tmp_path / "config.toml"
    path.write_text(other + text, "utf-8")
    assert load_settings(path).arm(arm).learner.river == classifier
    assert len(blocks("toml")) == 2


def test_every_named_classifier_is_in_the_table() -> None:
    for name in NAMED:
        assert f"| `{name}` |" in PAGE
