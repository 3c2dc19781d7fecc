"""The console that tables are printed to."""

from __future__ import annotations

import sys

from rich.console import Console

WIDTH = 120


def new_console(width: int = WIDTH) -> Console:
    """A console on standard output: as wide as the terminal, or ``width`` columns without one.

    In a log file, a fixed width keeps the cells of a wide table from wrapping.
    """
    return Console(width=None if sys.stdout.isatty() else width)
