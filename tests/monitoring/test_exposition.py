"""Published numbers are exposed in a form that Prometheus' linter accepts."""

from __future__ import annotations

import math
import shutil
import subprocess

import numpy as np
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from stream_ctr.events.log import TopicPartition
from stream_ctr.metrics.progressive import ProgressiveMetrics
from stream_ctr.monitoring.exposition import TrainerMetrics
from stream_ctr.monitoring.trainer_numbers import BOUNDS_SECONDS, Durations, Spread, TrainerNumbers
from tests.support.metric_events import delayed_stream

NOW = 1_700_000_000.0


def full_numbers(arm: str) -> TrainerNumbers:
    """Numbers with a value everywhere."""
    batch, probability = delayed_stream(2000, seed=1)
    metrics = ProgressiveMetrics(500)
    metrics.update(batch, probability)
    durations = Durations()
    durations.add(np.array([1e-6, 1.5e-6, 90e-6, 110e-6, 30.0]))
    return TrainerNumbers(
        arm=arm,
        events={"learned": 1990, "duplicate": 7, "late": 3},
        applied_entries=2500,
        watermark_ms=int((NOW - 12.5) * 1000),
        lag_entries={TopicPartition("impressions", 0): 40, TopicPartition("clicks", 1): 2},
        learn=durations.snapshot(),
        lifetime=metrics.result(),
        recent=metrics.result("window"),
        vocabulary_rows=1234,
        feature_counts=Spread.of(np.array([1, 1, 2, 100])),
        radius_ratios=Spread.of(np.array([0.01, 0.02, 1.0])),
        checkpoint_seconds=NOW - 20,
        snapshot_seconds=NOW - 1,
        snapshot_failures=4,
        non_finite_updates=1,
        drift_detected=True,
        drifts_worse=1,
        drifts_better=2,
        open_impressions=17,
        joiner_bytes=4096,
        joiner_segment_bytes=512,
        joined_value=2.5,
        label_delays=(2, 0, 1, *([0] * 18)),
        label_delay_sum_seconds=0.5,
        dead_letters={"json": 1, "value": 2},
        read={"impressions": 2000, "clicks": 400},
        loss_shares={"clicks_orphaned": 0.25},
        loss_warnings={"clicks_orphaned": True, "time_unit": False},
        features_ignored={"device": 4},
        values_truncated=293,
    )


def page(metrics: TrainerMetrics) -> bytes:
    registry = CollectorRegistry()
    registry.register(metrics)
    return generate_latest(registry)


def samples(text: bytes) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def shown() -> tuple[TrainerMetrics, TrainerNumbers]:
    metrics, numbers = TrainerMetrics(clock=lambda: NOW), full_numbers("main")
    metrics.publish(numbers)
    return metrics, numbers


def test_every_number_is_shown_under_its_name() -> None:
    metrics, numbers = shown()
    assert numbers.lifetime is not None
    assert numbers.recent is not None
    found = samples(page(metrics))
    expected: list[tuple[str, dict[str, str], float]] = [
        ("events_total", {"outcome": "learned"}, 1990),
        ("events_total", {"outcome": "late"}, 3),
        ("applied_entries_total", {}, 2500),
        ("read_records_total", {"kind": "impressions"}, 2000),
        ("read_records_total", {"kind": "clicks"}, 400),
        ("recent_loss_ratio", {"loss": "clicks_orphaned"}, 0.25),
        ("loss_warning", {"loss": "clicks_orphaned"}, 1),
        ("loss_warning", {"loss": "time_unit"}, 0),
        ("behind_seconds", {}, 12.5),
        ("log_lag_entries", {"topic": "impressions", "partition": "0"}, 40),
        ("log_lag_entries", {"topic": "clicks", "partition": "1"}, 2),
        ("log_loss", {"window": "lifetime"}, numbers.lifetime.log_loss),
        ("log_loss", {"window": "recent"}, numbers.recent.log_loss),
        ("normalized_entropy", {"window": "recent"}, numbers.recent.ne),
        ("auc", {"window": "lifetime"}, numbers.lifetime.auc),
        ("calibration_ratio", {"window": "recent"}, numbers.recent.calibration),
        ("click_ratio", {"window": "lifetime"}, numbers.lifetime.base_rate),
        ("scored_impressions", {"window": "recent"}, 500),
        ("vocabulary_rows", {}, 1234),
        ("feature_occurrences_mean", {}, 26.0),
        ("feature_occurrences_max", {}, 100),
        ("feature_occurrences_quantile", {"q": "0.5"}, 1.5),
        ("radius_ratio_quantile", {"q": "0.5"}, 0.02),
        ("checkpoint_timestamp_seconds", {}, NOW - 20),
        ("snapshot_timestamp_seconds", {}, NOW - 1),
        ("snapshot_failures_total", {}, 4),
        ("non_finite_updates_total", {}, 1),
        ("drift_detected", {}, 1),
        ("drifts_total", {"direction": "worse"}, 1),
        ("drifts_total", {"direction": "better"}, 2),
        ("open_impressions", {}, 17),
        ("joiner_memory_bytes", {}, 4096),
        ("joiner_segment_bytes", {}, 512),
        ("joined_click_value_total", {}, 2.5),
        ("label_delay_seconds_sum", {}, 0.5),
        ("label_delay_seconds_bucket", {"le": "0.2"}, 2),
        ("label_delay_seconds_bucket", {"le": "0.5"}, 3),
        ("label_delay_seconds_count", {}, 3),
        ("dead_letters_total", {"reason": "value"}, 2),
        ("features_ignored_total", {"field": "device"}, 4),
        ("values_truncated_total", {}, 293),
        ("learn_duration_seconds_count", {}, 5),
        ("learn_duration_seconds_bucket", {"le": "1e-06"}, 1),
        ("learn_duration_seconds_bucket", {"le": "2e-06"}, 2),
        ("learn_duration_seconds_bucket", {"le": "0.0001"}, 3),
        ("learn_duration_seconds_bucket", {"le": "5"}, 4),
        ("learn_duration_seconds_bucket", {"le": "+Inf"}, 5),
    ]
    for name, labels, value in expected:
        key = f"stream_ctr_{name}", frozenset({"arm": "main", **labels}.items())
        assert found[key] == pytest.approx(value), key


@pytest.mark.promtool
def test_promtool_reports_nothing() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed; it comes with Debian's package prometheus")
    metrics, _ = shown()
    metrics.publish(full_numbers("challenger"))
    run = subprocess.run(
        [promtool, "check", "metrics"], input=page(metrics), capture_output=True, timeout=60, check=False
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, b"", b"")


def test_both_arms_are_shown_in_one_family_each() -> None:
    metrics, _ = shown()
    metrics.publish(TrainerNumbers(arm="challenger", vocabulary_rows=5))
    text = page(metrics)
    assert text.count(b"# TYPE stream_ctr_vocabulary_rows gauge") == 1
    found = samples(text)
    assert found["stream_ctr_vocabulary_rows", frozenset({("arm", "challenger")})] == 5
    assert found["stream_ctr_vocabulary_rows", frozenset({("arm", "main")})] == 1234


def test_unknown_values_have_no_samples() -> None:
    metrics = TrainerMetrics()
    undefined = ProgressiveMetrics(10).result()
    assert math.isnan(undefined.auc)
    metrics.publish(TrainerNumbers(arm="main", recent=undefined))
    names = {name for name, _ in samples(page(metrics))}
    assert "stream_ctr_auc" not in names
    assert "stream_ctr_behind_seconds" not in names
    assert "stream_ctr_checkpoint_timestamp_seconds" not in names
    assert "stream_ctr_vocabulary_rows" in names


def test_a_hung_trainer_falls_behind_and_lag_is_never_negative() -> None:
    now = NOW
    metrics = TrainerMetrics(clock=lambda: now)
    metrics.publish(TrainerNumbers(arm="main", watermark_ms=int(NOW * 1000)))
    key = "stream_ctr_behind_seconds", frozenset({("arm", "main")})
    assert samples(page(metrics))[key] == 0.0
    now = NOW + 60
    assert samples(page(metrics))[key] == pytest.approx(60.0)
    now = NOW - 3600
    assert samples(page(metrics))[key] == 0.0


def test_labels_with_odd_characters_survive() -> None:
    metrics = TrainerMetrics()
    metrics.publish(TrainerNumbers(arm="main", dead_letters={'a "quoted"\nreason\\': 3}))
    found = samples(page(metrics))
    key = "stream_ctr_dead_letters_total", frozenset({("arm", "main"), ("reason", 'a "quoted"\nreason\\')})
    assert found[key] == 3


def test_durations_fall_into_the_bins_of_a_loop() -> None:
    rng = np.random.default_rng(1)
    seconds = np.concatenate([10.0 ** rng.uniform(-7, 1.5, 2000), np.array(BOUNDS_SECONDS), [0.0]])
    durations = Durations()
    for start in range(0, len(seconds), 300):
        durations.add(seconds[start : start + 300])
    before = durations.snapshot()
    expected = [0] * (len(BOUNDS_SECONDS) + 1)
    for value in seconds.tolist():
        expected[sum(1 for bound in BOUNDS_SECONDS if value > bound)] += 1
    assert before.counts == tuple(expected)
    assert before.sum_seconds == pytest.approx(seconds.sum())
    durations.add(seconds)
    assert before.counts == tuple(expected)


def test_a_spread_without_values_is_none() -> None:
    assert Spread.of(np.zeros(0)) is None
