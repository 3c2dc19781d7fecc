"""Shared parts of the commands that run a daemon: options, state lock, log, signals and final output.

Slow imports are inside the functions, because the module of a command is imported for every command line.

A daemon that starts while the log is unavailable waits for it with growing pauses. Meanwhile its health
endpoint reports it as live and not ready.
"""

from __future__ import annotations

import argparse
import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from stream_ctr.errors import LogUnavailableError

if TYPE_CHECKING:
    from stream_ctr.config.settings import Settings
    from stream_ctr.daemon.run_report import RunReport
    from stream_ctr.events.log import EventLog
    from stream_ctr.reporting.progress import Reporter

T = TypeVar("T")

FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 10.0


def add_config(parser: argparse.ArgumentParser) -> None:
    """Add ``--config``."""
    parser.add_argument(
        "--config", metavar="FILE", help="configuration file; without it, defaults and environment"
    )


def add_until_idle(parser: argparse.ArgumentParser) -> None:
    """Add ``--until-idle``; see :func:`until_idle`."""
    parser.add_argument(
        "--until-idle",
        type=float,
        metavar="SECONDS",
        help="for finite logs: stop after this time without new entries, and close the open windows",
    )


def add_skip_lost(parser: argparse.ArgumentParser) -> None:
    """Add ``--skip-lost``."""
    parser.add_argument(
        "--skip-lost",
        action="store_true",
        help="continue past entries that retention has deleted, counting them as skipped",
    )


def until_idle(arguments: argparse.Namespace) -> float | None:
    """Seconds of silence after which the daemon stops; None to run until a signal.

    Raises:
        UsageError: the value is negative or not a number.
    """
    from stream_ctr.errors import UsageError

    seconds: float | None = arguments.until_idle
    if seconds is not None and not seconds >= 0:  # NaN is neither
        raise UsageError(f"--until-idle must be a number of seconds of at least 0, got {seconds:g}")
    return seconds


def run_daemon(
    job: str,
    folder: Path,
    settings: Settings,
    idle_seconds: float | None,
    work: Callable[[EventLog, Event, Reporter], T],
    *,
    metrics: bool = False,
) -> T | None:
    """Run ``work`` with the open log, holding the lock of the state folder, until a signal stops it.

    Without ``idle_seconds``, wait until the log is available; with it, the log must be available.

    Args:
        job: name of the job in progress lines.
        folder: the state folder.
        settings: the configuration.
        idle_seconds: from :func:`until_idle`.
        work: called with the log, an event that a signal sets, and the reporter.
        metrics: serve /metrics and /health while waiting for the log.

    Returns:
        The result of ``work``; None if a signal arrived before the log was available.

    Raises:
        StreamCTRError: the folder is in use, or the log cannot be opened.
    """
    from stream_ctr.daemon.process import StateLock, stop_on_signals
    from stream_ctr.events.open import open_log
    from stream_ctr.reporting.progress import Reporter

    with stop_on_signals() as stop, Reporter(job) as reporter, StateLock(folder):
        if idle_seconds is None:
            log = wait_for_log(settings, stop, reporter, metrics=metrics)
        else:
            log = open_log(settings.log.url, security=settings.log.security)
        if log is None:
            reporter.say("stopped", reason="stopped by a signal before the log was available")
            return None
        with contextlib.closing(log):
            return work(log, stop, reporter)


def show_outcomes(outcomes: RunReport, job: str, figures: dict[str, Any] | Literal[False]) -> None:
    """Print the result of a run: ``figures`` as JSON, or without them the outcome table.

    Raises:
        NothingUsedError: the run read records and could use none of them.
    """
    if figures:
        print(json.dumps(figures, indent=2))
    else:
        outcomes.print(f"{job}: outcome of this run")
    outcomes.check()


def wait_for_log(settings: Settings, stop: Event, reporter: Reporter, *, metrics: bool) -> EventLog | None:
    """Wait until the configured log is available; None if ``stop`` is set before.

    With ``metrics``, serve /health and /metrics meanwhile.

    Raises:
        StreamCTRError: the log cannot be opened, and waiting does not help.
    """
    from stream_ctr.events.open import open_log
    from stream_ctr.monitoring.exposition import TrainerMetrics
    from stream_ctr.monitoring.http_server import MetricsServer

    pause_seconds, reported = FIRST_PAUSE_SECONDS, ""
    train = settings.train
    with contextlib.ExitStack() as stack:
        while not stop.is_set():
            try:
                return open_log(settings.log.url, security=settings.log.security)
            except LogUnavailableError as error:
                if not reported and metrics and train.metrics_port >= 0:
                    server = MetricsServer(
                        train.metrics_host, train.metrics_port, TrainerMetrics(), lambda: "log unavailable"
                    )
                    stack.callback(server.close)
                    reporter.say("metrics", url=f"http://{server.host}:{server.port}/metrics")
                if str(error) != reported:
                    reported = str(error)
                    reporter.say("waiting", reason=reported)
            stop.wait(pause_seconds)
            pause_seconds = min(2 * pause_seconds, LONGEST_PAUSE_SECONDS)
    return None
