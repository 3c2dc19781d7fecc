"""Labels by their definition, however the log was read and whatever the policy."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_ctr.batch import COPY, LEARN, PREDICT, SETTLE, Batch
from stream_ctr.config.features import FeaturesConfig, FieldConfig
from stream_ctr.config.join import JoinConfig
from stream_ctr.events.log import TopicPartition
from stream_ctr.metrics.progressive import ProgressiveMetrics
from stream_ctr.pipeline.join_stage import JoinStage
from stream_ctr.pipeline.ordering.journal import Journal
from stream_ctr.pipeline.ordering.order import Order
from stream_ctr.pipeline.stream import Pipeline
from tests.support.log_entries import (
    CLICKS,
    IMPRESSIONS,
    TOPICS,
    click_value,
    fresh_state,
    impression_value,
    log_of,
    partitions,
)

WINDOW, HORIZON, PARTITIONS = 50, 200, 2
JOIN = JoinConfig(window_seconds=WINDOW / 1000, grace_seconds=0.0, horizon_seconds=HORIZON / 1000)
FAST = dataclasses.replace(JOIN, policy="fast")
POLICIES = (JOIN, FAST, dataclasses.replace(JOIN, policy="fnw"))


@dataclass(frozen=True)
class Happened:
    """Impressions by number at their times, and clicks (number, time); each may be in the log twice."""

    shown: list[int]
    clicks: list[tuple[int, int]]
    twice: bool

    def labels(self) -> list[float]:
        """The definition, asked of every pair of impression and click."""
        return [
            float(any(n == number and time - shown <= WINDOW for n, time in self.clicks))
            for number, shown in enumerate(self.shown)
        ]


@st.composite
def happenings(draw: st.DrawFn) -> Happened:
    shown = sorted(draw(st.lists(st.integers(1, 300), min_size=1, max_size=25)))
    delays = st.sampled_from([-20, 0, 1, 20, WINDOW, WINDOW + 1, 120])
    pairs = draw(st.lists(st.tuples(st.integers(0, len(shown) - 1), delays), max_size=30))
    clicks = [(number, max(1, shown[number] + delay)) for number, delay in pairs]
    return Happened(shown, clicks, draw(st.booleans()))


def logged(happened: Happened) -> dict[TopicPartition, list[bytes | None]]:
    """Each record in the partition of its id, in the order of time."""
    log: dict[TopicPartition, list[bytes | None]] = {tp: [] for tp in partitions(PARTITIONS)}
    times = 2 if happened.twice else 1
    for number, shown in enumerate(happened.shown):
        tp = TopicPartition(IMPRESSIONS, number % PARTITIONS)
        log[tp] += [impression_value(f"e{number}", shown, {"site": "x"})] * times
    for number, time in sorted(happened.clicks, key=lambda pair: pair[1]):
        log[TopicPartition(CLICKS, number % PARTITIONS)] += [click_value(f"e{number}", time)] * times
    return log


def learned(happened: Happened, join: JoinConfig, order_of_reading: list[int], piece: int) -> Batch:
    """What comes out when partitions are read one after the other, so many entries at a time."""
    log = log_of(logged(happened))
    order = Order(TOPICS, fresh_state(PARTITIONS), Journal())
    stage = JoinStage(join, IMPRESSIONS, CLICKS, PARTITIONS)
    pipeline = Pipeline((FieldConfig("site"),), FeaturesConfig(), join, "none", stage)
    names = [partitions(PARTITIONS)[index] for index in order_of_reading]
    entries = []
    for tp in names:
        for start in range(0, len(log[tp]), piece):
            order.add(log[tp][start : start + piece])
            entries += order.emit(1000)
    return pipeline.apply([*entries, *order.finish()]).batch


@settings(max_examples=80, deadline=None)
@given(
    happenings(),
    st.permutations(range(2 * PARTITIONS)),
    st.sampled_from([1, 7, 1000]),
    st.sampled_from([JOIN, FAST, dataclasses.replace(JOIN, release="click")]),
)
def test_labels_are_the_definitions_however_skewed_the_reading(
    happened: Happened, reading: list[int], piece: int, join: JoinConfig
) -> None:
    """A topic read to its end before the other has begun is a skew of the whole log."""
    batch = learned(happened, join, reading, piece)
    final = (batch.action & SETTLE != 0) | (batch.action & (LEARN | COPY) == LEARN)
    by_truth = {int(n): float(y) for n, y in zip(batch.impression[final], batch.label[final], strict=True)}
    # Numbers are given in the order of time; equal times by partition.
    order = sorted(range(len(happened.shown)), key=lambda n: (happened.shown[n], n % PARTITIONS, n))
    wanted = happened.labels()
    assert by_truth == {place: wanted[number] for place, number in enumerate(order)}
    copies = batch.impression[(batch.action & COPY != 0) & (batch.label == 1.0)]
    assert sorted(copies.tolist()) == (sorted(n for n, y in by_truth.items() if y) if join is FAST else []), (
        "one late copy a positive"
    )
    assert (np.bincount(batch.impression[batch.action & PREDICT != 0]) == 1).all()


@settings(max_examples=40, deadline=None)
@given(happenings(), st.sampled_from(POLICIES), st.sampled_from([0.0001, 0.5, 1.0]))
def test_dropped_negatives_are_counted_scored_and_still_clicked(
    happened: Happened, policy: JoinConfig, keep: float
) -> None:
    plain = learned(happened, JOIN, [0, 1, 2, 3], 9)
    join = dataclasses.replace(policy, keep_negatives=keep)
    batch = learned(happened, join, [0, 1, 2, 3], 9)
    assert (batch.action & PREDICT != 0).sum() == (plain.action & PREDICT != 0).sum()
    copies = int((batch.label[batch.action & LEARN != 0] == 1.0).sum())
    assert copies == int(plain.label[plain.action & LEARN != 0].sum())
    negatives = int((batch.label[batch.action & LEARN != 0] == 0.0).sum())
    if keep < 0.01:
        assert negatives == 0
    scores = []
    for each in (plain, batch):
        metrics = ProgressiveMetrics(window=100)
        # A learner whose opinion drifts: only that at the impression's own row may be scored.
        opinion = np.where(each.action & PREDICT, 0.25, np.nan).astype(np.float32)
        metrics.update(each, opinion)
        scores.append(metrics.result("lifetime"))
        assert metrics.open == 0
        assert metrics.unmatched == metrics.invalid == 0
    assert scores[0] == scores[1]


def shown_at(ts_ms: list[int]) -> list[bytes]:
    return [impression_value(f"e{n}", t) for n, t in enumerate(ts_ms)]


def test_an_impression_ahead_keeps_its_label_and_ages_nothing() -> None:
    """Its click is told by a clock that is as fast; both are joined by their own times."""
    clicks = [(0, 151), (2, 40_000_030), (3, 160)]
    values = logged(Happened([100, 101, 40_000_000, 140, 150], clicks, twice=False))
    order = Order(TOPICS, fresh_state(PARTITIONS), Journal(), math.inf, 3600.0)
    order.add(entry for entries in log_of(values).values() for entry in entries)
    stage = JoinStage(JOIN, IMPRESSIONS, CLICKS, PARTITIONS)
    pipeline = Pipeline((FieldConfig("site"),), FeaturesConfig(), JOIN, "none", stage)
    batch = pipeline.apply(order.finish()).batch
    learned = batch.action == LEARN
    assert sorted(batch.impression[learned].tolist()) == list(range(5))
    assert batch.label[learned].sum() == 2.0
    assert pipeline.outcomes["clicks_after_window"] == 1
    assert batch.time_ms.max() == 150
