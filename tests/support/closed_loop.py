"""What the tests of the closed loop need: models of the world, a server, and what is in its log."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import msgspec

from simulators.world.settings import WorldConfig
from simulators.world.world import World
from stream_ctr.config.features import FeaturesConfig
from stream_ctr.config.learner import LearnerConfig
from stream_ctr.config.model import ModelConfig
from stream_ctr.config.optimizer import OptimizerConfig
from stream_ctr.datasets.world import WORLD_FIELDS
from stream_ctr.events.records import Click, Impression
from stream_ctr.features.keys.encoder import KeyEncoder
from stream_ctr.features.rows.tables import FeatureTables
from stream_ctr.learners.build import build_learner
from stream_ctr.pipeline.from_examples import direct_batches
from stream_ctr.predictors.export import snapshot_content
from stream_ctr.predictors.snapshot import SnapshotContent
from tests.support.served_arms import sample
from tests.support.simulated_logs import SMALL, contents

ROOT = Path(__file__).parents[2]
CONFIG = WorldConfig(users=500, ads=100, sites=40)
MODEL = ModelConfig(base_rate=0.2)


def learned(events: int) -> SnapshotContent:
    """A model of the world that has learned so many of its events, at least 1."""
    encoder = KeyEncoder(WORLD_FIELDS)
    tables = FeatureTables(encoder.slot_field, len(WORLD_FIELDS), FeaturesConfig(preset="world"))
    slots = encoder.slot_field.tolist()
    learner = build_learner(MODEL, OptimizerConfig(), LearnerConfig(), slots, len(WORLD_FIELDS))
    for batch in direct_batches(World(CONFIG).examples(0, events), encoder, tables, 256):
        learner.learn(batch)
    lookup, state = tables.lookup_arrays(), learner.state()
    return snapshot_content(MODEL, WORLD_FIELDS, state, lookup, encoder.state(), 0, f"after-{events}")


SETTINGS = """\
[log]
url = "{log}"
[features]
preset = "world"
[train]
state = "{state}"
[serve]
port = {port}
poll_seconds = 0.01
[experiment]
name = "closed"
salt = "closed-loop"
[[experiment.arms]]
name = "control"
weight = 0.5
[[experiment.arms]]
name = "new"
weight = 0.5
"""


class Server:
    """``stream-ctr serve`` as a process of its own, with two arms."""

    def __init__(self, state: Path, log: str, port: int = 0) -> None:
        config = state.parent / f"{state.name}-{port}.toml"
        config.write_text(SETTINGS.format(log=log, state=state, port=port), "utf-8")
        self.child = subprocess.Popen(
            [sys.executable, "-m", "stream_ctr.cli", "serve", "--config", str(config)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.child.stdout is not None
        line = self.child.stdout.readline()
        assert " at http://127.0.0.1:" in line, line
        self.url = line.split()[-1]
        self.port = int(self.url.rsplit(":", 1)[1])

    def metric(self, name: str) -> float:
        """One figure of /metrics that has no labels."""
        return sample(self._metrics(), f"stream_ctr_serve_{name}")

    def answered(self) -> float:
        """Requests that it answered with a ranking."""
        lines = self._metrics().splitlines()
        ranked = [line for line in lines if line.startswith("stream_ctr_serve_requests_total{")]
        return sum(float(line.rpartition(" ")[2]) for line in ranked if 'code="200"' in line)

    def _metrics(self) -> str:
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=60) as answer:
            return str(answer.read().decode())

    def stop(self) -> None:
        """End it as an operator would; what it was given is in the log then."""
        self.child.send_signal(signal.SIGTERM)
        _, errors = self.child.communicate(timeout=120)
        assert self.child.returncode == 0, errors

    def close(self) -> None:
        if self.child.poll() is None:
            self.child.kill()
        self.child.communicate()


@contextlib.contextmanager
def serving(state: Path, log: str, port: int = 0) -> Iterator[Server]:
    server = Server(state, log, port)
    try:
        yield server
    finally:
        server.close()


def command(server: str, log: str, *more: str) -> list[str]:
    """``simulate`` as a process of its own."""
    base = [sys.executable, "-m", "stream_ctr.cli", "simulate", "--server", server, "--log", log]
    return [*base, *SMALL, *more]


def start(server: str, log: str, *more: str) -> subprocess.Popen[str]:
    """Run it beside the test."""
    return subprocess.Popen(
        command(server, log, *more), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def in_log(url: str) -> tuple[list[Impression], list[Click]]:
    """Everything in the log; each partition in its order, one partition after the other."""
    found = contents(url)
    shown = [
        msgspec.json.decode(entry.value or b"", type=Impression)
        for place, entries in sorted(found.items())
        for entry in entries
        if place.topic == "impressions"
    ]
    clicks = [
        msgspec.json.decode(entry.value or b"", type=Click)
        for place, entries in sorted(found.items())
        for entry in entries
        if place.topic == "clicks"
    ]
    return shown, clicks
