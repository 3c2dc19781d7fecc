"""``stream-ctr bench scale``: cost and memory as the vocabulary grows."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from stream_ctr.errors import UsageError

SIZES = (10_000, 100_000, 1_000_000, 10_000_000)
LEAST, MOST = 1_000, 1_000_000_000


class Scale:
    """``stream-ctr bench scale``."""

    help = "cost of an event and memory as the vocabulary grows to millions of rows"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--rows",
            type=int,
            nargs="+",
            default=list(SIZES),
            metavar="N",
            help="vocabulary sizes to measure",
        )
        parser.add_argument(
            "--rounds",
            type=int,
            default=10,
            metavar="N",
            help="rounds; each times 4 chunks per distribution (10)",
        )
        parser.add_argument(
            "--optimizer",
            choices=["helen", "base"],
            default="helen",
            help="helen: two passes; base: one pass (helen)",
        )
        parser.add_argument("--plot", metavar="PNG", help="draw cost and memory by vocabulary size")
        parser.add_argument("--folder", metavar="FOLDER", help="parent folder of the temporary checkpoints")
        parser.add_argument("--json", action="store_true", help="machine-readable output: a list of rows")

    def run(self, arguments: argparse.Namespace) -> int:
        from rich.console import Console

        from stream_ctr.bench.scale.measure import measure
        from stream_ctr.bench.scale.report import as_json, plot, print_table

        for rows in arguments.rows:
            if not LEAST <= rows <= MOST:
                raise UsageError(f"--rows {rows}: must be from {LEAST:,} to {MOST:,}")
        if arguments.rounds < 1:
            raise UsageError(f"--rounds {arguments.rounds}: must be at least 1")
        folder = Path(arguments.folder) if arguments.folder else None
        if folder is not None and not folder.is_dir():
            raise UsageError(f"--folder {folder}: is not a folder; create it, or omit --folder")
        with Console(stderr=True).status("starting") as status:
            sizes = measure(
                sorted(set(arguments.rows)), arguments.rounds, arguments.optimizer, status.update, folder
            )
        if arguments.plot:
            plot(sizes, arguments.plot, arguments.optimizer)
        if arguments.json:
            print(json.dumps(as_json(sizes, arguments.optimizer), indent=2))
        else:
            print_table(sizes, arguments.optimizer)
        return 0
