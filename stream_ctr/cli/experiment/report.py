"""``stream-ctr experiment report``: show the experiment's report."""

from __future__ import annotations

import argparse
from pathlib import Path


class ReportCommand:
    """``stream-ctr experiment report``."""

    help = "show the experiment's report as a table, JSON or a plot"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        where = parser.add_mutually_exclusive_group()
        where.add_argument("--config", help="configuration file; without it, defaults and environment")
        where.add_argument("--state", type=Path, metavar="FOLDER", help="state folder, or a report file")
        parser.add_argument("--salt", help="salt of an earlier experiment whose report to show")
        parser.add_argument("--json", action="store_true", help="print the report as JSON")
        parser.add_argument(
            "--plot", type=Path, metavar="PNG", help="plot CTR, ADVV, log loss and AUC over time to this file"
        )

    def run(self, arguments: argparse.Namespace) -> int:
        from stream_ctr.experiments.report.model import encode_report, read_report
        from stream_ctr.experiments.report.table import print_report
        from stream_ctr.experiments.watcher.output import report_path

        report = read_report(report_path(arguments.config, arguments.state, arguments.salt))
        if arguments.plot is not None:
            from stream_ctr.experiments.report.plot import plot_report

            plot_report(report, arguments.plot)
        if arguments.json:
            print(encode_report(report).decode())
        else:
            print_report(report)
        return 0
