"""The kill file: no kill is lost, damage is reported, and the command line writes it."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from stream_ctr.cli import main
from stream_ctr.config.experiment import ArmConfig, ExperimentConfig
from stream_ctr.errors import StateError, UsageError
from stream_ctr.experiments.kill_file import ControlFile, check_killable
from stream_ctr.experiments.shared_files import (
    ArmSums,
    LogGap,
    Sums,
    append_gap,
    read_gaps,
    read_sums,
    replace_file,
)
from stream_ctr.predictors.snapshot import path_of, write_snapshot
from tests.support.snapshots import example_snapshot


def test_kills_and_revivals_are_read_back(tmp_path: Path) -> None:
    file = ControlFile(tmp_path)
    assert file.read().killed == {}
    assert file.kill("new", "it  answers\nnonsense")
    assert not file.kill("new", "another reason", "saturated")
    found = file.read().killed["new"]
    assert (found.cause, found.reason) == ("manual", "it answers nonsense")
    assert file.revive("new")
    assert not file.revive("new")
    assert file.read().killed == {}


def test_concurrent_writers_lose_no_kill(tmp_path: Path) -> None:
    def work(number: int) -> None:
        file = ControlFile(tmp_path)
        file.kill(f"stays-{number}", "r")
        for _ in range(5):
            file.kill(f"goes-{number}", "r")
            file.revive(f"goes-{number}")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ControlFile(tmp_path).read().killed.keys() == {f"stays-{number}" for number in range(6)}
    assert {path.name for path in (tmp_path / "experiment").iterdir()} == {"control.json", "control.lock"}


@pytest.mark.parametrize(
    "content", [b"", b"{", b'{"killed":{"a":1}}', b'{"v":2}', b'{"surprise":1}', b"\xff"]
)
def test_a_damaged_file_is_reported_and_not_overwritten(tmp_path: Path, content: bytes) -> None:
    file = ControlFile(tmp_path)
    file.path.parent.mkdir()
    file.path.write_bytes(content)
    with pytest.raises(StateError, match=r"control\.json"):
        file.read()
    with pytest.raises(StateError, match=r"control\.json"):
        file.kill("new", "reason")
    assert file.path.read_bytes() == content


def test_a_folder_that_cannot_be_written_is_reported(tmp_path: Path) -> None:
    (tmp_path / "experiment").write_text("a file where a folder is needed")
    with pytest.raises(StateError, match=r"control\.lock"):
        ControlFile(tmp_path).kill("new", "reason")


def test_the_control_and_unknown_arms_cannot_be_killed() -> None:
    experiment = ExperimentConfig(arms=(ArmConfig("control", 0.5), ArmConfig("new", 0.5)))
    check_killable(experiment, "new")
    with pytest.raises(UsageError, match="is the control"):
        check_killable(experiment, "control")
    with pytest.raises(UsageError, match="no arm named 'other'; the arms are control, new"):
        check_killable(experiment, "other")


def test_the_last_line_of_a_gap_wins(tmp_path: Path) -> None:
    assert read_gaps(tmp_path) == []
    append_gap(tmp_path, LogGap("a", 200))
    append_gap(tmp_path, LogGap("b", 100, reason="full"))
    append_gap(tmp_path, LogGap("a", 200, 900, 7, "away"))
    with (tmp_path / "gaps.jsonl").open("ab") as file:
        file.write(b'{"worker":"c","start_')  # as a machine that lost power would leave it
    assert read_gaps(tmp_path) == [LogGap("b", 100, reason="full"), LogGap("a", 200, 900, 7, "away")]


def test_sums_are_read_and_damage_is_reported(tmp_path: Path) -> None:
    assert read_sums(tmp_path) is None
    path = tmp_path / "sums.json"
    replace_file(
        path, b'{"experiment":"e","salt":"s","arms":{"a":{"impressions":2,"clicks":1}},"updated_ms":5}'
    )
    assert read_sums(tmp_path) == Sums("e", "s", {"a": ArmSums(2, 1)}, 5)
    path.write_bytes(b'{"experiment":"e"}')
    with pytest.raises(StateError, match=r"sums\.json.*watcher"):
        read_sums(tmp_path)


CONFIG = """
[features]
preset = "world"
[train]
state = "{state}"
[experiment]
salt = "s"
coverage = 0.5
arms = [{{name = "control", weight = 0.6}}, {{name = "new", weight = 0.4}}]
"""


@pytest.fixture
def config(tmp_path: Path) -> str:
    path = tmp_path / "config.toml"
    path.write_text(CONFIG.format(state=tmp_path / "state"))
    return str(path)


def test_the_command_line_kills_and_revives(
    config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = ControlFile(tmp_path / "state")
    assert main(["experiment", "kill", "new", "--config", config, "--reason", "bad day"]) == 0
    assert "arm new is killed" in capsys.readouterr().out
    assert file.read().killed["new"].reason == "bad day"
    assert main(["experiment", "kill", "new", "--config", config]) == 0
    assert "already killed since" in capsys.readouterr().out
    assert main(["experiment", "arms", "--config", config]) == 0
    shown = capsys.readouterr().out
    assert "30.00% of users" in shown
    assert "(manual): bad day" in shown
    assert main(["experiment", "arms", "--config", config, "--json"]) == 0
    arms = json.loads(capsys.readouterr().out)["arms"]
    assert [(arm["name"], arm["buckets"], bool(arm["killed"])) for arm in arms] == [
        ("control", [0, 3000], False),
        ("new", [6000, 8000], True),
    ]
    assert main(["experiment", "revive", "new", "--config", config, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"arm": "new", "changed": True, "killed": None}
    assert file.read().killed == {}


def test_a_frozen_arm_is_checked_and_not_trained(
    config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    version = write_snapshot(tmp_path, example_snapshot(), kept=3)
    path = Path(config)
    for folder, code in ((path_of(tmp_path, version), 0), (tmp_path / "nowhere", 1)):
        frozen = f'weight = 0.4, snapshot = "{folder}"'
        path.write_text(CONFIG.format(state=tmp_path / "state").replace("weight = 0.4", frozen))
        assert main(["config", "check", config]) == code
    assert "experiment.arms 'new': snapshot cannot serve" in capsys.readouterr().err
    assert main(["train", "--config", config, "--arm", "new"]) == 2
    told = capsys.readouterr().err
    assert "needs no trainer" in told
    assert len(told.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["kill", "control"], "is the control"),
        (["kill", "other"], "no arm named 'other'"),
        (["revive", "other"], "no arm named 'other'"),
        (["override", "other", "--user", "u"], "'other' answers users"),
        (["override", "new", "--user", "u"], "STREAM_CTR_OVERRIDE_SECRET"),
        (["override", "new", "--user", "u", "--valid-seconds", "nan"], "--valid-seconds"),
    ],
)
def test_wrong_usage_is_one_line(
    config: str, arguments: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["experiment", *arguments, "--config", config]) == 2
    told = capsys.readouterr().err
    assert reason in told
    assert len(told.splitlines()) == 1
