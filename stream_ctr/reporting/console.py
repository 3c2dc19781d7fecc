"""Where the tables of the analyses are printed."""

from __future__ import annotations

import sys

from rich.console import Console

WIDTH = 120


def console() -> Console:
    """Standard output; without a terminal to fit, as in a log file, lines keep their words whole."""
    return Console(width=None if sys.stdout.isatty() else WIDTH)
