"""Options that several analyses share, with their checks."""

from __future__ import annotations

import argparse
import importlib.util
import math
from pathlib import Path

from stream_ctr.errors import UsageError

DEPTHS = (1, 2, 4, 8, 16, 27, 40, 100)
"""Default numbers of hidden layers."""
DEEPEST = 1000


def add_data_arguments(parser: argparse.ArgumentParser, events: int, held_out: int) -> None:
    """Add the options for the dataset, the rows to learn and the rows to measure on."""
    parser.add_argument("dataset", help="criteo, avazu, taobao, open-bandit, delimited, jsonl, world")
    parser.add_argument("path", nargs="?", help="file or folder of the data; omit it for world")
    parser.add_argument("--option", action="append", default=[], metavar="KEY=VALUE", help="reader option")
    parser.add_argument("--config", help="configuration file with the fields and the model to analyse")
    parser.add_argument(
        "--events",
        type=int,
        default=events,
        help=f"rows to learn from, at the start of the data ({events:,})",
    )
    if held_out:
        parser.add_argument(
            "--slice",
            type=int,
            default=held_out,
            metavar="ROWS",
            help=f"held-out rows after them to measure on ({held_out:,})",
        )


def add_output_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options for seed and output."""
    parser.add_argument("--seed", type=int, default=1, help="seed of the initial weights (1)")
    parser.add_argument("--plot", type=Path, metavar="PNG", help="write a plot to this file")
    parser.add_argument("--json", action="store_true", help="machine-readable output")


def add_batch_arguments(parser: argparse.ArgumentParser, batch: int, rate: float) -> None:
    """Add the options for training in batches."""
    parser.add_argument("--batch", type=int, default=batch, help=f"events per update ({batch:,})")
    parser.add_argument("--rate", type=float, default=rate, help=f"learning rate of all weights ({rate:g})")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda[:N]")


def at_least(arguments: argparse.Namespace, name: str, low: int) -> None:
    """Check that an option is a whole number of at least ``low``.

    Raises:
        UsageError: it is below ``low`` or above 2^53.
    """
    value = getattr(arguments, name)
    if not low <= value <= 2**53:
        option = f"--{name.replace('_', '-')}"
        raise UsageError(f"{option} must be from {low} to 2^53, got {value}")


def positive(arguments: argparse.Namespace, name: str) -> None:
    """Check that an option is positive and finite.

    Raises:
        UsageError: it is not.
    """
    value = getattr(arguments, name)
    if not (math.isfinite(value) and value > 0.0):
        raise UsageError(f"--{name.replace('_', '-')} must be a number above 0, got {value}")


def whole_numbers(option: str, text: str, most: int = DEEPEST) -> tuple[int, ...]:
    """Parse a list such as ``1,2,4`` of numbers from 1 to ``most``; returns the distinct ones, ascending.

    >>> whole_numbers("--depths", "4,1,2")
    (1, 2, 4)

    Raises:
        UsageError: a part is not such a number, or the list is empty.
    """
    numbers = []
    for part in text.split(","):
        digits = part.strip()
        if not (digits.isascii() and digits.isdigit() and len(digits) < 8 and 1 <= int(digits) <= most):
            raise UsageError(f"{option} {text}: {part!r} is not a whole number from 1 to {most:,}")
        numbers.append(int(digits))
    return tuple(sorted(set(numbers)))


def check_plot(path: Path | None) -> None:
    """Check that a plot can be written, before the analysis starts.

    Raises:
        UsageError: matplotlib is not installed, or the folder does not exist.
    """
    if path is None:
        return
    if importlib.util.find_spec("matplotlib") is None:
        raise UsageError("plots need matplotlib; install it with: pip install 'stream-ctr[plots]'")
    if not path.parent.is_dir():
        raise UsageError(f"--plot {path}: the folder {path.parent} does not exist; create it first")
