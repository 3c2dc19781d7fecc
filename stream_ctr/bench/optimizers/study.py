"""Comparison of optimizers over one stream: equal tuning budgets, one frozen setting each, one paired test.

Every method draws the same number of settings from its declared space. Each setting predicts and learns the
tuning rows event by event and is scored on their later part. The best setting of a method is frozen and run
over all rows, once per seed of the initial weights; only the rows after the tuning rows are scored.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stream_ctr.batch import LEARN, PREDICT, Batch, RowChanges
from stream_ctr.bench.optimizers.journal import Journal
from stream_ctr.bench.optimizers.paired import Interval, block_interval
from stream_ctr.bench.optimizers.spaces import Method, Setting, configured
from stream_ctr.config.learner import LearnerConfig
from stream_ctr.errors import DataError
from stream_ctr.learners.build import build_learner
from stream_ctr.metrics.log_loss import vector_log_losses

Losses = NDArray[np.float64]
TUNING_SEED = 1
"""Seed of the initial weights during tuning."""


@dataclass(frozen=True)
class Plan:
    """Row ranges for tuning and scoring, seeds and budget. Rows count from 0."""

    trials: int
    tune_to: int
    score_from: int
    test_to: int
    seeds: tuple[int, ...]
    block: int
    search_seed: int = 0


@dataclass(frozen=True)
class Stream:
    """Encoded events and their fields."""

    batches: list[Batch]
    slots: list[int]
    fields: int

    @property
    def events(self) -> int:
        """Number of events."""
        return sum(len(batch) for batch in self.batches)

    def label(self) -> NDArray[np.float32]:
        """Labels [n] of all events."""
        return np.concatenate([batch.label for batch in self.batches])


@dataclass(frozen=True)
class Run:
    """One setting over the first n rows."""

    probability: NDArray[np.float32]
    """[n] predictions, each made before the event was learned."""
    seconds: float
    """Wall time inside the learner."""


@dataclass(frozen=True)
class Tested:
    """One method with its frozen setting, over the test rows."""

    method: Method
    setting: Setting
    tuned_loss: float
    """Best log loss of the trials; NaN if the setting was given."""
    loss: Losses
    """[test_to] log loss of each event, averaged over the seeds."""
    probability: list[NDArray[np.float32]]
    """One array [test_to] per seed."""
    seconds: float
    """Median over the seeds."""

    def tail(self, plan: Plan) -> Losses:
        """Losses of the test rows."""
        return self.loss[plan.tune_to :]


def run_setting(
    stream: Stream,
    method: Method,
    setting: Setting,
    seed: int,
    to: int,
) -> Run:
    """Predict and learn the first ``to`` events with one setting."""
    model, optimizer = configured(method, setting)
    config = LearnerConfig(device="cpu", seed=seed)
    learner = build_learner(model, optimizer, config, stream.slots, stream.fields)
    probability, seconds, done = [], 0.0, 0
    for batch in stream.batches:
        if done >= to:
            break
        part = first_events(batch, to - done)
        sent = twice(part) if method.repeats == 2 else part
        began = time.perf_counter()
        result = learner.learn(sent)
        seconds += time.perf_counter() - began
        probability.append(result.probability[:: method.repeats])
        done += len(part)
    return Run(np.concatenate(probability), seconds)


def first_events(batch: Batch, count: int) -> Batch:
    """The batch, or its first ``count`` events."""
    if len(batch) <= count:
        return batch
    kept = batch.changes.event < count
    changes = RowChanges(*(getattr(batch.changes, name)[kept] for name in ("event", "row", "field", "key")))
    return _each(batch, lambda array: array[:count], changes)


def twice(batch: Batch) -> Batch:
    """The batch with every event repeated: first predicted and learned, then only learned."""
    changes = replace(batch.changes, event=2 * batch.changes.event)
    doubled = _each(batch, lambda array: np.repeat(array, 2, axis=0), changes)
    doubled.action[0::2] = PREDICT | LEARN
    doubled.action[1::2] = LEARN
    return doubled


def _each(batch: Batch, change: Callable[[NDArray[Any]], NDArray[Any]], changes: RowChanges) -> Batch:
    """The batch with ``change`` applied to every array over its events."""
    arrays = {
        name: getattr(batch, name) for name in (item.name for item in fields(Batch)) if name != "changes"
    }
    return replace(batch, changes=changes, **{name: change(array) for name, array in arrays.items()})


def tune(
    stream: Stream,
    method: Method,
    plan: Plan,
    journal: Journal,
    progress: Callable[[str], None],
) -> tuple[Setting, float]:
    """The best of ``plan.trials`` settings and its log loss on rows ``score_from`` to ``tune_to``."""
    label = stream.label()[plan.score_from : plan.tune_to]
    found: list[tuple[float, int, Setting]] = []
    for trial in range(plan.trials):
        setting = method.draw(plan.search_seed, trial)
        loss = journal.trial(method.key, trial)
        if loss is None:
            progress(f"{method.name}: trial {trial + 1} of {plan.trials}")
            run = run_setting(stream, method, setting, TUNING_SEED, plan.tune_to)
            loss = float(vector_log_losses(run.probability[plan.score_from :], label > 0.5).mean())
            journal.add_trial(method.key, trial, setting, loss)
        found.append((loss if np.isfinite(loss) else float("inf"), trial, setting))
    best = min(found, key=lambda item: item[:2])
    return best[2], best[0]


def examine(
    stream: Stream,
    method: Method,
    setting: Setting,
    tuned_loss: float,
    plan: Plan,
    journal: Journal,
    progress: Callable[[str], None],
) -> Tested:
    """Run the frozen setting over rows 0 to ``test_to``, once per seed."""
    label, probability, seconds = stream.label()[: plan.test_to], [], []
    for seed in plan.seeds:
        kept = journal.final(method.key, seed)
        if kept is None:
            progress(f"{method.name}: frozen setting, seed {seed}")
            run = run_setting(stream, method, setting, seed, plan.test_to)
            kept = (run.probability, run.seconds)
            journal.add_final(method.key, seed, *kept)
        probability.append(kept[0])
        seconds.append(kept[1])
    loss: Losses = np.mean([vector_log_losses(p, label > 0.5) for p in probability], axis=0)
    return Tested(method, setting, tuned_loss, loss, probability, float(np.median(seconds)))


def study(
    stream: Stream,
    methods: Sequence[Method],
    plan: Plan,
    journal: Journal,
    frozen: dict[str, Setting] | None = None,
    progress: Callable[[str], None] = lambda what: None,
) -> Iterator[Tested]:
    """Tune each method, unless ``frozen`` holds its setting, then test each.

    All methods are tuned before the first test row is scored.

    Raises:
        DataError: the stream is shorter than the plan.
    """
    if stream.events < plan.test_to:
        raise DataError(
            f"the data has {stream.events:,} rows, but the test needs {plan.test_to:,}; reduce --test-to"
        )
    chosen: dict[str, tuple[Setting, float]] = {}
    for method in methods:
        if frozen is not None:
            chosen[method.name] = (frozen[method.name], float("nan"))
        else:
            chosen[method.name] = tune(stream, method, plan, journal, progress)
    for method in methods:
        yield examine(stream, method, *chosen[method.name], plan, journal, progress)


def compared(one: Tested, other: Tested, plan: Plan) -> Interval:
    """Loss of ``one`` minus loss of ``other`` over the test rows, paired by event."""
    return block_interval(one.tail(plan) - other.tail(plan), plan.block)
