"""The command line: one command, ``stream-ctr``, a subcommand for each job.

Exit status: 0 done, 1 failed, 2 wrong usage. Every error that a user can cause is one line on standard
error, without a traceback.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import io
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol

from stream_ctr.errors import StreamCTRError, printable
from stream_ctr.reporting.figure import require_pictures

OWN_PACKAGES = ("stream_ctr", "simulators", "")
"""If a module of these is missing, that is a defect; of any other package, an incomplete installation."""
SIMULATORS = "stream_ctr.simulators"
"""Entry point group of the commands that write events. Their package imports this one, never the reverse."""


class Command(Protocol):
    """One subcommand. Its module must be quick to import: heavy imports belong in ``run``."""

    help: str

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the arguments."""
        ...

    def run(self, arguments: argparse.Namespace) -> int:
        """Do the job and return the exit status."""
        ...


class CommandGroup:
    """A subcommand that has subcommands.

    Args:
        help: its line in the help text.
        metavar: name of its argument in the help text.
        where: ``module:class`` of each subcommand, in the order of the help text.
    """

    def __init__(self, help: str, metavar: str, where: Mapping[str, str]) -> None:
        self.help = help
        self._metavar, self._where = metavar, where
        self._commands: dict[str, Command] = {}

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        self._commands = {name: _load(where)() for name, where in self._where.items()}
        _add_commands(
            parser.add_subparsers(dest="subcommand", metavar=self._metavar, required=True), self._commands
        )

    def run(self, arguments: argparse.Namespace) -> int:
        return self._commands[arguments.subcommand].run(arguments)


BENCH: Final = CommandGroup(
    "measure speed, memory and statistics, next to comparable software where there is any",
    "BENCHMARK",
    {
        "step": "stream_ctr.bench.step.command:Step",
        "labels": "stream_ctr.bench.labels.command:Labels",
        "stream": "stream_ctr.bench.stream.command:Stream",
        "scale": "stream_ctr.bench.scale.command:Scale",
        "serve": "stream_ctr.bench.serve.command:Serve",
        "experiment": "stream_ctr.bench.experiment.command:Experiment",
        "watch": "stream_ctr.bench.watch.command:Watch",
        "papers": "stream_ctr.bench.papers.command:Papers",
        "optimizers": "stream_ctr.bench.optimizers.command:Optimizers",
    },
)
COMMANDS: Final[Mapping[str, str | CommandGroup]] = {
    "train": "stream_ctr.cli.train:Train",
    "serve": "stream_ctr.cli.serve:Serve",
    "evaluate": "stream_ctr.cli.evaluate:Evaluate",
    "bench": BENCH,
    "analyze": CommandGroup(
        "the papers' analyses: sharpness by feature frequency, effect of depth, optimizer trajectories",
        "COMMAND",
        {
            "hessian": "stream_ctr.cli.analyze.hessian:Hessian",
            "depth": "stream_ctr.cli.analyze.depth:Depth",
            "variance": "stream_ctr.cli.analyze.variance:Variance",
            "trajectory": "stream_ctr.cli.analyze.trajectory:TrajectoryCommand",
        },
    ),
    "experiment": CommandGroup(
        "compare arms, or policies from their logs",
        "COMMAND",
        {
            "arms": "stream_ctr.cli.experiment.kill_switch:ArmsCommand",
            "kill": "stream_ctr.cli.experiment.kill_switch:KillCommand",
            "revive": "stream_ctr.cli.experiment.kill_switch:ReviveCommand",
            "override": "stream_ctr.cli.experiment.override:OverrideCommand",
            "watch": "stream_ctr.cli.experiment.watch:WatchCommand",
            "report": "stream_ctr.cli.experiment.report:ReportCommand",
            "off-policy": "stream_ctr.cli.experiment.off_policy:OffPolicyCommand",
        },
    ),
    "join": "stream_ctr.cli.join:Join",
    "dead-letters": CommandGroup(
        "list the records that could not be used, or replay them into the topic they came from",
        "COMMAND",
        {
            "list": "stream_ctr.cli.dead_letters:ListCommand",
            "replay": "stream_ctr.cli.dead_letters:ReplayCommand",
        },
    ),
    "topics": "stream_ctr.cli.topics:Topics",
    "checkpoint": CommandGroup(
        "inspect or verify a trainer's checkpoints, or add skip logits to the newest",
        "COMMAND",
        {
            "inspect": "stream_ctr.cli.checkpoint:Inspect",
            "verify": "stream_ctr.cli.checkpoint:Verify",
            "attach-sml": "stream_ctr.cli.checkpoint:AttachSML",
        },
    ),
    "snapshot": CommandGroup(
        "inspect or verify an arm's snapshots, or copy one to serve it unchanged",
        "COMMAND",
        {
            "inspect": "stream_ctr.cli.snapshot:Inspect",
            "verify": "stream_ctr.cli.snapshot:Verify",
            "copy": "stream_ctr.cli.snapshot:Copy",
        },
    ),
    "config": CommandGroup(
        "check a configuration file, or print every key with its value and meaning",
        "COMMAND",
        {"check": "stream_ctr.cli.config:Check", "show": "stream_ctr.cli.config:Show"},
    ),
}
"""Every subcommand: ``module:class``, or a group of commands."""


def commands() -> dict[str, Command]:
    """All subcommands by name, including the simulators'."""
    found: dict[str, Command] = {}
    for name, where in COMMANDS.items():
        found[name] = where if isinstance(where, CommandGroup) else _load(where)()
    for entry in importlib.metadata.entry_points(group=SIMULATORS):
        found[entry.name] = entry.load()()
    return found


def _load(where: str) -> Callable[[], Command]:
    """The class that ``module:attribute`` names."""
    module, _, attribute = where.partition(":")
    found: Callable[[], Command] = getattr(importlib.import_module(module), attribute)
    return found


def build_parser() -> tuple[argparse.ArgumentParser, dict[str, Command]]:
    """The parser and the commands behind it."""
    parser = argparse.ArgumentParser(
        prog="stream-ctr",
        description="Online learning of click-through rates from a click stream.",
        epilog="Exit status: 0 done, 1 failed, 2 wrong usage.",
    )
    parser.add_argument("--version", action="version", version=f"stream-ctr {version()}")
    inner = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    found = commands()
    _add_commands(inner, found)
    return parser, found


def _add_commands(
    inner: argparse._SubParsersAction[argparse.ArgumentParser], commands: Mapping[str, Command]
) -> None:
    for name, command in commands.items():
        command.add_arguments(inner.add_parser(name, help=command.help, description=command.help))


def version() -> str:
    """The installed version of this package."""
    return importlib.metadata.version("stream-ctr")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand; returns the exit status."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A terminal that lacks a character shows a question mark instead of failing the command.
        sys.stdout.reconfigure(errors="replace")
    try:
        parser, found = build_parser()
    except KeyboardInterrupt:
        print("stream-ctr: interrupted", file=sys.stderr)
        return 130
    arguments = parser.parse_args(argv)
    try:
        if getattr(arguments, "plot", None):
            require_pictures()  # before the work, not after it
        status = found[arguments.command].run(arguments)
        if sys.stdout is not None:
            sys.stdout.flush()  # here, so that a closed pipe or a full disk is reported below
        return status
    except StreamCTRError as error:
        print(f"stream-ctr {arguments.command}: {printable(str(error))}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        print(f"stream-ctr {arguments.command}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # A reader that closed the pipe early (head, less) needs no message.
        _drop_output()
        return 1
    except OSError as error:
        # The disk is full, a permission is missing: the error names its own file.
        place = f": {error.filename}" if error.filename else ""
        print(f"stream-ctr {arguments.command}: {error.strerror or error}{place}", file=sys.stderr)
        _drop_output()
        return 1
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in OWN_PACKAGES:
            raise  # a defect of this package, not of the installation
        print(
            f"stream-ctr {arguments.command}: this needs the Python package {package}, which is not "
            f"installed; install it with: pip install {package}",
            file=sys.stderr,
        )
        return 1
    except MemoryError as error:
        print(f"stream-ctr {arguments.command}: not enough memory. {error}".rstrip(), file=sys.stderr)
        return 1


def _drop_output() -> None:
    """Flush standard output; if it is closed or full, keep Python's flush at exit from failing again."""
    if sys.stdout is None:
        return
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
