"""``stream-ctr experiment watch``: join impressions with clicks, and publish the experiment's metrics."""

from __future__ import annotations

import argparse
import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING

from stream_ctr.daemon.run import (
    add_config,
    add_skip_lost,
    add_until_idle,
    run_daemon,
    show_outcomes,
    until_idle,
)

if TYPE_CHECKING:
    from stream_ctr.config.settings import Settings
    from stream_ctr.daemon.run_report import RunReport
    from stream_ctr.events.log import EventLog
    from stream_ctr.experiments.report.model import Report
    from stream_ctr.experiments.watcher.daemon import Watcher
    from stream_ctr.reporting.progress import Reporter


class WatchCommand:
    """``stream-ctr experiment watch``."""

    help = "join impressions and clicks, compute the experiment's metrics, serve report and page"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        add_config(parser)
        add_until_idle(parser)
        add_skip_lost(parser)
        parser.add_argument("--json", action="store_true", help="print the final report as JSON")

    def run(self, arguments: argparse.Namespace) -> int:
        """Watch until a signal or, with ``--until-idle``, the log's end."""
        from stream_ctr.config.experiment import FOLDER
        from stream_ctr.config.settings import load_settings
        from stream_ctr.daemon.process import tune_interpreter
        from stream_ctr.experiments.report.model import encode_report

        idle_seconds = until_idle(arguments)
        settings = load_settings(arguments.config)

        def work(log: EventLog, stop: Event, reporter: Reporter) -> tuple[Report, RunReport]:
            tune_interpreter()
            config = _ConfigFile(arguments.config, settings, reporter)
            with contextlib.ExitStack() as stack:
                report, outcomes = _watch(
                    config, log, reporter, stop, idle_seconds, arguments.skip_lost, stack
                )
                reporter.say("stopped", impressions=sum(arm.impressions for arm in report.arms))
            return report, outcomes

        done = run_daemon("watch", Path(settings.train.state) / FOLDER, settings, idle_seconds, work)
        if done is not None:
            report, outcomes = done
            figures = {**json.loads(encode_report(report)), "run": outcomes.as_dict()}
            show_outcomes(outcomes, "watch", arguments.json and figures)
        return 0


class _ConfigFile:
    """Detects changes of the experiment in the configuration file."""

    def __init__(self, path: str | None, settings: Settings, reporter: Reporter) -> None:
        self._path, self.settings, self._reporter = path, settings, reporter
        self._seen = self._stamp()

    def changed(self) -> bool:
        """Whether the file changed and :attr:`settings` now contain a new experiment or coverage."""
        from stream_ctr.config.settings import load_settings
        from stream_ctr.errors import StreamCTRError
        from stream_ctr.experiments.watcher.experiment_state import declaration

        stamp = self._stamp()
        if stamp == self._seen:
            return False
        self._seen = stamp
        try:
            found = load_settings(self._path)
        except StreamCTRError as error:
            self._reporter.say("config-rejected", reason=str(error))
            return False
        now, new = self.settings.experiment, found.experiment
        if new == now:
            return False
        if new.salt == now.salt and declaration(new, found.watch) != declaration(now, self.settings.watch):
            self._reporter.say(
                "config-rejected",
                reason=f"the declaration changed under the same salt {now.salt!r}; "
                "restore it or set a new experiment.salt",
            )
            return False
        # The locations of state and log are fixed at start; only the experiment may change.
        self.settings = self.settings.model_copy(update={"experiment": new, "watch": found.watch})
        self._reporter.say("config-applied", salt=new.salt, coverage=new.coverage)
        return True

    def _stamp(self) -> tuple[int, int, int]:
        if self._path is None:
            return (0, 0, 0)
        try:
            status = Path(self._path).stat()
        except OSError:
            return (0, 0, 0)
        return (status.st_ino, status.st_size, status.st_mtime_ns)


def _watch(
    config: _ConfigFile,
    log: EventLog,
    reporter: Reporter,
    stop: Event,
    until_idle: float | None,
    skip_lost: bool,
    stack: contextlib.ExitStack,
) -> tuple[Report, RunReport]:
    """Watch experiments one after another, all on the same port."""
    from stream_ctr.experiments.watcher.daemon import Watcher

    watcher = Watcher(config.settings, log, reporter, skip_lost=skip_lost)
    if config.settings.watch.port >= 0:
        _serve(config.settings, lambda: watcher, reporter, stack)
    while True:
        before = config.settings
        report, outcomes = watcher.run(stop, until_idle, config.changed)
        if config.settings is before:
            return report, outcomes
        watcher = Watcher(config.settings, log, reporter)


def _serve(
    settings: Settings, watcher: Callable[[], Watcher], reporter: Reporter, stack: contextlib.ExitStack
) -> None:
    """Open the HTTP port; ``stack`` closes it."""
    from stream_ctr.experiments.report.page import page_routes
    from stream_ctr.experiments.watcher.metrics import ExperimentMetrics
    from stream_ctr.monitoring.http_server import MetricsServer

    def ready() -> str | None:
        latest = watcher().output.latest
        return None if latest is not None and latest[0].progress.log_up else "the log is unavailable"

    def report() -> Report | None:
        latest = watcher().output.latest
        return None if latest is None else latest[0]

    def report_json() -> bytes:
        latest = watcher().output.latest
        return b"" if latest is None else latest[1]

    server = MetricsServer(
        settings.watch.host,
        settings.watch.port,
        ExperimentMetrics(report, lambda: watcher().outcomes.numbers()),
        ready,
        page_routes(report_json),
        ("watch.host", "watch.port"),
    )
    stack.callback(server.close)
    reporter.say("serving", url=f"http://{server.host}:{server.port}/")
