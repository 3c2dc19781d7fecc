"""``stream-ctr experiment override``: sign a header by which a tester sees a chosen arm."""

from __future__ import annotations

import argparse
import json
import os
import time

DAY_SECONDS = 86_400.0


class OverrideCommand:
    """``stream-ctr experiment override``."""

    help = "sign a header that gives one user a chosen arm until it expires"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("arm", help="arm that the user sees")
        parser.add_argument("--user", required=True, help="user that the header is valid for")
        parser.add_argument("--config", help="configuration file; without it, defaults and environment")
        parser.add_argument(
            "--valid-seconds", type=float, default=DAY_SECONDS, help="validity in seconds (86400, one day)"
        )
        parser.add_argument("--json", action="store_true", help="machine-readable output")

    def run(self, arguments: argparse.Namespace) -> int:
        from stream_ctr.config.experiment import SECRET_VARIABLE
        from stream_ctr.config.settings import load_settings
        from stream_ctr.errors import UsageError
        from stream_ctr.experiments.override import HEADER, Override, read_secret, sign_override

        experiment = load_settings(arguments.config).experiment
        answering = [arm.name for arm in experiment.arms if not arm.shadow]
        if arguments.arm not in answering:
            raise UsageError(
                f"no arm named {arguments.arm!r} answers users; choose one of {', '.join(answering)}"
            )
        if not 1 <= arguments.valid_seconds <= 366 * DAY_SECONDS:  # NaN fails, too
            raise UsageError(
                f"--valid-seconds must be from 1 to {366 * 86_400}, got {arguments.valid_seconds:g}"
            )
        secret = read_secret(experiment.override_secret_file, os.environ)
        if not secret:
            raise UsageError(
                f"no secret to sign the header with; set {SECRET_VARIABLE} in the environment, or "
                "experiment.override_secret_file, for this command and for the server"
            )
        expires = int(time.time() + arguments.valid_seconds)
        value = sign_override(secret, Override(experiment.salt, arguments.arm, arguments.user, expires))
        name = HEADER.decode()
        if arguments.json:
            print(json.dumps({"header": name, "value": value, "expires": expires}))
        else:
            print(f"{name}: {value}")
        return 0
