"""The whole daemon compared with the learner alone, over one log.

The log is filled first. Each round then runs the stages sequentially in one thread, each timed separately,
the learner among them; and the daemon itself, including checkpoints and snapshots. Both take turns, so a busy
machine slows both equally. Both learn the same encoded events: each impression is predicted at its position
in the order and learned when its label is known. Results are medians over rounds.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

import numpy as np

from stream_ctr.bench.stream.data import fill_log, stream_examples
from stream_ctr.config.environment import ENVIRONMENT_PREFIX
from stream_ctr.config.features import FeaturesConfig
from stream_ctr.config.log import LogConfig
from stream_ctr.config.optimizer import OptimizerConfig
from stream_ctr.config.settings import Settings
from stream_ctr.daemon.intake import POLL_CHUNKS
from stream_ctr.errors import DataError, StreamCTRError
from stream_ctr.events.log import EventLog
from stream_ctr.events.open import open_log
from stream_ctr.features.scan.scanner import RecordScanner
from stream_ctr.metrics.progressive import ProgressiveMetrics
from stream_ctr.pipeline.ordering.journal import Journal
from stream_ctr.pipeline.ordering.order import Order
from stream_ctr.training.core import Core

ROUNDS: Final = 3
OPTIMIZERS: Final = {"default": OptimizerConfig(), "helen": OptimizerConfig(method="helen", perturb="both")}
TRAIN: Final = ("train", "--until-idle", "0", "--json")
STAGES: Final = ("read", "decode and keys", "order", "join and encode", "learn", "measure")
"""decode and keys: bytes to records and 64-bit keys. order: the merge. join and encode: labels, rows and
counts. learn: predictions and updates. measure: progressive metrics."""


@dataclass
class Measured:
    """One optimizer over one log."""

    optimizer: str
    impressions: int = 0
    entries: int = 0
    rows: int = 0
    """Rows of the vocabulary at the end."""
    daemon_seconds: list[float] = field(default_factory=list)
    learner_seconds: list[float] = field(default_factory=list)
    """Wall time of the learner alone, over all events."""
    stage_seconds: dict[str, list[float]] = field(default_factory=dict)
    """CPU time of each stage."""
    peak_bytes: int | None = None
    """Largest resident memory of a daemon's process, imports and compiled code included."""
    log_loss: float = float("nan")


@dataclass(frozen=True)
class StreamBench:
    """The results of one run of the benchmark."""

    log: str
    data: str
    measured: list[Measured]


def measure(data: str | None, url: str | None, events: int, rounds: int = ROUNDS) -> StreamBench:
    """Fill a log and run the stages and the daemon over it.

    ``url``: the log to fill, with new topics; by default a temporary embedded log.

    Raises:
        DataError: the file cannot be read or has no rows.
        LogError: the log cannot be written or read.
    """
    fields, examples, source = stream_examples(data, events)
    if not examples:
        raise DataError(f"{data}: contains no rows; choose another file")
    measured = [Measured(name) for name in OPTIMIZERS]
    with tempfile.TemporaryDirectory(prefix="stream-ctr-bench-") as folder:
        address = url or f"sqlite:///{folder}/log.db"
        log = open_log(address, create=True)
        try:
            config = fill_log(log, examples)
            examples.clear()
            for number in range(rounds):
                for each in measured:
                    settings = _settings(config, FeaturesConfig(fields=fields), each.optimizer)
                    _run_stages(settings, log, each)
                    _run_daemon(settings, log, each, Path(folder) / f"{each.optimizer}-{number}")
        finally:
            log.close()
    return StreamBench("kafka" if address.startswith("kafka") else "sqlite", source, measured)


LOG_KEYS: Final = ("url", "impressions", "clicks", "dead_letters", "partitions")
"""Settings of the log that the daemon needs."""


def _settings(log: LogConfig, features: FeaturesConfig, optimizer: str) -> Settings:
    return Settings(log=log, features=features, optimizer=OPTIMIZERS[optimizer])


def _run_daemon(settings: Settings, log: EventLog, measured: Measured, state: Path) -> None:
    """Run ``stream-ctr train`` in its own process, as a user would start it."""
    variables = {
        "TRAIN__STATE": str(state),
        "TRAIN__METRICS_PORT": "-1",
        # Shorten the daemon's wait at the end of the log, which is not part of its throughput.
        "TRAIN__POLL_SECONDS": "0.02",
        "ORDER__IDLE_SECONDS": "0.05",
        "FEATURES__FIELDS": json.dumps([asdict(each) for each in settings.features.fields]),
        "FEATURES__PRESET": "",
        **{f"LOG__{name.upper()}": str(getattr(settings.log, name)) for name in LOG_KEYS},
        **{f"OPTIMIZER__{name.upper()}": str(value) for name, value in asdict(settings.optimizer).items()},
    }
    kept = {name: text for name, text in os.environ.items() if not name.startswith(ENVIRONMENT_PREFIX)}
    process = subprocess.Popen(
        [sys.executable, "-c", "from stream_ctr.cli import main; raise SystemExit(main())", *TRAIN],
        env={**kept, **{ENVIRONMENT_PREFIX + name: text for name, text in variables.items()}},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    out, said = process.communicate()
    if process.returncode != 0:
        last = said.decode(errors="replace").strip().splitlines()[-1:]
        raise StreamCTRError(f"the daemon ended with status {process.returncode}: {' '.join(last)}")
    figures = json.loads(out)
    measured.daemon_seconds.append(figures["seconds"])
    measured.impressions = figures["learned"]
    measured.entries = figures["outcomes"]["entries"]
    measured.rows, measured.peak_bytes = figures["rows"], figures["peak_bytes"]
    measured.log_loss = figures["lifetime"]["log_loss"]


def _run_stages(settings: Settings, log: EventLog, measured: Measured) -> None:
    clock = _Clock()
    learner_seconds = 0.0
    arm, fields, chunk = settings.arm(None), settings.features.fields, settings.train.chunk
    core = Core(settings, arm, fields, log.partitions(settings.log.impressions))
    order = Order(
        (settings.log.impressions, settings.log.clicks),
        core.stage.progress.order_state(),
        Journal(),
        scanner=RecordScanner(fields),
    )
    metrics = ProgressiveMetrics(settings.train.metrics_window)
    reader = log.reader(core.stage.progress.positions())
    ended = False
    try:
        while not ended:
            ends = reader.end_offsets()
            ended = all(reader.positions()[tp] >= end for tp, end in ends.items())
            with clock.stage("read"):
                entries = [] if ended else reader.poll(POLL_CHUNKS * chunk, 1.0)
            with clock.stage("decode and keys"):
                order.add(entries)
            with clock.stage("order"):
                ordered = order.finish() if ended else order.emit(order.buffered)
            for start in range(0, len(ordered), chunk):
                with clock.stage("join and encode"):
                    batch = core.pipeline.apply(ordered[start : start + chunk]).batch
                begin = time.perf_counter()
                with clock.stage("learn"):
                    result = core.learner.learn(batch)
                learner_seconds += time.perf_counter() - begin
                with clock.stage("measure"):
                    metrics.update(batch, result.probability)
    finally:
        reader.close()
    measured.learner_seconds.append(learner_seconds)
    for name in STAGES:
        measured.stage_seconds.setdefault(name, []).append(clock.seconds[name])


class _Clock:
    """CPU seconds of this thread by stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = dict.fromkeys(STAGES, 0.0)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        begin = time.thread_time()
        yield
        self.seconds[name] += time.thread_time() - begin


def median(values: list[float]) -> float:
    """Median of the rounds."""
    return float(np.median(values))
