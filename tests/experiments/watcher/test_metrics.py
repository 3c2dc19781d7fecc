"""The experiment's Prometheus metrics."""

from __future__ import annotations

import math
import shutil
import subprocess
from pathlib import Path

import msgspec
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from stream_ctr.experiments.report.model import Report, read_report
from stream_ctr.experiments.watcher.metrics import ExperimentMetrics

EXAMPLE = Path(__file__).parents[1] / "report" / "report_example.json"


def page(report: Report | None) -> bytes:
    registry = CollectorRegistry()
    registry.register(ExperimentMetrics(lambda: report))
    return generate_latest(registry)


def samples(text: bytes) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {
        (sample.name.removeprefix("stream_ctr_experiment_"), frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def test_every_figure_of_every_arm_is_exported_with_its_interval() -> None:
    report = read_report(EXAMPLE)
    found = samples(page(report))
    for arm in report.arms:
        label = frozenset({("arm", arm.name)})
        assert found["impressions_total", label] == arm.impressions
        assert found["clicks_total", label] == arm.clicks
        assert found["users", label] == arm.users
        assert found["over_cap_impressions_total", label] == arm.over_cap
        assert found.get(("heaviest_user_share", label)) == arm.heaviest_share
        assert found.get(("effective_users", label)) == arm.effective_users
        for name, figure in arm.figures.items():
            assert found[name, label] == figure.estimate
            assert found[f"{name}_low", label] == figure.low
            assert found[f"{name}_high", label] == figure.high
        for reason, count in arm.reasons.items():
            assert found["exposures_total", label | {("reason", reason)}] == count
    for comparison in report.comparisons:
        label = frozenset({("arm", comparison.arm)})
        for name, figure in comparison.figures.items():
            shown = name if name.endswith("uplift") else f"{name}_difference"
            assert found[shown, label] == figure.estimate
            assert found[f"{shown}_low", label] == figure.low
            assert found[f"{shown}_high", label] == figure.high
    assert found["excluded_impressions_total", frozenset({("reason", "override")})] == 17
    assert found["excluded_share", frozenset({("arm", "helen")})] == report.sample_ratio.excluded["helen"]
    assert found["sample_ratio_p_value", frozenset()] == report.sample_ratio.p
    assert found["log_up", frozenset()] == 1.0


def test_unknown_values_are_not_exported() -> None:
    assert samples(page(None)) == {}
    report = read_report(EXAMPLE)
    for each in report.comparisons:
        for figure in each.figures.values():
            figure.estimate = figure.low = figure.high = None
    report.progress = msgspec.structs.replace(report.progress, watermark_ms=None, behind_seconds=None)
    found = samples(page(report))
    names = {name for name, _ in found}
    assert not any("difference" in name or "uplift" in name for name in names)
    assert "watermark_timestamp_seconds" not in names
    assert not any(math.isnan(value) for value in found.values())


@pytest.mark.promtool
def test_prometheus_own_checker_has_no_remarks() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("no promtool: install Prometheus")
    done = subprocess.run(
        [promtool, "check", "metrics"], input=page(read_report(EXAMPLE)), capture_output=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
