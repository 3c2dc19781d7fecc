"""The option ``--on-bad-row`` of the commands that read a dataset, and the report of skipped rows."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stream_ctr.datasets.base import Dataset
    from stream_ctr.reporting.progress import Reporter


def add_bad_row_argument(parser: argparse.ArgumentParser) -> None:
    """Add the option to a parser."""
    parser.add_argument(
        "--on-bad-row",
        choices=["stop", "skip"],
        help="how to handle a row that does not match the format: stop (default), or skip and count it; "
        "short for --option on_bad_row=...",
    )


def apply_bad_row_argument(arguments: argparse.Namespace) -> None:
    """Append the option's value to the reader options."""
    if arguments.on_bad_row is not None:
        arguments.option.append(f"on_bad_row={arguments.on_bad_row}")


def say_bad_rows(reporter: Reporter, dataset: Dataset) -> None:
    """Report skipped bad rows and notes about the files."""
    from stream_ctr.datasets.reader import read_report

    report = read_report(dataset)
    if report.skipped or report.notes:
        reporter.say("bad_rows", skipped=report.skipped, summary=report.summary())
