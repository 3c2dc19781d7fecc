"""``stream-ctr train``: the trainer daemon."""

from __future__ import annotations

import argparse
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

from stream_ctr.daemon.run import (
    add_config,
    add_skip_lost,
    add_until_idle,
    run_daemon,
    show_outcomes,
    until_idle,
)

if TYPE_CHECKING:
    from stream_ctr.events.log import EventLog
    from stream_ctr.offline.warm_start import WarmStart
    from stream_ctr.reporting.progress import Reporter
    from stream_ctr.training.trainer import Summary, Trainer


class Train:
    """``stream-ctr train``."""

    help = "learn from impressions and clicks event by event; save checkpoints, publish snapshots and metrics"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        add_config(parser)
        parser.add_argument("--arm", metavar="NAME", help="arm to train (the first)")
        add_until_idle(parser)
        parser.add_argument(
            "--start-from",
            type=Path,
            metavar="FOLDER",
            help="start a new run from the weights, vocabulary and counts of a batch run's checkpoint",
        )
        parser.add_argument(
            "--start-at",
            choices=["first", "last"],
            help="with --start-from: begin at the first entry in the log, or after its last",
        )
        add_skip_lost(parser)
        parser.add_argument(
            "--replace-snapshots",
            action="store_true",
            help="allow a new run in a folder that has snapshots but no checkpoint",
        )
        parser.add_argument("--json", action="store_true", help="print the final metrics as JSON")

    def run(self, arguments: argparse.Namespace) -> int:
        """Learn until a signal or, with ``--until-idle``, the log's end."""
        from stream_ctr.config.experiment_check import refuse_frozen
        from stream_ctr.config.settings import load_settings
        from stream_ctr.daemon.process import tune_interpreter
        from stream_ctr.training.trainer import Trainer

        idle_seconds, warm = until_idle(arguments), _warm_start(arguments)
        settings = load_settings(arguments.config)
        arm = settings.arm(arguments.arm)
        refuse_frozen(settings.experiment, arm.name)

        def work(log: EventLog, stop: Event, reporter: Reporter) -> tuple[Trainer, Summary]:
            trainer = Trainer(
                settings,
                arm,
                log,
                reporter,
                skip_lost=arguments.skip_lost,
                replace_snapshots=arguments.replace_snapshots,
                warm=warm,
            )
            tune_interpreter()
            summary = trainer.run(stop, idle_seconds)
            values = trainer.core.metrics.result("lifetime")
            reporter.say(
                "stopped",
                learned=summary.learned,
                in_this_run=summary.events,
                seconds=round(summary.seconds, 1),
                log_loss=values.log_loss,
                auc=values.auc,
                checkpoint=str(summary.checkpoint),
            )
            return trainer, summary

        folder = settings.arm_state(arm.name)
        done = run_daemon(f"train {arm.name}", folder, settings, idle_seconds, work, metrics=True)
        if done is not None:
            show_outcomes(done[1].outcomes, f"train {arm.name}", arguments.json and _figures(*done))
        return 0


def _warm_start(arguments: argparse.Namespace) -> WarmStart | None:
    """The checkpoint and log position that a new run starts from, if given.

    Raises:
        UsageError: only one of the two options is given.
    """
    from stream_ctr.errors import UsageError
    from stream_ctr.offline.warm_start import WarmStart

    if (arguments.start_from is None) != (arguments.start_at is None):
        raise UsageError("--start-from FOLDER and --start-at first or last go together; give both")
    return WarmStart(arguments.start_from, arguments.start_at) if arguments.start_from else None


def _figures(trainer: Trainer, summary: Summary) -> dict[str, Any]:
    """The final metrics as ``--json`` prints them."""
    from stream_ctr.daemon.process import peak_bytes

    return {
        "learned": summary.learned,
        "seconds": round(summary.seconds, 3),
        "checkpoint": str(summary.checkpoint),
        "rows": trainer.core.pipeline.tables.rows_in_use,
        "peak_bytes": peak_bytes(),
        "outcomes": trainer.core.pipeline.outcomes,
        "run": summary.outcomes.as_dict(),
        "lifetime": trainer.core.metrics.result("lifetime").as_dict(),
    }
