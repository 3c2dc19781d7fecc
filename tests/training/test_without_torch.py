"""Modules and commands that do not need torch do not import it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGES = (
    "config",
    "daemon",
    "events",
    "experiments",
    "features",
    "joining",
    "kernels",
    "metrics",
    "monitoring",
    "pipeline",
    "reporting",
    "serving",
    "state",
    "training",
)
NEEDS_TORCH = ("stream_ctr.training.attach_sml",)
"""Imported where it is used."""

IMPORT_ALL = """
import importlib, pkgutil, sys
for package in {packages}:
    parent = importlib.import_module("stream_ctr." + package)
    for found in pkgutil.walk_packages(parent.__path__, parent.__name__ + "."):
        if found.name not in {but}:
            importlib.import_module(found.name)
            assert "torch" not in sys.modules, found.name
"""

RUN_ALL = """
import json, sys
from stream_ctr.cli import main
for arguments in json.loads(sys.argv[1]):
    assert main(arguments) == 0, arguments
    assert "torch" not in sys.modules, arguments
from stream_ctr.config.learner import LearnerConfig
from stream_ctr.learners.build import build_learner
from stream_ctr.config.model import ModelConfig
from stream_ctr.config.optimizer import OptimizerConfig
if "river" not in sys.argv[2:]:
    build_learner(ModelConfig(), OptimizerConfig(), LearnerConfig(kind="torch", device="cpu"), [0], 1)
    assert "torch" in sys.modules  # otherwise the assertions above prove nothing
"""


def run(code: str, folder: Path, *arguments: str, **variables: str) -> str:
    """Standard output of the code in an interpreter of its own."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=folder,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_no_module_of_the_stream_imports_torch(tmp_path: Path) -> None:
    run(IMPORT_ALL.format(packages=PACKAGES, but=NEEDS_TORCH), tmp_path)


@pytest.mark.parametrize("kind", ["auto", "river"])
def test_a_whole_run_does_not_import_torch(tmp_path: Path, kind: str) -> None:
    """Learn, save, publish, resume with more events, join, inspect the files, check settings."""
    log = f"sqlite:///{tmp_path / 'log.db'}"
    (tmp_path / "stream.toml").write_text(
        '[features]\npreset = "world"\n'
        f'[log]\nurl = "{log}"\n[train]\nstate = "state"\nmetrics_port = 0\n[learner]\nkind = "{kind}"\n'
    )
    config = ["--config", "stream.toml"]
    simulate = ["simulate", "--log", log, "--json"]
    train = ["train", *config, "--until-idle", "0", "--json"]
    commands = [
        ["config", "check", "stream.toml"],
        [*simulate, "--events", "300"],
        train,
        [*simulate, "--events", "600", "--resume"],
        train,
        ["join", *config, "--until-idle", "0", "--json"],
        ["checkpoint", "inspect", "state/main"],
        ["snapshot", "inspect", "state/main"],
    ]
    printed = run(RUN_ALL, tmp_path, json.dumps(commands), kind)
    assert '"learned": 600' in printed
