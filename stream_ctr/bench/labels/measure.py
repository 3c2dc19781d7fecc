"""Label policies compared with the ground truth: calibration, log loss, and adaptation to a drift.

More than half of the simulated clicks come later than a quarter of the window. Each policy processes the same
stream with the production pipeline and its own compiled learner. Calibration is the sum of predictions over
the sum of true click probabilities, so it is free of label noise. At the end of the steady state, half of the
ad categories get new effects.
"""

from __future__ import annotations

import heapq
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stream_ctr.config.features import FeaturesConfig
from stream_ctr.config.join import JoinConfig
from stream_ctr.config.label_policy import Policy
from stream_ctr.config.learner import LearnerConfig
from stream_ctr.config.model import ModelConfig
from stream_ctr.config.optimizer import OptimizerConfig
from stream_ctr.datasets.base import Dataset, open_dataset
from stream_ctr.events.log import Entry
from stream_ctr.events.records import RECORD_VERSION, Click, Impression
from stream_ctr.learners.build import build_learner
from stream_ctr.metrics.log_loss import log_losses
from stream_ctr.metrics.progressive import ProgressiveMetrics
from stream_ctr.pipeline.join_stage import JoinStage
from stream_ctr.pipeline.ordering.entry import OrderedEntry
from stream_ctr.pipeline.stream import Pipeline

WINDOW_SECONDS: Final = 60.0
DELAY_SECONDS: Final = 30.0
"""Mean click delay before clipping to the window, so that no click is lost."""
EVENTS_PER_SECOND: Final = 20.0
"""A window spans 1,200 impressions. With more, an id recurs more often before its clicks have arrived, and
policies that learn immediately stay further below the true probabilities."""
CLICK_RATE: Final = 0.2
FIRST_ORDER: Final = 0.6
SECOND_ORDER: Final = 0.5
"""Standard deviation of the true effects, in logits: small enough to be learned within the steady state.
Until a network has learned the spread of the click probabilities, its mean under ``fast`` stays too low,
because that loss weights the residuals by (1 - p) / (1 + p)."""
STEADY: Final = (0.4, 0.6)
"""Range of the stream that counts as steady state; the sudden drift is at its end."""
POINTS: Final = 50
"""Points per curve."""
CHUNK: Final = 2048
MINIMUM_EVENTS: Final = 20_000
LEFT_OUT: Final = "hour"
"""Excluded field: each new hour would be a new value, and a drift of its own."""
MODEL: Final = ModelConfig(embedding=8, hidden=(32, 16))
CASES: Final[tuple[tuple[Policy, float], ...]] = (
    ("wait", 1.0),
    ("fast", 1.0),
    ("fnw", 1.0),
    ("naive", 1.0),
    ("wait", 0.5),
    ("fast", 0.5),
    ("fnw", 0.5),
)
"""Label policy and share of the negatives that are learned."""


@dataclass(frozen=True)
class PolicyRun:
    """Results of one policy; arrays follow the order of the impressions."""

    policy: str
    keep_negatives: float
    calibration: float
    """Sum of predictions over sum of true click probabilities, in the steady state."""
    log_loss: float
    bayes_log_loss: float
    mean_truth: float
    late_clicks: float
    """Share of clicks later than a quarter of the window."""
    steady_excess: float
    """Excess log loss over the Bayes-optimal log loss, in the steady state."""
    drift_excess: float
    """Excess log loss over the first tenth of the stream after the drift."""
    half_way_events: int | None
    """Impressions after the drift until its rise in log loss has halved; None: not in this run."""
    at: list[int]
    """Impression at the middle of each point."""
    excess: list[float]
    """Excess log loss over the Bayes-optimal log loss at each point."""


def measure_policies(events: int, progress: Callable[[str], None]) -> list[PolicyRun]:
    """Measure every policy over the first ``events`` impressions of the world, on all available cores."""
    workers = max(1, min(len(CASES), len(os.sched_getaffinity(0))))
    groups = [CASES[worker::workers] for worker in range(workers)]
    found: dict[tuple[Policy, float], PolicyRun] = {}
    if workers == 1:
        found.update(run_cases(CASES, events))
    else:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, mp_context=context) as pool:
            for part in pool.map(run_cases, groups, [events] * workers):
                found.update(part)
                progress(", ".join(run.policy for run in part.values()))
    return [found[case] for case in CASES]


def run_cases(cases: Sequence[tuple[Policy, float]], events: int) -> dict[tuple[Policy, float], PolicyRun]:
    """Run several policies over one pass of the stream."""
    dataset = world(events)
    running = {case: _Case(dataset, case, events) for case in cases}
    stream = Stream(dataset, events)
    entries = stream.entries()
    while chunk := list(islice(entries, CHUNK)):
        for item in running.values():
            item.apply(chunk)
    late = stream.late / max(1, stream.clicks)
    return {case: item.result(late) for case, item in running.items()}


def world(events: int) -> Dataset:
    """The simulated world, with a sudden drift at the end of the steady state as the only drift."""
    options = {
        "click_rate": CLICK_RATE,
        "events_per_second": EVENTS_PER_SECOND,
        "delay_seconds": DELAY_SECONDS,
        "longest_delay_seconds": WINDOW_SECONDS,
        "first_order": FIRST_ORDER,
        "second_order": SECOND_ORDER,
        "rhythm": 0,
        "turn_events": 0,
        "sudden_at": round(STEADY[1] * events),
    }
    return open_dataset("world", None, {name: str(value) for name, value in options.items()})


class Stream:
    """Impressions and clicks in time order (impressions first at equal times), then the end of the log."""

    def __init__(self, dataset: Dataset, events: int) -> None:
        self.clicks = 0
        self.late = 0
        """Clicks later than a quarter of the window."""
        self._dataset, self._events = dataset, events
        self._number = 0

    def entries(self) -> Iterator[OrderedEntry]:
        """The entries of the whole stream; iterate once."""
        pending: list[tuple[int, int, str]] = []
        for shown, example in enumerate(self._dataset.read("", self._events)):
            yield from self._due(pending, example.time_ms)
            record = Impression(
                v=RECORD_VERSION,
                event_id=example.event_id,
                ts_ms=example.time_ms,
                features={k: v for k, v in example.features.items() if k != LEFT_OUT},
                truth=example.truth,
            )
            yield self._entry("impressions", shown, record)
            if example.label and example.click_delay_ms is not None:
                heapq.heappush(pending, (example.time_ms + example.click_delay_ms, shown, example.event_id))
                self.late += example.click_delay_ms > 1000.0 * WINDOW_SECONDS / 4.0
        yield from self._due(pending, None)
        yield OrderedEntry(self._number, 0, 0, 0, None, None, "")

    def _due(self, pending: list[tuple[int, int, str]], before_ms: int | None) -> Iterator[OrderedEntry]:
        while pending and (before_ms is None or pending[0][0] < before_ms):
            time_ms, _, event_id = heapq.heappop(pending)
            click = Click(v=RECORD_VERSION, event_id=event_id, ts_ms=time_ms)
            yield self._entry("clicks", self.clicks, click)
            self.clicks += 1

    def _entry(self, topic: str, offset: int, record: Impression | Click) -> OrderedEntry:
        place = Entry(topic, 0, offset, record.ts_ms, None, None)
        self._number += 1
        return OrderedEntry(self._number - 1, record.ts_ms, record.ts_ms, 0, place, record, "")


class _Case:
    """One policy with its pipeline, learner and metrics."""

    def __init__(self, dataset: Dataset, case: tuple[Policy, float], events: int) -> None:
        policy, keep = case
        join = JoinConfig(
            policy=policy,
            keep_negatives=keep,
            window_seconds=WINDOW_SECONDS,
            horizon_seconds=2 * WINDOW_SECONDS,
        )
        fields = tuple(field for field in dataset.fields if field.name != LEFT_OUT)
        self._case = case
        stage = JoinStage(join, "impressions", "clicks", partitions=1)
        self._pipeline = Pipeline(fields, FeaturesConfig(fields=fields), join, "main", stage)
        slots = self._pipeline.key_encoder.slot_field.tolist()
        self._learner = build_learner(
            MODEL,
            OptimizerConfig(),
            LearnerConfig(kind="compiled", device="cpu"),
            slots,
            len(fields),
            self._pipeline.labels.loss,
        )
        self._metrics = ProgressiveMetrics(window=10_000)
        self._p = np.full(events, np.nan, np.float32)
        self._label = np.zeros(events, np.uint8)
        self._truth = np.full(events, np.nan, np.float32)

    def apply(self, entries: Sequence[OrderedEntry]) -> None:
        """Process entries as the trainer does: pipeline, learner, metrics."""
        batch = self._pipeline.apply(entries).batch
        scored = self._metrics.update(batch, self._learner.learn(batch).probability)
        number = batch.impression[scored.row]
        self._p[number], self._label[number] = scored.probability, scored.label
        self._truth[number] = batch.truth[scored.row]

    def result(self, late_clicks: float) -> PolicyRun:
        """The results over all scored impressions."""
        events = len(self._p)
        steady = slice(*(round(part * events) for part in STEADY))
        loss, best = log_losses(self._p, self._label), log_losses(self._truth, self._label)
        over = loss - best
        change, bins = steady.stop, np.array_split(np.arange(events), POINTS)
        steady_excess = float(over[steady].mean())
        excess = [float(over[part].mean()) for part in bins]
        p, truth = (float(each[steady].sum(dtype=np.float64)) for each in (self._p, self._truth))
        return PolicyRun(
            policy=self._case[0],
            keep_negatives=self._case[1],
            calibration=p / truth,
            log_loss=float(loss[steady].mean()),
            bayes_log_loss=float(best[steady].mean()),
            mean_truth=truth / (steady.stop - steady.start),
            late_clicks=late_clicks,
            steady_excess=steady_excess,
            drift_excess=float(over[change : change + events // 10].mean()),
            half_way_events=half_way(over, change, steady_excess),
            at=[int(part.mean()) for part in bins],
            excess=excess,
        )


def half_way(over: NDArray[np.float64], change: int, steady: float) -> int | None:
    """Impressions after ``change`` until the rise of the excess loss has halved; None if it has not."""
    width = max(1, len(over) // 100)
    parts = [float(over[at : at + width].mean()) for at in range(change, len(over) - width + 1, width)]
    rise = parts[0] - steady
    within = [number for number, part in enumerate(parts) if part - steady <= rise / 2.0]
    return (within[0] * width) if within else None
