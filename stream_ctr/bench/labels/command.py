"""``stream-ctr bench labels``: label policies compared with the ground truth, and the joiner alone."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from stream_ctr.errors import UsageError


class Labels:
    """``stream-ctr bench labels``."""

    help = "label policies compared with the ground truth; speed and memory of the joiner"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--events", type=int, default=500_000, metavar="N", help="simulated impressions (500,000)"
        )
        parser.add_argument(
            "--plot", type=Path, metavar="PNG", help="draw the excess log loss along the stream"
        )
        parser.add_argument("--json", action="store_true", help="machine-readable output")

    def run(self, arguments: argparse.Namespace) -> int:
        from stream_ctr.bench.labels.join import measure_joiner
        from stream_ctr.bench.labels.measure import MINIMUM_EVENTS, measure_policies
        from stream_ctr.bench.labels.report import as_json, plot_policies, print_tables
        from stream_ctr.reporting.progress import Reporter

        events: int = arguments.events
        if not MINIMUM_EVENTS <= events <= 10**9:
            raise UsageError(f"--events {events}: must be from {MINIMUM_EVENTS:,} to 1,000,000,000")
        with Reporter("bench labels") as reporter:
            reporter.say("joiner")
            joins = measure_joiner(min(events, 300_000))
            reporter.say("policies", events=events)
            runs = measure_policies(events, lambda done: reporter.say("done", policies=done))
        if arguments.json:
            print(json.dumps(as_json(runs, joins, events), indent=2))
        else:
            print_tables(runs, joins, events)
        if arguments.plot:  # last, so that a failing plot does not suppress the results
            plot_policies(runs, events, arguments.plot)
        return 0
