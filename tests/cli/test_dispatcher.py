"""The parser of ``stream-ctr``: groups of subcommands, and imports at its start."""

from __future__ import annotations

import subprocess
import sys

import pytest

from stream_ctr.cli import main

GROUPS = {
    "analyze": ["hessian", "depth", "variance", "trajectory"],
    "checkpoint": ["inspect", "verify", "attach-sml"],
    "config": ["check", "show"],
    "dead-letters": ["list", "replay"],
    "experiment": ["arms", "kill", "revive", "override", "watch", "report", "off-policy"],
    "snapshot": ["inspect", "verify", "copy"],
}


@pytest.mark.parametrize("group", GROUPS)
def test_a_group_lists_its_commands_and_requires_one(group: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([group, "--help"])
    shown = capsys.readouterr().out
    assert ended.value.code == 0
    assert shown.startswith(f"usage: stream-ctr {group} [-h] COMMAND ...")
    assert all(f"\n    {command}" in shown for command in GROUPS[group])
    with pytest.raises(SystemExit) as ended:
        main([group])
    assert ended.value.code == 2
    assert "the following arguments are required: COMMAND" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ["checkpoint", "inspect", "x", "--config", "c.toml"],
        ["snapshot", "inspect", "x", "--to", "y"],
        ["snapshot", "copy", "x"],
        ["dead-letters", "list", "--dry-run"],
    ],
)
def test_an_option_belongs_to_its_command(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    assert "error: " in capsys.readouterr().err


def test_the_help_text_imports_nothing_heavy() -> None:
    code = (
        "import sys; from stream_ctr.cli.dispatcher import build_parser; build_parser()[0].format_help(); "
        "print([name for name in ('torch', 'numba', 'scipy', 'pydantic', 'tomlkit') if name in sys.modules])"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout == "[]\n"
