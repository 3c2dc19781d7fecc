"""``stream-ctr bench watch``: throughput of the experiment's watcher."""

from __future__ import annotations

import argparse
import json

from stream_ctr.errors import UsageError


class Watch:
    """``stream-ctr bench watch``."""

    help = "throughput of the experiment's watcher in impressions per second"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--data", metavar="PATH", help="Criteo file (default: generated Zipf rows)")
        parser.add_argument("--impressions", type=int, default=40_000, help="impressions in the log (40000)")
        parser.add_argument("--arms", type=int, default=2, help="arms, all of which predict (2)")
        parser.add_argument("--rounds", type=int, default=3, help="runs over the log (3)")
        parser.add_argument("--json", action="store_true", help="machine-readable output")

    def run(self, arguments: argparse.Namespace) -> int:
        from stream_ctr.bench.watch.measure import measure

        for name in ("impressions", "arms", "rounds"):
            if getattr(arguments, name) < 1:
                raise UsageError(f"--{name} must be at least 1, got {getattr(arguments, name)}")
        found = measure(arguments.data, arguments.impressions, arguments.arms, arguments.rounds).as_json()
        if arguments.json:
            print(json.dumps(found, indent=2))
            return 0
        low, high = found["impressions_per_second_lowest"], found["impressions_per_second_highest"]
        print(
            f"{found['impressions_per_second']:,} impressions/s ({low:,} to {high:,} over {found['rounds']} "
            "rounds), "
            f"{found['cpu_us_per_impression']:g} us of CPU per impression: "
            f"{found['impressions']:,} impressions for "
            f"{found['arms']} arms, {found['data']}"
        )
        return 0
