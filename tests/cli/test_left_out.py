"""``evaluate`` reports the values and features that it ignores."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stream_ctr.cli import main


@pytest.fixture
def data(tmp_path: Path) -> list[str]:
    """Rows whose first tag determines the label; ten more tags are noise."""
    rows = [
        {"click": number % 2, "tags": [f"first{number % 2}", *(f"t{tag}" for tag in range(10))], "ad": "a"}
        for number in range(60)
    ]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    fields = '[{name = "tags", kind = "multi", max_values = 4}, {name = "ad"}]'
    (tmp_path / "schema.toml").write_text(f'label = "click"\nfields = {fields}\n')
    schema = f"schema={tmp_path / 'schema.toml'}"
    return ["evaluate", "jsonl", str(tmp_path / "data.jsonl"), "--option", schema]


def test_cut_values_are_counted_and_the_first_are_kept(
    data: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*data, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["values_truncated"], found["features_ignored"]) == (7 * 60, {})
    assert found["auc"] > 0.9
    assert main(data) == 0
    assert "values truncated from lists longer than max_values: 420, 7.0 per event" in capsys.readouterr().out


def test_features_without_a_field_are_reported_or_rejected(
    data: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "config.toml"
    config.write_text('[features]\nfields = [{name = "ad"}]\n')
    assert main([*data, "--config", str(config)]) == 0
    assert "no field has their name: tags (60)" in capsys.readouterr().out
    config.write_text('[features]\nunknown = "refuse"\nfields = [{name = "ad"}]\n')
    assert main([*data, "--config", str(config)]) == 1
    assert "unknown field 'tags'" in capsys.readouterr().err
