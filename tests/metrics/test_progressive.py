"""Which predictions enter the metrics, and bit-identical results for every chunking of the stream."""

from __future__ import annotations

import itertools
import lzma
import math
from collections import deque
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_ctr.batch import LEARN, PREDICT, Batch
from stream_ctr.errors import StateError, UsageError
from stream_ctr.metrics.curve import LIMIT, Curve
from stream_ctr.metrics.progressive import Kind, ProgressiveMetrics
from stream_ctr.metrics.sums import Sums
from stream_ctr.state.state import State
from tests.metrics.test_sums import slow_log_loss, sorted_auc
from tests.support.metric_events import delayed_stream, make_batch, piece

Event = tuple[int, float, int, float]


def loss_of(p: float, y: float) -> float:
    return -math.log(p) if y else -math.log(1 - p)


def slow_scored(batch: Batch, probability: np.ndarray) -> list[Event]:
    """(impression, probability, label, truth) in order of scoring, by a dictionary."""
    waiting: dict[int, float] = {}
    out: list[Event] = []
    for b in range(len(batch)):
        n, served = int(batch.impression[b]), float(batch.served[b])
        if batch.action[b] & PREDICT:
            waiting[n] = float(probability[b]) if math.isnan(served) else served
        if batch.action[b] & LEARN:
            out.append((n, waiting.pop(n), int(batch.label[b]), float(batch.truth[b])))
    return out


def feed(metrics: ProgressiveMetrics, batch: Batch, probability: np.ndarray, chunk: int) -> None:
    for start in range(0, len(batch), chunk):
        stop = min(len(batch), start + chunk)
        metrics.update(piece(batch, start, stop), probability[start:stop])


def test_metrics_agree_with_a_dictionary_and_a_queue() -> None:
    batch, probability = delayed_stream(3000, seed=1)
    metrics = ProgressiveMetrics(window=500, tail_from=2000)
    feed(metrics, batch, probability, 256)
    scored = slow_scored(batch, probability)
    assert metrics.events == len(scored) == 3000
    assert metrics.open == 0
    recent: deque[Event] = deque(scored, maxlen=500)
    tail = [event for event in scored if event[0] >= 2000]
    assert metrics.result("tail").events == len(tail) == 1000
    kinds: list[tuple[Kind, list[Event]]]
    kinds = [("lifetime", scored), ("window", list(recent)), ("tail", tail)]
    for kind, events in kinds:
        values = metrics.result(kind)
        clicks = sum(y for _, _, y, _ in events)
        assert values.clicks == clicks
        assert values.log_loss == pytest.approx(np.mean([loss_of(p, y) for _, p, y, _ in events]))
        assert values.calibration == pytest.approx(sum(p for _, p, _, _ in events) / clicks)
        assert values.bayes_log_loss == pytest.approx(np.mean([loss_of(t, y) for _, _, y, t in events]))
    seen = clicks = 0
    base: list[float] = []
    for _, _, y, _ in scored:
        base.append(loss_of((clicks + 0.5) / (seen + 1), y))
        seen, clicks = seen + 1, clicks + y
    assert metrics.result().base_log_loss == pytest.approx(np.mean(base))
    assert metrics.result("window").base_log_loss == pytest.approx(np.mean(base[-500:]))
    in_tail = [loss for loss, event in zip(base, scored, strict=True) if event[0] >= 2000]
    assert metrics.result("tail").base_log_loss == pytest.approx(np.mean(in_tail))


def test_predictions_on_label_rows_never_enter_a_metric() -> None:
    metrics = ProgressiveMetrics(window=10)
    metrics.update(make_batch([PREDICT], [7]), np.array([0.25], np.float32))
    scored = metrics.update(make_batch([LEARN], [7], label=[1.0]), np.array([0.999], np.float32))
    assert scored.probability.tolist() == [0.25]
    assert metrics.result().log_loss == pytest.approx(math.log(4))


def test_the_served_probability_takes_precedence() -> None:
    metrics = ProgressiveMetrics(window=10)
    batch = make_batch([PREDICT, PREDICT | LEARN], [1, 2], label=[float("nan"), 0.0], served=[0.5, 0.125])
    metrics.update(batch, np.array([0.9, 0.9], np.float32))
    metrics.update(make_batch([LEARN], [1], label=[1.0], served=[0.01]), np.array([0.9], np.float32))
    expected = (-math.log(0.875) + math.log(2)) / 2
    assert metrics.result().log_loss == pytest.approx(expected)


def test_sample_weights_do_not_affect_metrics() -> None:
    metrics = ProgressiveMetrics(window=10)
    metrics.update(make_batch([PREDICT | LEARN], [1], label=[1.0], weight=5.0), np.array([0.5], np.float32))
    assert metrics.result().events == 1
    assert metrics.result().log_loss == pytest.approx(math.log(2))


def test_unscorable_rows_are_counted() -> None:
    metrics = ProgressiveMetrics(window=10)
    batch = make_batch([PREDICT | LEARN] * 5, [1, 2, 3, 4, 5], label=[1.0, 0.0, 0.5, float("nan"), 1.0])
    metrics.update(batch, np.array([float("nan"), 1.5, 0.5, 0.5, 0.5], np.float32))
    metrics.update(make_batch([LEARN], [99], label=[1.0]), np.array([0.5], np.float32))
    assert metrics.invalid == 4
    assert metrics.unmatched == 1
    assert metrics.result().events == 1


@settings(max_examples=15, deadline=None)
@given(st.sampled_from([1, 7, 256]), st.sampled_from([1, 7, 256]), st.integers(0, 3), st.integers(1, 300))
def test_splitting_a_stream_anywhere_changes_no_bit(a: int, b: int, seed: int, window: int) -> None:
    batch, probability = delayed_stream(1200, seed=seed, planted=seed % 2 == 0)
    one, other = (ProgressiveMetrics(window, tail_from=400) for _ in range(2))
    feed(one, batch, probability, a)
    feed(other, batch, probability, b)
    assert one.state().equals(other.state())
    assert one.drift.last == other.drift.last


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2000), st.integers(0, 3))
def test_a_restart_in_the_middle_changes_no_bit(cut: int, seed: int) -> None:
    batch, probability = delayed_stream(1200, seed=seed)
    cut = min(cut, len(batch))
    uninterrupted = ProgressiveMetrics(200, tail_from=400)
    feed(uninterrupted, batch, probability, 64)
    before, after = ProgressiveMetrics(200, tail_from=400), ProgressiveMetrics(200, tail_from=400)
    feed(before, piece(batch, 0, cut), probability[:cut], 64)
    saved = before.state()
    after.load_state(saved)
    assert after.state().equals(saved)
    feed(after, piece(batch, cut, len(batch)), probability[cut:], 64)
    assert after.state().equals(uninterrupted.state())


def test_a_state_is_a_copy() -> None:
    batch, probability = delayed_stream(600, seed=2)
    metrics = ProgressiveMetrics(100)
    feed(metrics, piece(batch, 0, 400), probability[:400], 64)
    saved = metrics.state()
    kept = {name: array.copy() for name, array in saved.arrays.items()}
    feed(metrics, piece(batch, 400, len(batch)), probability[400:], 64)
    for name, array in kept.items():
        np.testing.assert_array_equal(saved.arrays[name], array)


@pytest.mark.parametrize("other", [50, 300, 1000])
def test_a_window_of_another_length_loads_the_newest_events(other: int) -> None:
    batch, probability = delayed_stream(700, seed=3)
    saved, loaded, exact = ProgressiveMetrics(300), ProgressiveMetrics(other), ProgressiveMetrics(other)
    feed(saved, batch, probability, 64)
    feed(exact, batch, probability, 64)
    loaded.load_state(saved.state())
    assert loaded.result("window").events == min(other, 300)
    if other < 300:
        assert loaded.result("window") == exact.result("window")
    more, guesses = delayed_stream(1000, seed=4)
    feed(loaded, more, guesses, 64)
    feed(exact, more, guesses, 64)
    assert loaded.result("window") == exact.result("window")


def test_the_window_does_not_drift() -> None:
    """After extreme losses have left the window, its loss is exactly that of its events."""
    metrics, fresh = ProgressiveMetrics(50), ProgressiveMetrics(50)
    wild = make_batch([PREDICT | LEARN] * 999, list(range(999)), label=[1.0] * 999)
    metrics.update(wild, np.full(999, 1e-30, np.float32))
    calm = make_batch([PREDICT | LEARN] * 50, list(range(50)), label=[0.0, 1.0] * 25)
    calm_p = np.linspace(0.1, 0.9, 50, dtype=np.float32)
    metrics.update(calm, calm_p)
    fresh.update(calm, calm_p)
    assert metrics.result("window").log_loss == fresh.result("window").log_loss
    assert metrics.result("window").auc == fresh.result("window").auc
    assert metrics.result("window").clipped == 0


def test_damaged_states_are_rejected_in_one_line() -> None:
    batch, probability = delayed_stream(300, seed=5)
    metrics = ProgressiveMetrics(100)
    feed(metrics, piece(batch, 0, 300), probability[:300], 64)
    assert metrics.open
    good = metrics.state()
    for name in good.arrays:
        lacking = {key: value for key, value in good.arrays.items() if key != name}
        with pytest.raises(StateError, match="lack"):
            ProgressiveMetrics(100).load_state(State(lacking, good.values))
    for name in ("lifetime.bins", "window.label", "pending.probability", "drift.block", "drift.adwin"):
        cut = {**good.arrays, name: np.concatenate([good.arrays[name], good.arrays[name]])}
        with pytest.raises(StateError):
            ProgressiveMetrics(100).load_state(State(cut, good.values))
    with pytest.raises(StateError, match="not a count"):
        ProgressiveMetrics(100).load_state(State(good.arrays, {**good.values, "invalid": "x"}))


def test_a_state_with_another_tail_is_rejected() -> None:
    with pytest.raises(StateError, match="starts at impression 5, not None"):
        ProgressiveMetrics(10).load_state(ProgressiveMetrics(10, tail_from=5).state())
    with pytest.raises(UsageError, match="--tail-from"):
        ProgressiveMetrics(10).result("tail")
    with pytest.raises(UsageError, match="at least 1"):
        ProgressiveMetrics(0)


def test_the_curve_has_points_at_equal_distances_and_never_too_many() -> None:
    curve = Curve(spacing=10)
    values = Sums.empty().values()
    for seen in range(1, 39_999):
        if curve.until_next(seen - 1) == 1:
            curve.add(seen, values)
        assert len(curve.points) < LIMIT
    marks = [point.impressions for point in curve.points]
    assert curve.spacing == 80
    assert marks == list(range(80, 39_999, 80))


def test_curve_points_are_those_of_the_window_at_their_place() -> None:
    batch, probability = delayed_stream(1500, seed=6)
    metrics = ProgressiveMetrics(300)
    feed(metrics, batch, probability, 256)
    scored = slow_scored(batch, probability)
    assert [point.impressions for point in metrics.curve.points] == list(range(100, 1501, 100))
    for point in metrics.curve.points:
        inside = scored[max(0, point.impressions - 300) : point.impressions]
        assert point.log_loss == pytest.approx(np.mean([loss_of(p, y) for _, p, y, _ in inside]))


CRITEO = Path(__file__).parents[3] / "shared" / "data" / "criteo_head" / "criteo_head.tsv.xz"


@pytest.mark.skipif(not CRITEO.exists(), reason=f"no Criteo rows at {CRITEO}")
def test_on_real_rows_the_metrics_match_exact_ones() -> None:
    """Criteo rows scored by the mean log-odds of some columns' running click rates."""
    labels: list[float] = []
    probability: list[float] = []
    counts: dict[tuple[int, str], list[float]] = {}
    with lzma.open(CRITEO, "rt") as lines:
        for line in itertools.islice(lines, 30_000):
            cells = line.rstrip("\n").split("\t")
            known = [counts.setdefault((c, cells[c]), [0.25, 1.0]) for c in (19, 22, 27, 30, 33)]
            logit = sum(math.log(k / (n - k)) for k, n in known) / 3
            probability.append(1 / (1 + math.exp(-logit)))
            labels.append(float(cells[0]))
            for pair in known:
                pair[0] += labels[-1] * 0.99
                pair[1] += 1
    p, y = np.array(probability, np.float32), np.array(labels, np.uint8)
    metrics = ProgressiveMetrics(1000)
    batch = make_batch([PREDICT | LEARN] * len(y), list(range(len(y))), label=labels)
    feed(metrics, batch, p, 256)
    values = metrics.result()
    assert 0.6 < values.auc < 0.8
    assert values.auc == pytest.approx(sorted_auc(p, y), abs=1e-4)
    assert values.log_loss == pytest.approx(slow_log_loss(p, y), rel=1e-12)
