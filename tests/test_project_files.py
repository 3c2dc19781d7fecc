"""Files for contributors and hosts: they have the form that their readers demand, and name what exists."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.compose_services import read_yaml

ROOT = Path(__file__).parents[1]
GITHUB = ROOT / ".github"
FORMS = sorted(path for path in (GITHUB / "ISSUE_TEMPLATE").glob("*.yml") if path.name != "config.yml")


@pytest.mark.parametrize(
    ("schema", "paths"),
    [
        ("vendor.github-workflows", [GITHUB / "workflows" / "ci.yml"]),
        ("vendor.github-issue-forms", FORMS),
        ("vendor.github-issue-config", [GITHUB / "ISSUE_TEMPLATE" / "config.yml"]),
    ],
)
def test_github_accepts_the_file(schema: str, paths: list[Path]) -> None:
    assert paths
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_workflow_runs_the_script_with_a_time_limit() -> None:
    (job,) = read_yaml(GITHUB / "workflows" / "ci.yml")["jobs"].values()
    assert [step["run"] for step in job["steps"] if "run" in step] == [".ci/run"]
    assert job["timeout-minutes"] == 90
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111, "the script is not executable"


def test_the_hooks_are_the_commands_of_make_check() -> None:
    (repository,) = read_yaml(ROOT / ".pre-commit-config.yaml")["repos"]
    assert repository["repo"] == "local"
    hooks = {hook["entry"].removeprefix(".venv/bin/").split(" -")[0] for hook in repository["hooks"]}
    recipe = re.search(r"^check:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    assert recipe is not None
    assert hooks == {
        line.strip().removeprefix("$(BIN)/").removesuffix(" .").split(" -")[0]
        for line in recipe[1].splitlines()
    }
    assert {hook["language"] for hook in repository["hooks"]} == {"system"}
