"""A server process for tests: ``python -m tests.support.two_arm_server STATE LOG_URL [SETTINGS]``, two arms.

SETTINGS are those of [serve] as JSON; ports are free ones unless they are told.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from stream_ctr.config.experiment import ArmConfig, ExperimentConfig
from stream_ctr.config.log import LogConfig
from stream_ctr.config.serve import ServeConfig
from stream_ctr.errors import StreamCTRError
from stream_ctr.serving.server import run_server

SALT = "serving-tests"
TWO_ARMS = ExperimentConfig(name="two", salt=SALT, arms=(ArmConfig("control", 0.5), ArmConfig("new", 0.5)))
HEAVY = ("torch", "pydantic", "river", "kafka")


def main(state: str, log: str, serve: str = "{}") -> int:
    settings = ServeConfig(**{"port": 0, "poll_seconds": 0.01, **json.loads(serve)})
    try:
        status = run_server(settings, TWO_ARMS, LogConfig(url=log), Path(state))
    except StreamCTRError as error:
        print(error, file=sys.stderr)
        return error.exit_status
    print("imported:", *(name for name in HEAVY if name in sys.modules))
    return status


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
