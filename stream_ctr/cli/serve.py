"""``stream-ctr serve``: the prediction server."""

from __future__ import annotations

import argparse
from pathlib import Path


class Serve:
    """``stream-ctr serve``."""

    help = "answer /v1/rank from the newest snapshots, route users to arms, log impressions"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--config", metavar="FILE", help="configuration file; without it, defaults and environment"
        )

    def run(self, arguments: argparse.Namespace) -> int:
        from stream_ctr.config.settings import load_settings
        from stream_ctr.serving.routing.config_reload import ConfigSource
        from stream_ctr.serving.server import run_server

        source = ConfigSource.of(arguments.config)
        settings = load_settings(arguments.config)
        state = Path(settings.train.state)
        return run_server(
            settings.serve, settings.experiment, settings.log, state, source, settings.features.unknown
        )
