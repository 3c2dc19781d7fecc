"""Shared by ``replay`` and ``simulate``: arguments, one run of the writer, and its report."""

from __future__ import annotations

import argparse
import json
import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, NamedTuple

from stream_ctr.config.log import LogConfig
from stream_ctr.datasets.bad_row_option import say_bad_rows
from stream_ctr.datasets.reader import read_report
from stream_ctr.errors import UsageError, printable

if TYPE_CHECKING:
    from simulators.log_writer.resume import Position
    from simulators.log_writer.timeline import Happening
    from simulators.log_writer.writer import Summary, Topics
    from stream_ctr.datasets.base import Dataset
    from stream_ctr.events.log import EventLog
    from stream_ctr.reporting.progress import Reporter


class Job(NamedTuple):
    """Context of one run of the writer, for its source."""

    log: EventLog
    topics: Topics
    position: Position | None
    """The records that the log already holds; None unless the run resumes another."""
    stop: threading.Event
    reporter: Reporter


def add_writer_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments that select the log, its topics and the pace."""
    default = LogConfig()
    parser.add_argument("--log", required=True, metavar="URL", help="sqlite:///path or kafka://host:port")
    parser.add_argument("--config", metavar="FILE", help="configuration file with [log.security] of the log")
    parser.add_argument(
        "--rate", type=float, metavar="RATE", help="impressions per second (default: as fast as possible)"
    )
    parser.add_argument(
        "--partitions",
        type=int,
        default=default.partitions,
        metavar="N",
        help=f"partitions of new topics (default: {default.partitions})",
    )
    parser.add_argument(
        "--impressions", default=default.impressions, metavar="TOPIC", help="topic of the impressions"
    )
    parser.add_argument("--clicks", default=default.clicks, metavar="TOPIC", help="topic of the clicks")
    parser.add_argument(
        "--option", action="append", default=[], metavar="KEY=VALUE", help="option of the dataset or world"
    )
    parser.add_argument(
        "--resume", action="store_true", help="continue an interrupted run after the records in the log"
    )
    parser.add_argument("--json", action="store_true", help="machine-readable result")


def check_writer_arguments(arguments: argparse.Namespace) -> None:
    """Check the writer's arguments.

    Raises:
        UsageError: a value is outside its range.
    """
    rate: float | None = arguments.rate
    if rate is not None and not 0 < rate <= 1e6:
        raise UsageError(f"--rate {rate:g}: must be above 0 and at most 1e6 impressions per second")
    if arguments.partitions < 1:
        raise UsageError(f"--partitions {arguments.partitions}: must be at least 1")
    if arguments.impressions == arguments.clicks:
        raise UsageError(f"--impressions and --clicks are both {arguments.clicks!r}; choose two topics")


def run_writer(
    job: str,
    arguments: argparse.Namespace,
    source: Callable[[Job], Iterable[Happening]],
    *,
    live: bool = False,
    dataset: Dataset | None = None,
) -> int:
    """Open the log, write the events of ``source``, and report; returns the exit status.

    ``dataset``: the dataset that ``source`` reads from files, if any; its bad rows are reported.
    """
    from simulators.log_writer.resume import Position
    from simulators.log_writer.writer import Pace, Topics, Writer
    from stream_ctr.config.settings import load_settings
    from stream_ctr.daemon.process import stop_on_signals
    from stream_ctr.events.open import open_log
    from stream_ctr.reporting.progress import Reporter

    topics = Topics(arguments.impressions, arguments.clicks, arguments.partitions)
    security = load_settings(arguments.config).log.security
    log = open_log(arguments.log, create=True, security=security)
    try:
        with stop_on_signals() as stop, Reporter(job) as reporter:
            topics.create(log)
            found = Position(log, (topics.impressions, topics.clicks))
            if found.records and not arguments.resume:
                reporter.say(
                    "appending",
                    after_records=found.records,
                    note="use --resume to continue an interrupted run",
                )
            position = found if arguments.resume and not found.complete else None
            writer = Writer(
                log,
                topics,
                position=position,
                pace=Pace(arguments.rate, live),
                stop=stop,
                progress=lambda summary: reporter.progress(
                    impressions=summary.impressions, clicks=summary.clicks
                ),
            )
            summary = writer.write(source(Job(log, topics, position, stop, reporter)))
            if summary.out_of_order:
                reporter.say(
                    "warning",
                    out_of_order=summary.out_of_order,
                    largest_step_back_seconds=summary.largest_step_back_ms / 1000.0,
                    note="the data is not sorted by time: clicks may be too late for their impressions; "
                    "write to other topics with replay --sort",
                )
            if dataset is not None:
                say_bad_rows(reporter, dataset)
    finally:
        log.close()
    _print(summary, arguments, dataset)
    return 0


def _print(summary: Summary, arguments: argparse.Namespace, dataset: Dataset | None) -> None:
    report = read_report(dataset)
    if arguments.json:
        bad_rows = {} if dataset is None else {"bad_rows": report.as_dict()}
        print(json.dumps({**summary.as_dict(), **bad_rows, "log": arguments.log}))
        return
    there = f"; {summary.already_there:,} records were already there" if summary.already_there else ""
    stopped = "; stopped by a signal, continue with --resume" if summary.stopped else ""
    print(
        f"{summary.impressions:,} impressions and {summary.clicks:,} clicks written to {arguments.log} "
        f"in {summary.seconds:.1f} s{there}{stopped}"
    )
    if notes := report.summary():
        print(printable(notes))
