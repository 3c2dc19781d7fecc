"""Progressive evaluation without a log or daemon: each event is predicted, then learned.

Several learners see the same batches in one run, so that their figures compare.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from stream_ctr.batch import PREDICT, Batch
from stream_ctr.learners.base import Learner
from stream_ctr.metrics.curve import Curve
from stream_ctr.metrics.progressive import ProgressiveMetrics
from stream_ctr.metrics.sums import MetricValues


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What one learner did over the whole stream."""

    name: str
    events: int
    values: MetricValues
    tail: MetricValues | None
    """Over the events from ``tail_from`` on; None without one."""
    tail_from: int | None
    seconds: float
    """Wall time inside the learner; reading and encoding are shared by all and not in it."""
    skipped: int
    """Updates that were left out because they were not finite."""
    curve: Curve

    @property
    def events_per_second(self) -> float:
        """Events predicted and learned per second of the learner's own time."""
        return self.events / self.seconds if self.seconds else float("nan")


@dataclass
class _Running:
    learner: Learner
    metrics: ProgressiveMetrics
    seconds: float = 0.0
    skipped: int = 0


def evaluate(
    batches: Iterable[Batch],
    learners: Mapping[str, Learner],
    *,
    tail_from: int | None = None,
    window: int = 10_000,
    progress: Callable[[int], None] = lambda events: None,
) -> list[Evaluation]:
    """Run every learner over the batches; ``progress`` is told the events done after each batch."""
    running = {
        name: _Running(learner, ProgressiveMetrics(window, tail_from)) for name, learner in learners.items()
    }
    events = 0
    for batch in batches:
        for item in running.values():
            began = time.perf_counter()
            result = item.learner.learn(batch)
            item.seconds += time.perf_counter() - began
            item.skipped += int(result.skipped.sum())
            item.metrics.update(batch, result.probability)
        events += int((batch.action & PREDICT != 0).sum())
        progress(events)
    return [
        Evaluation(
            name,
            events,
            item.metrics.result("lifetime"),
            item.metrics.result("tail") if tail_from is not None else None,
            tail_from,
            item.seconds,
            item.skipped,
            item.metrics.curve,
        )
        for name, item in running.items()
    ]
