"""``stream-ctr topics`` on the embedded log; the deployment's smoke test covers Kafka."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stream_ctr.cli import main
from stream_ctr.events.log import Record
from stream_ctr.events.open import open_log


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "c.toml"
    path.write_text(f'[log]\nurl = "sqlite:///{tmp_path}/events.db"\npartitions = 2\n', "utf-8")
    return path


def test_it_creates_both_topics_and_leaves_existing_ones_unchanged(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["topics", "--config", str(config)]) == 0
    assert capsys.readouterr().out.count("2 partitions, 0 entries so far") == 2
    log = open_log(f"sqlite:///{tmp_path}/events.db")
    log.append("clicks", [Record(b"k", b"v", 1)])
    ids = [log.topic_id("impressions"), log.topic_id("clicks")]
    assert main(["topics", "--config", str(config), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["partitions"], result["entries"]) == (2, {"impressions": 0, "clicks": 1})
    assert [log.topic_id("impressions"), log.topic_id("clicks")] == ids
    log.close()


def test_another_number_of_partitions_is_an_error(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["topics", "--config", str(config)]) == 0
    config.write_text(config.read_text("utf-8").replace("partitions = 2", "partitions = 3"), "utf-8")
    assert main(["topics", "--config", str(config)]) == 1
    error = capsys.readouterr().err.strip()
    assert "\n" not in error
    assert "2 partitions" in error
    assert "3" in error
