"""Options that several analyses share, and their checks."""

from __future__ import annotations

import argparse
import importlib.util
import math
from pathlib import Path

from stream_ctr.errors import UsageError

DEPTHS = (1, 2, 4, 8, 16, 27, 40, 100)
"""Numbers of hidden layers that are compared unless others are asked for."""
DEEPEST = 1000


def add_data_arguments(parser: argparse.ArgumentParser, events: int, held_out: int) -> None:
    """Dataset, path, and how many of its rows are learned and then measured on."""
    parser.add_argument("dataset", help="criteo, avazu, taobao, open-bandit, delimited, jsonl, world")
    parser.add_argument("path", nargs="?", help="file or folder of the data; none for world")
    parser.add_argument("--option", action="append", default=[], metavar="KEY=VALUE", help="reader option")
    parser.add_argument("--config", help="configuration file with the fields and the model to analyse")
    parser.add_argument(
        "--events", type=int, default=events, help=f"rows to learn from, the first ones ({events:,})"
    )
    if held_out:
        parser.add_argument(
            "--slice",
            type=int,
            default=held_out,
            metavar="ROWS",
            help=f"rows after them to measure on, never learned ({held_out:,})",
        )


def add_output_arguments(parser: argparse.ArgumentParser) -> None:
    """Seed and outputs."""
    parser.add_argument("--seed", type=int, default=1, help="seed of the initial weights (1)")
    parser.add_argument("--plot", type=Path, metavar="PNG", help="draw the figures")
    parser.add_argument("--json", action="store_true", help="machine-readable output")


def add_batch_arguments(parser: argparse.ArgumentParser, batch: int, rate: float) -> None:
    """How to train in batches."""
    parser.add_argument("--batch", type=int, default=batch, help=f"events of one step ({batch:,})")
    parser.add_argument("--rate", type=float, default=rate, help=f"learning rate of every rule ({rate:g})")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda[:N]")


def at_least(arguments: argparse.Namespace, name: str, low: int) -> None:
    """Refuse a whole number below ``low``.

    Raises:
        UsageError: it is, or it is too large to mean anything.
    """
    value = getattr(arguments, name)
    if not low <= value <= 2**53:
        option = f"--{name.replace('_', '-')}"
        raise UsageError(f"{option} {value}: must be from {low} to 2^53")


def positive(arguments: argparse.Namespace, name: str) -> None:
    """Refuse a number that is not above 0 and finite.

    Raises:
        UsageError: it is not.
    """
    value = getattr(arguments, name)
    if not (math.isfinite(value) and value > 0.0):
        raise UsageError(f"--{name.replace('_', '-')} {value}: must be a number above 0")


def whole_numbers(option: str, text: str, most: int = DEEPEST) -> tuple[int, ...]:
    """A list such as ``1,2,4`` of different numbers from 1 to ``most``, ascending.

    >>> whole_numbers("--depths", "4,1,2")
    (1, 2, 4)

    Raises:
        UsageError: a part of it is not such a number, or there is none.
    """
    numbers = []
    for part in text.split(","):
        digits = part.strip()
        if not (digits.isascii() and digits.isdigit() and len(digits) < 8 and 1 <= int(digits) <= most):
            raise UsageError(f"{option} {text}: {part!r} is not a whole number from 1 to {most:,}")
        numbers.append(int(digits))
    return tuple(sorted(set(numbers)))


def check_plot(path: Path | None) -> None:
    """Refuse a picture that could not be drawn before the work is done, not after it.

    Raises:
        UsageError: matplotlib is not installed, or the folder is not there.
    """
    if path is None:
        return
    if importlib.util.find_spec("matplotlib") is None:
        raise UsageError("plots need matplotlib; install it with: pip install 'stream-ctr[plots]'")
    if not path.parent.is_dir():
        raise UsageError(f"--plot {path}: there is no folder {path.parent}; make it first")
