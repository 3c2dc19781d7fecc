"""``stream-ctr experiment``: what the arms did, and what another policy would have done."""

from __future__ import annotations

import argparse
import importlib
from typing import Protocol

PARTS = {
    "arms": "stream_ctr.experiments.switch_command:ArmsCommand",
    "kill": "stream_ctr.experiments.switch_command:KillCommand",
    "revive": "stream_ctr.experiments.switch_command:ReviveCommand",
    "override": "stream_ctr.experiments.override_command:OverrideCommand",
    "watch": "stream_ctr.experiments.watch_command:WatchCommand",
    "report": "stream_ctr.experiments.report_command:ReportCommand",
    "off-policy": "stream_ctr.experiments.off_policy_command:OffPolicyCommand",
}
"""Subcommands and the classes behind them."""


class Part(Protocol):
    """One subcommand. Its module must be quick to import: heavy imports belong into ``run``."""

    help: str

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the arguments."""
        ...

    def run(self, arguments: argparse.Namespace) -> int:
        """Do the job and return the exit status."""
        ...


class ExperimentCommand:
    """``stream-ctr experiment``."""

    help = "compare arms, or policies from their logs"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        inner = parser.add_subparsers(dest="part", metavar="PART", required=True)
        self._parts: dict[str, Part] = {}
        for name, where in PARTS.items():
            module, _, attribute = where.partition(":")
            part: Part = getattr(importlib.import_module(module), attribute)()
            part.add_arguments(inner.add_parser(name, help=part.help, description=part.help))
            self._parts[name] = part

    def run(self, arguments: argparse.Namespace) -> int:
        return self._parts[arguments.part].run(arguments)
