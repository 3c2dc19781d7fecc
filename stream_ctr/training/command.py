"""``stream-ctr train``: the consumer daemon."""

from __future__ import annotations

import argparse
import contextlib
import json
from pathlib import Path


class Train:
    """``stream-ctr train``."""

    help = "consume impressions and clicks, learn event by event, save, publish and show"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--config", help="configuration file; without it, defaults and environment")
        parser.add_argument("--arm", help="arm to train; without it, the first")
        parser.add_argument(
            "--until-idle",
            type=float,
            metavar="SECONDS",
            help="for logs that end: stop after so long without news, and close the open windows",
        )
        parser.add_argument(
            "--start-from",
            type=Path,
            metavar="FOLDER",
            help="checkpoint of a batch run whose weights, vocabulary and counts a new run begins with",
        )
        parser.add_argument(
            "--start-at",
            choices=["first", "last"],
            help="with --start-from: begin at the first entry that the log holds, or after its last",
        )
        parser.add_argument(
            "--skip-lost",
            action="store_true",
            help="go on behind entries that the log no longer holds; they are counted as skipped",
        )
        parser.add_argument("--json", action="store_true", help="print the final figures as JSON")

    def run(self, arguments: argparse.Namespace) -> int:
        from stream_ctr.batch.warm_start import WarmStart
        from stream_ctr.config import load_settings
        from stream_ctr.errors import UsageError
        from stream_ctr.events.open import open_log
        from stream_ctr.experiments.check import refuse_frozen
        from stream_ctr.signals import stop_on_signals
        from stream_ctr.training.lock import StateLock
        from stream_ctr.training.report import Reporter
        from stream_ctr.training.runtime import peak_bytes, tune_interpreter
        from stream_ctr.training.trainer import Trainer
        from stream_ctr.training.wait import wait_for_log

        until_idle: float | None = arguments.until_idle
        if until_idle is not None and not until_idle >= 0:  # NaN is neither
            raise UsageError(f"--until-idle {until_idle:g} is not a number of seconds, 0 or more")
        if (arguments.start_from is None) != (arguments.start_at is None):
            raise UsageError(
                "--start-from FOLDER and --start-at first or last go together: say where in the log to begin"
            )
        warm = WarmStart(arguments.start_from, arguments.start_at) if arguments.start_from else None
        settings = load_settings(arguments.config)
        arm = settings.arm(arguments.arm)
        refuse_frozen(settings.experiment, arm.name)
        with (
            stop_on_signals() as stop,
            Reporter(f"train {arm.name}") as reporter,
            StateLock(settings.arm_state(arm.name)),
            contextlib.ExitStack() as stack,
        ):
            if until_idle is None:
                log = wait_for_log(settings, stop, reporter, metrics=True)
            else:
                log = open_log(settings.log.url, security=settings.log.security)
            if log is None:
                reporter.say("stopped", reason="asked to, before the log answered")
                return 0
            stack.callback(log.close)
            trainer = Trainer(settings, arm, log, reporter, skip_lost=arguments.skip_lost, warm=warm)
            tune_interpreter()
            summary = trainer.run(stop, until_idle)
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
        if arguments.json:
            figures = {
                "learned": summary.learned,
                "seconds": round(summary.seconds, 3),
                "checkpoint": str(summary.checkpoint),
                "rows": trainer.core.pipeline.tables.rows_in_use,
                "peak_bytes": peak_bytes(),
                "outcomes": trainer.core.pipeline.outcomes,
                "lifetime": values.as_dict(),
            }
            print(json.dumps(figures, indent=2))
        return 0
