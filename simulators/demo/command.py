"""``stream-ctr demo``: the closed loop on the embedded log, ending with the experiment's report.

The demo has no special code path: it starts the commands and settings that a user would, each in its own
process, monitors them, and reads their output.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import time
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Final

from simulators.demo.freshness import Freshness
from simulators.demo.processes import Children, children, pause
from simulators.demo.setup import ARMS, WORLD, new_folder, write_config
from simulators.demo.status import Services, observe, reader_lags, ready
from stream_ctr.errors import StreamCTRError, UsageError

if TYPE_CHECKING:
    from stream_ctr.reporting.progress import Reporter

READY_SECONDS: Final = 900.0
"""Startup timeout; long enough for a busy machine that compiles every kernel first."""
SETTLE_SECONDS: Final = 300.0
"""Timeout for all readers to reach the end of the log after the traffic has ended."""
OBSERVE_SECONDS: Final = 0.25


class Demo:
    """``stream-ctr demo``."""

    help = (
        "the closed loop on the embedded log: two arms learn, a server routes users, a report compares them"
    )

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--out", type=Path, default=Path("out"), metavar="FOLDER", help="folder for all output (out)"
        )
        parser.add_argument(
            "--events", type=int, default=20_000, metavar="N", help="visits to simulate (20,000)"
        )
        parser.add_argument(
            "--rate", type=float, default=300.0, metavar="RATE", help="visits per second (300)"
        )
        parser.add_argument(
            "--candidates", type=int, default=8, metavar="N", help="candidate ads per visit (8)"
        )
        parser.add_argument("--seed", type=int, default=1, metavar="N", help="seed of the world (1)")
        parser.add_argument("--port", type=int, default=0, help="port of the server (0: any free port)")
        parser.add_argument("--page-port", type=int, default=0, help="port of the page (0: any free port)")
        parser.add_argument(
            "--keep-serving",
            action="store_true",
            help="keep all processes running after the report, until Ctrl-C",
        )
        parser.add_argument("--json", action="store_true", help="machine-readable result")

    def run(self, arguments: argparse.Namespace) -> int:
        from simulators.demo.report import make_result, print_result
        from stream_ctr.reporting.figure import why_no_pictures
        from stream_ctr.reporting.progress import Reporter

        _check(arguments)
        folder = new_folder(arguments.out)
        config = write_config(folder, arguments.port, arguments.page_port)
        if not arguments.json:
            seconds = arguments.events / arguments.rate
            print(f"{arguments.events:,} visits at {arguments.rate:g} per second: about {seconds:.0f} s.")
            print("The first run compiles kernels before it starts; later runs reuse them.", flush=True)
            if reason := why_no_pictures():
                print(f"The report will have no plot: {reason}", flush=True)
        before = signal.signal(signal.SIGTERM, _interrupt)  # the default would leave the children running
        try:
            with children(folder) as started:
                with Reporter("demo", quiet=arguments.json) as reporter:
                    services = _start(started, config, folder, reporter)
                    if not arguments.json:
                        _print_addresses(services)
                    fresh = _traffic(started, services, arguments, folder, reporter)
                    _settle(started, services, folder, reporter)
                started.end(*services.trainers)
                result = make_result(config, folder, fresh, services.addresses())
                if arguments.json:
                    print(json.dumps(result, indent=2), flush=True)
                else:
                    print_result(result, config)
                if arguments.keep_serving:
                    _keep_running(started, services, config, folder, arguments)
                started.end()
        finally:
            signal.signal(signal.SIGTERM, before)
        return 0


def _check(arguments: argparse.Namespace) -> None:
    if arguments.events < 1 or not 0 < arguments.rate <= 1e6:
        raise UsageError(
            f"--events {arguments.events} and --rate {arguments.rate:g}: --events must be at least 1, --rate "
            "above 0 and at most 1e6"
        )
    if not 1 <= arguments.candidates <= 1000:
        raise UsageError(f"--candidates {arguments.candidates}: must be from 1 to 1000")
    for name in ("port", "page_port"):
        if not 0 <= getattr(arguments, name) <= 65_535:
            option = name.replace("_", "-")
            raise UsageError(f"--{option} {getattr(arguments, name)}: must be from 0 to 65535")


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _start(started: Children, config: Path, folder: Path, reporter: Reporter) -> Services:
    """Start the server, the watcher and the trainers; wait until they are ready."""
    from stream_ctr.config.settings import load_settings
    from stream_ctr.events.open import open_log

    settings = load_settings(config)
    log = open_log(settings.log.url, create=True)
    for topic in (settings.log.impressions, settings.log.clicks):
        log.create_topic(topic, settings.log.partitions)
    log.close()
    where = ("--config", str(config))
    services = Services(
        started.start("server", "serve", *where),
        started.start("watcher", "experiment", "watch", *where),
        tuple(started.start(f"trainer-{arm}", "train", *where, "--arm", arm) for arm in ARMS),
    )
    until = time.monotonic() + READY_SECONDS
    while not (all(services.addresses().values()) and ready(services)):
        started.check()
        if time.monotonic() > until:
            raise StreamCTRError(
                f"not ready after {READY_SECONDS:g} s; see the logs of the processes in {folder}/*.log"
            )
        reporter.progress(
            state="starting", **{name: url or "-" for name, url in services.addresses().items()}
        )
        pause()
    return services


def _print_addresses(services: Services) -> None:
    """Print all addresses."""
    addresses = services.addresses()
    width = max(map(len, addresses)) + 2
    for name, url in addresses.items():
        print(f"{name:{width}}{url}", flush=True)


def _visits(services: Services, arguments: argparse.Namespace, folder: Path) -> list[str]:
    """The command line that simulates the visits."""
    command = ["simulate", "--server", str(services.server.address())]
    command += ["--log", f"sqlite:///{folder}/events.db"]
    command += ["--rate", str(arguments.rate), "--candidates", str(arguments.candidates)]
    command += ["--seed", str(arguments.seed), "--json"]
    for name, value in WORLD.items():
        command += ["--option", f"{name}={value}"]
    return command


def _traffic(
    started: Children, services: Services, arguments: argparse.Namespace, folder: Path, reporter: Reporter
) -> dict[str, Freshness]:
    """Run the traffic; returns the freshness of each arm's answers."""
    command = [*_visits(services, arguments, folder), "--events", str(arguments.events)]
    traffic = started.start("traffic", *command)
    fresh = {arm: Freshness() for arm in ARMS}
    while traffic.running:
        started.check(may_end=traffic)
        reporter.progress(state="traffic", **observe(services, fresh))
        pause(OBSERVE_SECONDS)
    started.end(traffic)
    return fresh


def _settle(started: Children, services: Services, folder: Path, reporter: Reporter) -> None:
    """Wait until the trainers and the watcher have read the log to its end."""
    ended_ms, until = time.time() * 1000, time.monotonic() + SETTLE_SECONDS
    while time.monotonic() < until:
        started.check()
        left = reader_lags(services, folder, ended_ms)
        reporter.progress(state="processing the last visits", **left)
        if "watcher" in left and not any(lag is None or lag for lag in left.values()):
            return
        pause()
    raise StreamCTRError(
        f"the last visits were not processed within {SETTLE_SECONDS:g} s; see the logs in {folder}"
    )


def _keep_running(
    started: Children, services: Services, config: Path, folder: Path, arguments: argparse.Namespace
) -> None:
    """Keep all processes running until Ctrl-C or SIGTERM."""
    for arm in ARMS:
        started.start(f"trainer-{arm}", "train", "--config", str(config), "--arm", arm)
    started.start("traffic", *_visits(services, arguments, folder), "--resume")
    if not arguments.json:
        print(f"\nStill running: page {services.watcher.address()}, server {services.server.address()},")
        print("trainers and traffic. Press Ctrl-C to stop.", flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            started.check()
            pause(OBSERVE_SECONDS)
