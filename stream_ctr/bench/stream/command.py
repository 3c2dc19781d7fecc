"""``stream-ctr bench stream``: the whole daemon compared with the learner alone."""

from __future__ import annotations

import argparse
import json

from stream_ctr.errors import UsageError


class Stream:
    """``stream-ctr bench stream``."""

    help = "the whole daemon on a log, compared with the learner alone on the same encoded events"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--data", metavar="FILE", help="Criteo file (default: generated Zipf rows)")
        parser.add_argument(
            "--events", type=int, default=40_000, metavar="N", help="number of impressions (40,000)"
        )
        parser.add_argument(
            "--log",
            metavar="URL",
            help="create new topics on this log (default: a temporary embedded log)",
        )
        parser.add_argument(
            "--rounds", type=int, default=3, metavar="N", help="runs of daemon and learner, in turns (3)"
        )
        parser.add_argument("--json", action="store_true", help="machine-readable output")

    def run(self, arguments: argparse.Namespace) -> int:
        from stream_ctr.bench.stream.measure import measure
        from stream_ctr.bench.stream.report import as_json, print_table

        for name in ("events", "rounds"):
            if getattr(arguments, name) < 1:
                raise UsageError(f"--{name} {getattr(arguments, name)}: must be at least 1")
        bench = measure(arguments.data, arguments.log, arguments.events, arguments.rounds)
        if arguments.json:
            print(json.dumps(as_json(bench), indent=2))
        else:
            print_table(bench)
        return 0
