"""``stream-ctr bench serve``: the prediction server under load, and its startup."""

from __future__ import annotations

import argparse
import json

from stream_ctr.errors import UsageError


class Serve:
    """``stream-ctr bench serve``."""

    help = "the prediction server under load, compared with uvicorn and an empty handler; startup and memory"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--rate",
            type=float,
            default=1_000.0,
            metavar="RATE",
            help="requests per second with 1 candidate (1,000)",
        )
        parser.add_argument(
            "--large-rate",
            type=float,
            default=50.0,
            metavar="RATE",
            help="requests per second with 100 candidates (50)",
        )
        parser.add_argument(
            "--seconds", type=float, default=5.0, metavar="SECONDS", help="duration of each load (5)"
        )
        parser.add_argument("--rounds", type=int, default=3, metavar="N", help="rounds over all loads (3)")
        parser.add_argument(
            "--learned", type=int, default=20_000, metavar="N", help="events to train the model on (20,000)"
        )
        parser.add_argument(
            "--start", action="store_true", help="measure startup time and memory instead of load"
        )
        parser.add_argument(
            "--workers", type=int, default=2, metavar="N", help="workers in --start, compared with one (2)"
        )
        parser.add_argument("--json", action="store_true", help="machine-readable output: a list of rows")

    def run(self, arguments: argparse.Namespace) -> int:
        from rich.console import Console

        from stream_ctr.bench.serve.measure import kinds, measure
        from stream_ctr.bench.serve.report import as_json, print_table

        for name in ("rate", "large_rate", "seconds"):
            if not 0.0 < getattr(arguments, name) < float("inf"):
                option = f"--{name.replace('_', '-')}"
                raise UsageError(f"{option} {getattr(arguments, name):g}: must be above 0")
        for name in ("rounds", "learned", "workers"):
            if getattr(arguments, name) < 1:
                raise UsageError(f"--{name} {getattr(arguments, name)}: must be at least 1")
        if arguments.start:
            from stream_ctr.bench.serve.startup import run

            run(arguments.workers, arguments.rounds, arguments.json)
            return 0
        for name in ("rate", "large_rate"):
            if getattr(arguments, name) * arguments.seconds < 1.0:
                raise UsageError(
                    f"--seconds {arguments.seconds:g}: no request is due in that time; choose a longer time"
                )
        with Console(stderr=True).status("starting") as status:
            measured = measure(
                kinds(arguments.rate, arguments.large_rate),
                arguments.seconds,
                arguments.rounds,
                arguments.learned,
                status.update,
            )
        if arguments.json:
            print(json.dumps(as_json(measured, arguments.seconds, arguments.learned), indent=2))
        else:
            print_table(measured, arguments.seconds)
        return 0
