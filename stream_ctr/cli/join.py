"""``stream-ctr join``: the joiner as a separate process."""

from __future__ import annotations

import argparse
from threading import Event
from typing import TYPE_CHECKING

from stream_ctr.daemon.run import add_config, add_until_idle, run_daemon, show_outcomes, until_idle

if TYPE_CHECKING:
    from stream_ctr.daemon.run_report import RunReport
    from stream_ctr.events.log import EventLog
    from stream_ctr.joining.daemon import JoinDaemon
    from stream_ctr.reporting.progress import Reporter


class Join:
    """``stream-ctr join``."""

    help = "join impressions and clicks into a topic of labelled impressions for trainers"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        add_config(parser)
        add_until_idle(parser)
        parser.add_argument("--json", action="store_true", help="print the final counts as JSON")

    def run(self, arguments: argparse.Namespace) -> int:
        """Join until a signal or, with ``--until-idle``, the log's end."""
        from stream_ctr.config.settings import load_settings
        from stream_ctr.joining.daemon import JoinDaemon, join_folder

        idle_seconds = until_idle(arguments)
        settings = load_settings(arguments.config)

        def work(log: EventLog, stop: Event, reporter: Reporter) -> tuple[JoinDaemon, RunReport]:
            daemon = JoinDaemon(settings, log, reporter)
            outcomes = daemon.run(stop, idle_seconds)
            written, applied = daemon.output.written, daemon.core.stage.progress.applied
            reporter.say("stopped", written=written, applied=applied)
            return daemon, outcomes

        done = run_daemon("join", join_folder(settings), settings, idle_seconds, work)
        if done is not None:
            daemon, outcomes = done
            figures = {
                "written": daemon.output.written,
                "there_before": daemon.output.there_before,
                "topic": settings.log.labelled,
                "outcomes": daemon.core.pipeline.outcomes,
                "run": outcomes.as_dict(),
            }
            show_outcomes(outcomes, "join", arguments.json and figures)
        return 0
