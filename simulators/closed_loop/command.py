"""``stream-ctr simulate --server``: arguments, one run of the closed loop, and its report."""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import os
import threading
import time
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Final

from stream_ctr.errors import UsageError

if TYPE_CHECKING:
    from simulators.closed_loop.rank_client import RankClient
    from simulators.closed_loop.report import Summary
    from simulators.closed_loop.resume import ResumePoint
    from simulators.closed_loop.visits import Visits
    from simulators.log_writer.writer import Topics
    from simulators.world.settings import WorldConfig
    from stream_ctr.events.log import EventLog
    from stream_ctr.reporting.progress import Reporter

CANDIDATES: Final = 8
CONNECTIONS: Final = 8
LEAD_SECONDS: Final = 0.5
"""Time from the server's readiness to the first visit, used to generate the world."""
READY_SECONDS: Final = 0.25
"""Interval between readiness checks."""
_OWN: Final = ("candidates", "connections", "token_env")


def add_server_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of a run against a server."""
    parser.add_argument(
        "--server",
        metavar="URL",
        help="http://host:port of `stream-ctr serve`: send it each visit and click on the ad that it "
        "chooses; the server writes the impressions, this command the clicks",
    )
    parser.add_argument(
        "--candidates",
        type=int,
        metavar="N",
        help=f"with --server: candidate ads per visit (default: {CANDIDATES})",
    )
    parser.add_argument(
        "--connections",
        type=int,
        metavar="N",
        help=f"with --server: maximum number of concurrent visits (default: {CONNECTIONS})",
    )
    parser.add_argument(
        "--token-env", metavar="NAME", help="with --server: environment variable that holds the bearer token"
    )


def check_server_arguments(arguments: argparse.Namespace) -> None:
    """Check the arguments of a run against a server.

    Raises:
        UsageError: a value is outside its range, or an option lacks ``--server``.
    """
    from simulators.closed_loop.rank_client import check_server
    from simulators.closed_loop.resume import MAX_CONNECTIONS

    if arguments.server is None:
        for name in _OWN:
            if getattr(arguments, name) is not None:
                raise UsageError(f"--{name.replace('_', '-')} requires --server URL")
        return
    check_server(arguments.server)
    for name, most in (("candidates", 1000), ("connections", MAX_CONNECTIONS)):
        value = getattr(arguments, name)
        if value is not None and not 1 <= value <= most:
            raise UsageError(f"--{name} {value}: must be from 1 to {most}")
    if arguments.token_env is not None and not os.environ.get(arguments.token_env):
        raise UsageError(f"--token-env {arguments.token_env}: environment variable not set or empty")


def run_against_server(arguments: argparse.Namespace, config: WorldConfig, *, live: bool) -> int:
    """Send visits to the server, write the clicks, and report; returns the exit status.

    ``live``: event time is the present time; a resumed run skips the time in which no simulator ran.

    Raises:
        StreamCTRError: the server rejects the requests, or the log fails.
    """
    from simulators.closed_loop.rank_client import RankClient
    from simulators.log_writer.writer import Topics
    from stream_ctr.config.settings import load_settings
    from stream_ctr.daemon.process import stop_on_signals
    from stream_ctr.events.open import open_log
    from stream_ctr.reporting.progress import Reporter

    topics = Topics(arguments.impressions, arguments.clicks, arguments.partitions)
    token = os.environ[arguments.token_env] if arguments.token_env else None
    clients = [RankClient(arguments.server, token) for _ in range(arguments.connections or CONNECTIONS)]
    log = open_log(arguments.log, create=True, security=load_settings(arguments.config).log.security)
    try:
        with stop_on_signals() as stop, Reporter("simulate") as reporter:
            topics.create(log)
            summary = _run(arguments, config, live, log, topics, clients, stop, reporter)
    finally:
        log.close()
    if arguments.json:
        print(json.dumps({**summary.as_dict(), "server": arguments.server, "log": arguments.log}))
    else:
        _print(summary, arguments)
    return 0


def _run(
    arguments: argparse.Namespace,
    config: WorldConfig,
    live: bool,
    log: EventLog,
    topics: Topics,
    clients: list[RankClient],
    stop: threading.Event,
    reporter: Reporter,
) -> Summary:
    from simulators.closed_loop.report import Summary
    from simulators.closed_loop.traffic import Clock, Traffic
    from simulators.closed_loop.visits import Visits
    from simulators.world.world import World

    candidates = arguments.candidates or CANDIDATES
    visits = Visits(World(config), candidates)
    found = _resume_point(arguments, log, topics, visits, reporter)
    _wait_until_ready(clients[0], stop, reporter)
    began = time.monotonic()
    if live:
        # Shift the world so that the next visit is LEAD_SECONDS from now.
        began += LEAD_SECONDS
        now_ms = time.time_ns() // 1_000_000 + round(1000 * LEAD_SECONDS)
        config = dataclasses.replace(config, start_ms=max(0, now_ms - config.elapsed_ms(found.next_number)))
        visits = Visits(World(config), candidates)
    anchor_ms = config.start_ms + config.elapsed_ms(found.next_number)
    new: Iterator[int] = itertools.count(found.next_number)
    if arguments.events is not None:
        new = itertools.takewhile(lambda number: number < arguments.events, new)
    if stop.is_set():
        return Summary(stopped=True, asked_before=found.next_number, clicks_pending=len(found.pending))
    traffic = Traffic(
        visits,
        itertools.chain(found.missing, new),
        clients,
        partial(log.append, topics.clicks),
        Clock(arguments.rate is not None, anchor_ms, began),
        pending=found.pending,
        stop=stop,
        say=reporter.say,
        progress=partial(_progress, reporter),
    )
    traffic.summary.asked_before = found.next_number - len(found.missing)
    return traffic.run()


def _resume_point(
    arguments: argparse.Namespace, log: EventLog, topics: Topics, visits: Visits, reporter: Reporter
) -> ResumePoint:
    """The start of the run: with ``--resume`` after the visits in the log, else the first visit."""
    from simulators.closed_loop.resume import ResumePoint, find_resume_point

    held = sum(log.end_offsets(topics.impressions).values())
    if not arguments.resume:
        if held:
            reporter.say("appending", after_records=held, note="use --resume to continue an interrupted run")
        return ResumePoint()
    found = find_resume_point(log, topics, visits)
    reporter.say(
        "resumed", at_visit=found.next_number, missing=len(found.missing), clicks_pending=len(found.pending)
    )
    return found


def _wait_until_ready(client: RankClient, stop: threading.Event, reporter: Reporter) -> None:
    """Wait for a server that may have been started at the same time as this command."""
    from simulators.closed_loop.rank_client import ServerUnavailable

    reported = ""
    while not stop.is_set():
        try:
            if client.ready():
                return
            reason = "the server is not ready yet"
        except ServerUnavailable as error:
            reason = f"the server is unavailable: {error}"
        if reason != reported:
            reported = reason
            reporter.say("waiting", reason=reason)
        stop.wait(READY_SECONDS)


def _progress(reporter: Reporter, summary: Summary) -> None:
    p99 = summary.latency.quantile(0.99)
    rates = {
        f"ctr_{arm}": round(tally.clicks / tally.visits, 4)
        for arm, tally in sorted(summary.outcome.arms.items())
    }
    reporter.progress(
        answered=summary.answered,
        clicks=summary.clicks,
        failed=summary.failed,
        p99_ms=None if p99 is None else round(1000 * p99, 1),
        **rates,
    )


def _print(summary: Summary, arguments: argparse.Namespace) -> None:
    from rich.console import Console
    from rich.table import Table

    latency = summary.latency.as_dict()
    shown = "" if latency["p50"] is None else f", p50 {latency['p50']:.1f} ms, p99 {latency['p99']:.1f} ms"
    print(
        f"{summary.answered:,} visits answered by {arguments.server} in {summary.seconds:.1f} s{shown}; "
        f"{summary.failed:,} failed; {summary.clicks:,} clicks written to {arguments.log}"
    )
    if summary.stopped:
        print(f"stopped by a signal with {summary.clicks_pending:,} pending clicks; continue with --resume")
    if not summary.outcome.arms:
        return
    table = Table(title="Shown ads compared with the ground truth")
    for column in ("arm", "visits", "CTR", "best CTR", "value", "regret", "uplift share"):
        table.add_column(column, justify="left" if column == "arm" else "right")
    for arm, figures in summary.outcome.as_dict()["arms"].items():
        table.add_row(
            arm,
            f"{figures['visits']:,}",
            f"{figures['ctr']:.2%}",
            f"{figures['best_ctr']:.2%}",
            f"{figures['value_per_thousand']:.2f}",
            f"{figures['regret_per_thousand']:.2f}",
            "-" if figures["share_of_way"] is None else f"{figures['share_of_way']:.1%}",
        )
    Console().print(table)
    print(
        "uplift share: share of the achievable uplift in bid x true click probability, from a random "
        "candidate (0 %) to each visit's most valuable one (100 %)"
    )
