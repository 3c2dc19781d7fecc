"""Throughput of the experiment's watcher in impressions per second, on one log.

The log is filled first, with the rows of ``bench stream`` plus the fields that a server adds: user, arm,
bucket and the probabilities of all arms. The watcher then reads the log to its end in several rounds, each
with a new state folder, in a process that has already imported and compiled everything.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event
from typing import Any, Final

import msgspec
import numpy as np

from stream_ctr.bench.stream.data import CLICK_MS, PARTITIONS, append_all, stream_examples
from stream_ctr.config.experiment import ArmConfig, ExperimentConfig
from stream_ctr.config.join import JoinConfig, OrderConfig
from stream_ctr.config.log import LogConfig
from stream_ctr.config.settings import Settings
from stream_ctr.config.watch import WatchConfig
from stream_ctr.datasets.base import Example
from stream_ctr.errors import DataError
from stream_ctr.events.log import EventLog, Record
from stream_ctr.events.open import open_log
from stream_ctr.events.records import RECORD_VERSION, Click, Impression
from stream_ctr.experiments.assignment import Assigner
from stream_ctr.experiments.watcher.daemon import Watcher
from stream_ctr.reporting.progress import Reporter

IMPRESSIONS_PER_USER: Final = 10
WARM_UP: Final = 2_000
"""Impressions of the warm-up run, which is not counted."""


@dataclass(frozen=True)
class WatchBench:
    """Measurements of all rounds."""

    impressions: int
    entries: int
    windows: int
    arms: int
    wall_seconds: list[float]
    """Wall-clock time of each round, including checkpoints and reports."""
    cpu_seconds: list[float]
    data: str

    def as_json(self) -> dict[str, Any]:
        """Medians and the spread over rounds."""
        rates = sorted(self.impressions / seconds for seconds in self.wall_seconds)
        return {
            "impressions": self.impressions,
            "entries": self.entries,
            "windows": self.windows,
            "arms": self.arms,
            "rounds": len(rates),
            "impressions_per_second": round(statistics.median(rates)),
            "impressions_per_second_lowest": round(rates[0]),
            "impressions_per_second_highest": round(rates[-1]),
            "cpu_us_per_impression": round(1e6 * statistics.median(self.cpu_seconds) / self.impressions, 2),
            "data": self.data,
        }


def measure(data: str | None, impressions: int, arms: int, rounds: int) -> WatchBench:
    """Fill a log and run the watcher over it.

    Raises:
        DataError: the file cannot be read, or contains no rows.
    """
    _, examples, source = stream_examples(data, impressions)
    if not examples:
        raise DataError(f"{data}: contains no rows; choose another file")
    weights = [1.0 / arms] * arms
    experiment = ExperimentConfig(
        salt="bench", arms=tuple(ArmConfig(f"arm-{number}", weight) for number, weight in enumerate(weights))
    )
    with tempfile.TemporaryDirectory(prefix="stream-ctr-bench-") as folder:
        for name, rows in (("warm", examples[:WARM_UP]), ("full", examples)):
            log_config = LogConfig(f"sqlite:///{folder}/{name}.db")
            log = open_log(log_config.url, create=True)
            try:
                _fill(log, log_config, experiment, rows)
                settings = Settings(
                    log=log_config,
                    experiment=experiment,
                    join=JoinConfig(window_seconds=10.0),
                    order=OrderConfig(idle_seconds=0.05),  # keeps the wait at the log's end short
                    watch=WatchConfig(window_seconds=10.0, port=-1),
                )
                runs = [_run(settings, log, Path(folder) / f"{name}-{number}") for number in range(rounds)]
            finally:
                log.close()
    walls, cpus, watchers = zip(*runs, strict=True)
    outcomes, ends = watchers[0].core.pipeline.outcomes, watchers[0].core.experiment.noted.ends
    found = outcomes["impressions"]
    return WatchBench(found, outcomes["entries"], len(ends), arms, list(walls), list(cpus), source)


def _run(settings: Settings, log: EventLog, state: Path) -> tuple[float, float, Watcher]:
    """Wall-clock and CPU seconds of one watcher from the log's start to its end."""
    settings = settings.model_copy(update={"train": replace(settings.train, state=str(state))})
    with Reporter("bench", quiet=True) as reporter:
        wall, cpu = time.perf_counter(), time.process_time()
        watcher = Watcher(settings, log, reporter)
        watcher.run(Event(), 0.0)
        return time.perf_counter() - wall, time.process_time() - cpu, watcher


def _fill(log: EventLog, config: LogConfig, experiment: ExperimentConfig, examples: list[Example]) -> None:
    for topic in (config.impressions, config.clicks):
        log.create_topic(topic, PARTITIONS)
    append_all(log, config.impressions, _impressions(experiment, examples))
    clicks = sorted((e.time_ms + CLICK_MS, e.event_id) for e in examples if e.label)
    records = (Click(v=RECORD_VERSION, event_id=event_id, ts_ms=ts_ms) for ts_ms, event_id in clicks)
    append_all(log, config.clicks, (_record(each) for each in records))


def _impressions(experiment: ExperimentConfig, examples: list[Example]) -> Iterator[Record]:
    draws, assigner = np.random.default_rng(1), Assigner(experiment)
    users = max(2, len(examples) // IMPRESSIONS_PER_USER)
    names = [arm.name for arm in experiment.arms]
    for example in examples:
        user = f"user-{int(users * draws.random() ** 2)}"
        found = assigner.assign(user)
        probabilities = (0.2 + 0.2 * example.label + 0.1 * draws.random(len(names))).tolist()
        arm = found.arm or names[0]
        yield _record(
            Impression(
                v=RECORD_VERSION,
                event_id=example.event_id,
                ts_ms=example.time_ms,
                features=example.features,
                user=user,
                bid=round(float(draws.exponential(2.0)), 3),
                p=dict(zip(names, probabilities, strict=True)),
                experiment=experiment.name,
                salt=experiment.salt,
                bucket=found.bucket,
                assigned_arm=arm,
                arm=arm,
                reason="assigned",
                model_version=f"{arm}-1",
            )
        )


def _record(record: Impression | Click) -> Record:
    return Record(record.event_id.encode(), msgspec.json.encode(record), record.ts_ms)
