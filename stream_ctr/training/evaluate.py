"""Progressive (prequential) evaluation without a log or daemon: each event is predicted, then learned.

Several learners process the same batches in one run, so that their metrics are comparable.
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
    """The result of one learner over the whole stream."""

    name: str
    events: int
    values: MetricValues
    tail: MetricValues | None
    """Metrics of the events from number ``tail_from`` on; None without ``tail_from``."""
    tail_from: int | None
    seconds: float
    """Wall time inside the learner, without reading and encoding, which all learners share."""
    skipped: int
    """Updates that were skipped because they were not finite."""
    curve: Curve

    @property
    def events_per_second(self) -> float:
        """Events predicted and learned per second inside the learner."""
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
    """Run every learner over the batches.

    Args:
        batches: the stream.
        learners: by name.
        tail_from: number of the first event of the tail, for separate metrics.
        window: events in the sliding window; see :class:`ProgressiveMetrics`.
        progress: called after each batch with the number of events so far.
    """
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
