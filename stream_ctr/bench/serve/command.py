"""``stream-ctr bench serve``: the prediction server under load, and its startup."""

from __future__ import annotations

import argparse
import json

from stream_ctr.errors import UsageError


class Serve:
    """``stream-ctr bench serve``."""

    help = "the prediction server under load, beside uvicorn with an empty handler; its start and size"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--rate", type=float, default=1_000.0, help="requests a second of 1 candidate")
        parser.add_argument(
            "--large-rate", type=float, default=50.0, help="requests a second of 100 candidates"
        )
        parser.add_argument("--seconds", type=float, default=5.0, help="length of each load")
        parser.add_argument("--rounds", type=int, default=3, help="turns of all loads")
        parser.add_argument("--learned", type=int, default=20_000, help="events that the model has learned")
        parser.add_argument("--start", action="store_true", help="start time and memory instead of load")
        parser.add_argument("--workers", type=int, default=2, help="processes of --start, beside one alone")
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
                    f"--seconds {arguments.seconds:g}: no request is due in that time; choose a longer one"
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
