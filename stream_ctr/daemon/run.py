"""What the commands that run a daemon share: their options, the lock, the log and the signals.

Only ``run_daemon`` imports what is slow: a command's module is imported for every command line.

A daemon that starts while the log is unreachable waits for it: live, not ready, with growing pauses.
"""

from __future__ import annotations

import argparse
import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from stream_ctr.errors import LogAwayError

if TYPE_CHECKING:
    from stream_ctr.config.settings import Settings
    from stream_ctr.daemon.run_report import RunReport
    from stream_ctr.events.log import EventLog
    from stream_ctr.reporting.progress import Reporter

T = TypeVar("T")

FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 10.0


def add_config(parser: argparse.ArgumentParser) -> None:
    """``--config``."""
    parser.add_argument("--config", help="configuration file; without it, defaults and environment")


def add_until_idle(parser: argparse.ArgumentParser) -> None:
    """``--until-idle``; see :func:`until_idle`."""
    parser.add_argument(
        "--until-idle",
        type=float,
        metavar="SECONDS",
        help="for logs that end: stop after so long without news, and close the open windows",
    )


def add_skip_lost(parser: argparse.ArgumentParser) -> None:
    """``--skip-lost``."""
    parser.add_argument(
        "--skip-lost",
        action="store_true",
        help="go on behind entries that the log no longer holds; they are counted as skipped",
    )


def until_idle(arguments: argparse.Namespace) -> float | None:
    """The seconds of silence after which the log has ended; None where it never does.

    Raises:
        UsageError: that is no number of seconds.
    """
    from stream_ctr.errors import UsageError

    seconds: float | None = arguments.until_idle
    if seconds is not None and not seconds >= 0:  # NaN is neither
        raise UsageError(f"--until-idle {seconds:g} is not a number of seconds, 0 or more")
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
    """Do ``work`` with the open log, alone on a state folder, until a signal asks for the end.

    A log that never ends is waited for; one that ends must be there.

    Args:
        job: what the progress lines are of.
        folder: the state folder.
        settings: the configuration.
        idle_seconds: from :func:`until_idle`.
        work: given the log, what says when to stop, and where progress goes.
        metrics: whether /metrics and /health answer while the log is waited for.

    Returns:
        What ``work`` gives; None where it was asked to stop before the log answered.

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
            reporter.say("stopped", reason="asked to, before the log answered")
            return None
        with contextlib.closing(log):
            return work(log, stop, reporter)


def show_outcomes(outcomes: RunReport, job: str, figures: dict[str, Any] | Literal[False]) -> None:
    """Print what a run came to: ``figures`` as JSON, or without them the table of outcomes.

    Raises:
        NothingUsedError: it read records, and none of them was of use.
    """
    if figures:
        print(json.dumps(figures, indent=2))
    else:
        outcomes.print(f"{job}: what this run read, and what came of it")
    outcomes.check()


def wait_for_log(settings: Settings, stop: Event, reporter: Reporter, *, metrics: bool) -> EventLog | None:
    """The configured log as soon as it answers; None when ``stop`` is set before.

    With ``metrics``, /health and /metrics answer meanwhile.

    Raises:
        StreamCTRError: the log cannot be opened for a reason that waiting does not mend.
    """
    from stream_ctr.events.open import open_log
    from stream_ctr.monitoring.exposition import TrainerMetrics
    from stream_ctr.monitoring.http_server import MetricsServer

    pause_seconds, said = FIRST_PAUSE_SECONDS, ""
    train = settings.train
    with contextlib.ExitStack() as stack:
        while not stop.is_set():
            try:
                return open_log(settings.log.url, security=settings.log.security)
            except LogAwayError as error:
                if not said and metrics and train.metrics_port >= 0:
                    server = MetricsServer(
                        train.metrics_host, train.metrics_port, TrainerMetrics(), lambda: "the log is away"
                    )
                    stack.callback(server.close)
                    reporter.say("metrics", url=f"http://{server.host}:{server.port}/metrics")
                if str(error) != said:
                    said = str(error)
                    reporter.say("waiting", reason=said)
            stop.wait(pause_seconds)
            pause_seconds = min(2 * pause_seconds, LONGEST_PAUSE_SECONDS)
    return None
