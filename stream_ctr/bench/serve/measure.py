"""The prediction server under load from another process, compared with uvicorn and an empty handler.

Each server has its own process with one worker. Both run during the whole benchmark and receive the loads in
turns, so a busy machine slows both equally.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Final

import msgspec

from stream_ctr.bench.serve.client import Load
from stream_ctr.bench.step.data import FIELDS, zipf_examples
from stream_ctr.config.environment import ENVIRONMENT_PREFIX
from stream_ctr.config.experiment import ExperimentConfig
from stream_ctr.config.features import FeaturesConfig, FieldConfig
from stream_ctr.config.learner import LearnerConfig
from stream_ctr.config.model import ModelConfig
from stream_ctr.config.optimizer import OptimizerConfig
from stream_ctr.config.serve import ServeConfig
from stream_ctr.errors import StreamCTRError
from stream_ctr.features.keys.encoder import KeyEncoder
from stream_ctr.features.rows.tables import FeatureTables
from stream_ctr.learners.build import build_learner
from stream_ctr.pipeline.from_examples import direct_batches
from stream_ctr.predictors.export import snapshot_content
from stream_ctr.predictors.snapshot import write_snapshot

ARM: Final = ExperimentConfig().arms[0].name
CONTEXT_FIELDS: Final = 26
"""Fields shared by all candidates of a request; the other fields belong to each candidate."""
BODIES: Final = 200
"""Number of different requests with 1 candidate, sent in turn; a tenth as many with 100 candidates."""
CONNECTIONS: Final = 32
"""Open connections; below the server's max_waiting, so that no late request is rejected."""
OVERLOAD: Final = 10
"""Concurrent requests in the overload, as a multiple of max_waiting."""
BESIDE_CONNECTIONS: Final = 64
BESIDE_RATE: Final = 50.0
"""A second client that honours Retry-After: each connection sends less than one request per second."""
HEALTH_CONNECTIONS: Final = 2
HEALTH_RATE: Final = 20.0
WARM_UP_SECONDS: Final = 1.0
WARM_UP_RATE: Final = 100.0
WARM_UPS: Final = 10
START_SECONDS: Final = 120.0
SERVE: Final = [sys.executable, "-c", "from stream_ctr.cli import main; raise SystemExit(main())", "serve"]
OURS, EMPTY = "stream-ctr serve", "uvicorn, empty handler"

Note = Callable[[str], object]
Clients = tuple[subprocess.Popen[str], subprocess.Popen[str]]
"""The process of the main load, and the process of the second client and the health checks."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of load."""

    name: str
    candidates: int
    rate: float
    """Requests per second; 0: as many as the server answers."""
    connections: int = CONNECTIONS
    """Open connections; more than the server's max_waiting make an overload."""
    beside: bool = False
    """Whether a separate process sends rankings and health checks at the same time."""


@dataclass
class Measured:
    """One server under one kind of load, round by round."""

    server: str
    kind: Kind
    rounds: list[dict[str, Any]] = field(default_factory=list)


def kinds(rate: float, large_rate: float) -> list[Kind]:
    """The loads of one run."""
    most = ServeConfig().max_waiting
    return [
        Kind("1 candidate", 1, rate),
        Kind("100 candidates", 100, large_rate),
        Kind("1 candidate, most", 1, 0.0),
        Kind("100 candidates, most", 100, 0.0),
        Kind(f"1 candidate, {most} at once", 1, 0.0, most, beside=True),
        Kind(f"1 candidate, {OVERLOAD} x overload", 1, 0.0, OVERLOAD * most, beside=True),
    ]


def measure(
    loads: Sequence[Kind], seconds: float, rounds: int, learned: int, note: Note = lambda text: None
) -> list[Measured]:
    """Serve a model trained on ``learned`` events, and run each load against both servers in turns.

    Raises:
        StreamCTRError: a server or the client ended early.
    """
    with tempfile.TemporaryDirectory(prefix="stream-ctr-bench-") as folder, ExitStack() as stack:
        state = Path(folder)
        note(f"learning {learned:,} events")
        publish(state / ARM / "snapshots", learned)
        note("starting the servers")
        ports = {
            OURS: stack.enter_context(server(SERVE, environment(state))),
            EMPTY: stack.enter_context(
                server([sys.executable, "-m", "stream_ctr.bench.serve.empty_handler"])
            ),
        }
        clients = stack.enter_context(_client()), stack.enter_context(_client())
        measured = [Measured(name, kind) for kind in loads for name in ports]
        for name, port in ports.items():
            note(f"warming up {name}")
            _warm_up(clients, port)
        for number in range(rounds):
            for each in measured:
                note(f"round {number + 1} of {rounds}: {each.kind.name}, {each.server}")
                each.rounds.append(_play(clients, ports[each.server], each.kind, seconds))
    return measured


def _warm_up(clients: Clients, port: int) -> None:
    """Send requests until the server has loaded its snapshot and answers all of them.

    Raises:
        StreamCTRError: requests keep failing; the message holds the status codes.
    """
    found: dict[str, Any] = {}
    for _ in range(WARM_UPS):
        found = _play(clients, port, Kind("warm-up", 1, WARM_UP_RATE), WARM_UP_SECONDS)
        if not found["failed"]:
            return
    raise StreamCTRError(f"requests to the server under test failed; count by status: {found['statuses']}")


def publish(snapshots: Path, learned: int, model: ModelConfig | None = None) -> None:
    """Write a snapshot of ``model`` (default: the flagship) after ``learned`` events of Zipf rows."""
    model = model or ModelConfig()
    fields = tuple(FieldConfig(f"field_{j}") for j in range(FIELDS))
    encoder = KeyEncoder(fields)
    tables = FeatureTables(encoder.slot_field, FIELDS, FeaturesConfig(fields=fields))
    learner = build_learner(
        model, OptimizerConfig(), LearnerConfig(device="cpu"), list(range(FIELDS)), FIELDS
    )
    for batch in direct_batches(zipf_examples(learned), encoder, tables, 256):
        learner.learn(batch)
    content = snapshot_content(
        model, fields, learner.state(), tables.lookup_arrays(), encoder.state(), event_time_ms=0
    )
    write_snapshot(snapshots, content)


@cache
def bodies(candidates: int) -> list[str]:
    """Ranking requests, each for a different user, with values of the first Zipf rows."""
    names = [f"field_{j}" for j in range(FIELDS)]
    count = BODIES if candidates == 1 else BODIES // 10
    rows = [example.features for example in zipf_examples(count + candidates)]
    texts = []
    for number in range(count):
        request = {
            "user": f"user-{number}",
            "features": {name: rows[number][name] for name in names[:CONTEXT_FIELDS]},
            "candidates": [
                {"features": {name: rows[number + c][name] for name in names[CONTEXT_FIELDS:]}}
                for c in range(candidates)
            ],
        }
        texts.append(json.dumps(request))
    return texts


def environment(state: Path, **more: str) -> dict[str, str]:
    """This process's environment, with only the given settings of the server and its state folder."""
    variables = {
        "TRAIN__STATE": str(state),
        "SERVE__PORT": "0",
        "FEATURES__PRESET": "world",
        "LOG__URL": f"sqlite:///{state}/log.db",
        **more,
    }
    kept = {name: text for name, text in os.environ.items() if not name.startswith(ENVIRONMENT_PREFIX)}
    return {**kept, **{ENVIRONMENT_PREFIX + name: text for name, text in variables.items()}}


@contextmanager
def server(command: list[str], environment: dict[str, str] | None = None) -> Iterator[int]:
    """Run a server process during the block; yields its port.

    Raises:
        StreamCTRError: it ended before listening; the message holds its last line.
    """
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if " at http" not in line:
            _, errors = process.communicate(timeout=START_SECONDS)
            said = (errors.strip().splitlines() or ["no reason given"])[-1]
            raise StreamCTRError(f"the server under test did not start: {said}")
        yield int(line.rsplit(":", 1)[1])
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.communicate(timeout=START_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()


@contextmanager
def _client() -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "stream_ctr.bench.serve.client"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process


def _play(clients: Clients, port: int, kind: Kind, seconds: float) -> dict[str, Any]:
    """Results of one load; those of the second client and the health checks as "beside" and "health"."""
    crowd, beside = clients
    ranking = Load(port, "/v1/rank", bodies(kind.candidates), seconds, kind.connections, kind.rate)
    if not kind.beside:
        return _ask(crowd, [ranking])[0]
    polite = Load(port, "/v1/rank", bodies(1), seconds, BESIDE_CONNECTIONS, BESIDE_RATE)
    health = Load(port, "/health/live", [""], seconds, HEALTH_CONNECTIONS, HEALTH_RATE, "GET")
    with ThreadPoolExecutor(1) as other:
        found = other.submit(_ask, beside, [polite, health])
        result = _ask(crowd, [ranking])[0]
        result["beside"], result["health"] = found.result()
    return result


def _ask(client: subprocess.Popen[str], loads: list[Load]) -> list[dict[str, Any]]:
    """Let a client process run loads concurrently."""
    assert client.stdin is not None
    assert client.stdout is not None
    print(msgspec.json.encode(loads).decode(), file=client.stdin, flush=True)
    answer = client.stdout.readline()
    if not answer:
        raise StreamCTRError("the load generator ended early; run the benchmark again")
    result: list[dict[str, Any]] = json.loads(answer)
    return result
