"""``stream-ctr demo``: the closed loop on the embedded log, ending with the experiment's report.

Nothing here is special to the demo: it starts the same commands with the same settings as a user would,
in processes of their own, watches them, and reads what they wrote.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Final

from simulators.children import Child, Children, children, pause
from simulators.freshness import Freshness
from stream_ctr.errors import StreamCTRError, UsageError

if TYPE_CHECKING:
    from stream_ctr.training.report import Reporter

CONFIG: Final = """\
# Written by `stream-ctr demo`; `stream-ctr config show` explains every key.
[log]
url = "sqlite:///{folder}/events.db"

[features]
preset = "world"

[order]
idle_seconds = 0.5

[join]
window_seconds = {window}
horizon_seconds = 60.0

[train]
state = "{folder}/state"
checkpoint_seconds = 10.0
metrics_port = 0
metrics_window = 2500

[serve]
port = {port}

[watch]
port = {page_port}
window_seconds = 5.0
planned_impressions = 20_000

[experiment]
name = "demo"
salt = "demo-1"

[[experiment.arms]]
name = "control"
weight = 0.5
learner = {{kind = "river", river = "river-ftrl"}}  # logistic regression, FTRL-Proximal

[[experiment.arms]]
name = "treatment"
weight = 0.5
optimizer = {{method = "helen"}}  # of a deep network with Skip Meta Logit
"""
ARMS: Final = ("control", "treatment")
LABEL_SECONDS: Final = 3.0
"""Users of the demo's world click within this long."""
WORLD: Final = {"users": 2000, "ads": 200, "sites": 40, "delay_seconds": 0.5, "longest_delay_seconds": 2.5}
"""A world small enough that a minute of visits teaches something."""
READY_SECONDS: Final = 900.0
"""Longest start: on a busy machine that compiles every kernel first."""
SETTLE_SECONDS: Final = 300.0
"""Longest time for all to read what the traffic wrote last."""
LOOK_SECONDS: Final = 0.25


@dataclass(frozen=True)
class Places:
    """What runs, and where it answers."""

    server: Child
    watcher: Child
    trainers: tuple[Child, ...]

    def told(self) -> dict[str, str | None]:
        """Addresses by what is there."""
        page = self.watcher.address()
        trainers = {f"metrics of {child.name}": child.address() for child in self.trainers}
        return {
            "server": self.server.address(),
            "page": page,
            **{name: url and f"{url}/metrics" for name, url in trainers.items()},
        }


class Demo:
    """``stream-ctr demo``."""

    help = "the closed loop on the embedded log: two arms learn, a server routes users, the report says which"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--out", type=Path, default=Path("out"), help="folder for everything it writes")
        parser.add_argument("--events", type=int, default=20_000, help="visits to simulate (20,000)")
        parser.add_argument("--rate", type=float, default=300.0, help="visits a second (300)")
        parser.add_argument("--candidates", type=int, default=8, help="ads to choose from in a visit (8)")
        parser.add_argument("--seed", type=int, default=1, help="seed of the world")
        parser.add_argument("--port", type=int, default=0, help="the server's port (0: a free one)")
        parser.add_argument("--page-port", type=int, default=0, help="the page's port (0: a free one)")
        parser.add_argument(
            "--keep-serving", action="store_true", help="after the report, go on with all of it until Ctrl-C"
        )
        parser.add_argument("--json", action="store_true", help="machine-readable result")

    def run(self, arguments: argparse.Namespace) -> int:
        from simulators.demo_report import make_result, print_result
        from stream_ctr.training.report import Reporter

        _check(arguments)
        folder = _new_folder(arguments.out)
        config = _write_config(folder, arguments)
        if not arguments.json:
            seconds = arguments.events / arguments.rate
            print(f"{arguments.events:,} visits at {arguments.rate:g} a second: about {seconds:.0f} s.")
            print(
                "A first run compiles its kernels before it begins; they are kept for the next.", flush=True
            )
        before = signal.signal(signal.SIGTERM, _interrupt)  # by default it would leave the others running
        try:
            with children(folder) as started:
                with Reporter("demo", quiet=arguments.json) as reporter:
                    places = _start(started, config, folder, reporter)
                    if not arguments.json:
                        _tell(places)
                    fresh = _traffic(started, places, arguments, folder, reporter)
                    _settle(started, places, folder, reporter)
                started.end(*places.trainers)
                result = make_result(config, folder, fresh, places.told())
                if arguments.json:
                    print(json.dumps(result, indent=2), flush=True)
                else:
                    print_result(result, config)
                if arguments.keep_serving:
                    _keep(started, places, config, folder, arguments)
                started.end()
        finally:
            signal.signal(signal.SIGTERM, before)
        return 0


def _check(arguments: argparse.Namespace) -> None:
    if arguments.events < 1 or not 0 < arguments.rate <= 1e6:
        raise UsageError("--events must be at least 1, --rate above 0 and at most 1e6")
    if not 1 <= arguments.candidates <= 1000:
        raise UsageError(f"--candidates {arguments.candidates} is not from 1 to 1000")
    for name in ("port", "page_port"):
        if not 0 <= getattr(arguments, name) <= 65_535:
            option = name.replace("_", "-")
            raise UsageError(f"--{option} {getattr(arguments, name)} is not from 0 to 65535")


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _new_folder(out: Path) -> Path:
    """A folder that no earlier demo wrote to: its log and state are never overwritten."""
    out = out.resolve()
    number = 1
    while (out / f"demo-{number}").exists():
        number += 1
    folder = out / f"demo-{number}"
    folder.mkdir(parents=True)
    return folder


def _write_config(folder: Path, arguments: argparse.Namespace) -> Path:
    config = folder / "demo.toml"
    quoted = json.dumps(str(folder), ensure_ascii=False)[1:-1]  # a TOML text has the escapes of JSON's
    text = CONFIG.format(
        folder=quoted, window=LABEL_SECONDS, port=arguments.port, page_port=arguments.page_port
    )
    config.write_text(text, "utf-8")
    return config


def _start(started: Children, config: Path, folder: Path, reporter: Reporter) -> Places:
    """Everything but the traffic, up and ready."""
    from stream_ctr.config import load_settings
    from stream_ctr.events.open import open_log

    settings = load_settings(config)
    log = open_log(settings.log.url, create=True)
    for topic in (settings.log.impressions, settings.log.clicks):
        log.create_topic(topic, settings.log.partitions)
    log.close()
    where = ("--config", str(config))
    places = Places(
        started.start("server", "serve", *where),
        started.start("watcher", "experiment", "watch", *where),
        tuple(started.start(f"trainer-{arm}", "train", *where, "--arm", arm) for arm in ARMS),
    )
    until = time.monotonic() + READY_SECONDS
    while not (all(places.told().values()) and _ready(places)):
        started.check()
        if time.monotonic() > until:
            raise StreamCTRError(
                f"not ready after {READY_SECONDS:g} s; what each process says is in {folder}/*.log"
            )
        reporter.progress(state="starting", **{name: url or "-" for name, url in places.told().items()})
        pause()
    return places


def _ready(places: Places) -> bool:
    """Whether the server has a model of every arm."""
    try:
        told = json.loads(_get(f"{places.server.address()}/health/ready"))
    except (OSError, ValueError):
        return False
    arms = told.get("arms", {})
    return bool(arms) and all(arms.get(arm, {}).get("version") is not None for arm in ARMS)


def _tell(places: Places) -> None:
    told = places.told()
    width = max(map(len, told)) + 2
    for name, url in told.items():
        print(f"{name:{width}}{url}", flush=True)


def _simulate(places: Places, arguments: argparse.Namespace, folder: Path) -> list[str]:
    command = ["simulate", "--server", str(places.server.address()), "--log", f"sqlite:///{folder}/events.db"]
    command += ["--rate", str(arguments.rate), "--candidates", str(arguments.candidates)]
    command += ["--seed", str(arguments.seed), "--json"]
    for name, value in WORLD.items():
        command += ["--option", f"{name}={value}"]
    return command


def _traffic(
    started: Children, places: Places, arguments: argparse.Namespace, folder: Path, reporter: Reporter
) -> dict[str, Freshness]:
    """Let the users visit; returns how fresh each arm's answers were."""
    command = [*_simulate(places, arguments, folder), "--events", str(arguments.events)]
    traffic = started.start("traffic", *command)
    fresh = {arm: Freshness() for arm in ARMS}
    while traffic.running:
        started.check(may_end=traffic)
        seen = _look(places, fresh)
        reporter.progress(state="traffic", **seen)
        pause(LOOK_SECONDS)
    started.end(traffic)
    return fresh


def _look(places: Places, fresh: dict[str, Freshness]) -> dict[str, Any]:
    """What the server answers from at this moment."""
    try:
        series = _series(_get(f"{places.server.address()}/metrics"))
    except OSError:
        return {}
    shown: dict[str, Any] = {}
    seen = time.time()
    answers = {arm: _answers(series, arm) for arm in fresh}
    for arm, freshness in fresh.items():
        if not any(answers.values()):
            freshness.begin(seen)  # no visit yet: what comes is later than now
        told = series.get(f'stream_ctr_serve_snapshot_event_timestamp_seconds{{arm="{arm}"}}', 0.0)
        if told > 0.0:
            freshness.look(seen, told - LABEL_SECONDS)
        shown[f"{arm}_answers"] = answers[arm]
        p50 = freshness.quantile(0.5)
        shown[f"{arm}_freshness"] = "-" if p50 is None else f"{p50:.1f} s"
    return shown


def _answers(series: dict[str, float], arm: str) -> int:
    return round(series.get(f'stream_ctr_serve_requests_total{{arm="{arm}",code="200"}}', 0.0))


def _settle(started: Children, places: Places, folder: Path, reporter: Reporter) -> None:
    """Wait until trainers and watcher have read all that the traffic wrote."""
    from stream_ctr.experiments.report_model import read_report
    from stream_ctr.experiments.shared import FOLDER

    report = folder / "state" / FOLDER / "report.json"
    ended_ms, until = time.time() * 1000, time.monotonic() + SETTLE_SECONDS
    while time.monotonic() < until:
        started.check()
        behind = {child.name: _lag(child) for child in places.trainers}
        if report.exists():
            found = read_report(report)
            behind["watcher"] = found.progress.lag_entries if found.generated_ms > ended_ms else None
        reporter.progress(state="reading the last visits", **behind)
        if len(behind) == len(places.trainers) + 1 and not any(lag is None or lag for lag in behind.values()):
            return
        pause()
    raise StreamCTRError(f"the last visits were not read within {SETTLE_SECONDS:g} s; see {folder}")


def _lag(trainer: Child) -> float | None:
    """Entries of the log that a trainer has not applied."""
    try:
        series = _series(_get(f"{trainer.address()}/metrics"))
    except OSError:
        return None
    found = [value for name, value in series.items() if name.startswith("stream_ctr_log_lag_entries{")]
    return sum(found) if found else None


def _keep(
    started: Children, places: Places, config: Path, folder: Path, arguments: argparse.Namespace
) -> None:
    """Go on with everything until Ctrl-C or SIGTERM."""
    for arm in ARMS:
        started.start(f"trainer-{arm}", "train", "--config", str(config), "--arm", arm)
    started.start("traffic", *_simulate(places, arguments, folder), "--resume")
    if not arguments.json:
        print(
            f"\nThe page goes on at {places.watcher.address()} and the server at {places.server.address()};"
        )
        print("users go on visiting. Ctrl-C ends them all.", flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            started.check()
            pause(LOOK_SECONDS)


def _get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=5) as answer:
        text: bytes = answer.read()
    return text.decode()


def _series(exposition: str) -> dict[str, float]:
    """Series of Prometheus' text and their values, labels in the order of their names."""
    found = {}
    for line in exposition.splitlines():
        if line and not line.startswith("#"):
            series, _, value = line.rpartition(" ")
            name, brace, labels = series.partition("{")
            ordered = ",".join(sorted(labels.removesuffix("}").split(",")))
            found[f"{name}{{{ordered}}}" if brace else name] = float(value)
    return found
