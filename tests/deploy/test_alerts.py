"""Every alert fires for its fault, and none fires in normal operation."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.compose_services import DEPLOY, read_yaml

pytestmark = pytest.mark.promtool

MINUTES = 20
HEALTHY = {
    'up{job="server", instance="s"}': "1+0x80",
    "stream_ctr_experiment_sample_ratio_sound": "1+0x80",
    'stream_ctr_experiment_heaviest_user_share{arm="a"}': "0.01+0x80",
    'stream_ctr_experiment_impressions_total{arm="a"}': "0+100x80",
    "stream_ctr_experiment_report_timestamp_seconds": "0+15x80",
    'stream_ctr_experiment_log_up{job="watcher"}': "1+0x80",
    'stream_ctr_serve_log_up{job="server"}': "1+0x80",
    "stream_ctr_serve_impressions_dropped_total": "3+0x80",
    'stream_ctr_serve_snapshot_stale{arm="a"}': "0+0x80",
    'stream_ctr_serve_arm_killed{arm="a"}': "0+0x80",
    'stream_ctr_non_finite_updates_total{arm="a"}': "2+0x80",
    'stream_ctr_snapshot_failures_total{arm="a"}': "1+0x80",
    'stream_ctr_serve_non_finite_predictions_total{arm="a"}': "1+0x80",
    'stream_ctr_drift_detected{arm="a"}': "0+0x80",
    'stream_ctr_loss_warning{arm="a", job="trainer", loss="clicks_late"}': "0+0x80",
    'stream_ctr_experiment_loss_warning{job="watcher", loss="clicks_orphaned"}': "0+0x80",
    'stream_ctr_recent_loss_ratio{arm="a", job="trainer", loss="clicks_late"}': "0.009+0x80",
    'stream_ctr_read_records_total{arm="a", job="trainer", kind="impressions"}': "0+100x80",
    'stream_ctr_events_total{arm="a", job="trainer", outcome="learned"}': "0+100x80",
    'stream_ctr_open_impressions{arm="a", job="trainer"}': "0+0x80",
}
"""Series of a healthy system, one sample every 15 seconds."""
FAULTS = {
    "StreamCtrTargetDown": ('up{job="server", instance="s"}', "1x40 0x40"),
    "StreamCtrSampleRatioMismatch": ("stream_ctr_experiment_sample_ratio_sound", "1x70 0x10"),
    "StreamCtrHeavyUser": ('stream_ctr_experiment_heaviest_user_share{arm="a"}', "0.01x40 0.4x40"),
    "StreamCtrReportStale": ("stream_ctr_experiment_report_timestamp_seconds", "0+15x60 900x20"),
    "StreamCtrLogUnavailable": ('stream_ctr_serve_log_up{job="server"}', "1x70 0x10"),
    "StreamCtrImpressionsLost": ("stream_ctr_serve_impressions_dropped_total", "3x70 9x10"),
    "StreamCtrSnapshotStale": ('stream_ctr_serve_snapshot_stale{arm="a"}', "0x70 1x10"),
    "StreamCtrArmKilled": ('stream_ctr_serve_arm_killed{arm="a"}', "0x70 1x10"),
    "StreamCtrNonFiniteUpdates": ('stream_ctr_non_finite_updates_total{arm="a"}', "2x70 4x10"),
    "StreamCtrSnapshotNotPublished": ('stream_ctr_snapshot_failures_total{arm="a"}', "1x70 2x10"),
    "StreamCtrNonFinitePredictions": ('stream_ctr_serve_non_finite_predictions_total{arm="a"}', "1x70 2x10"),
    "StreamCtrLogLossRegression": ('stream_ctr_drift_detected{arm="a"}', "0x70 1x10"),
    "StreamCtrRecordsLost": (
        'stream_ctr_loss_warning{arm="a", job="trainer", loss="clicks_late"}',
        "0x70 1x10",
    ),
    "StreamCtrNothingLearned": ('stream_ctr_events_total{arm="a", job="trainer", outcome="learned"}', "0x80"),
}
"""The fault of each alert: a series, and its faulty values."""
QUIET = {
    # The first label window of a new log is still open.
    'stream_ctr_events_total{arm="a", job="trainer", outcome="learned"}': "0x80",
    'stream_ctr_open_impressions{arm="a", job="trainer"}': "0+100x80",
}
"""Series of a healthy system that learns nothing yet."""
WATCHER = 'stream_ctr_experiment_loss_warning{job="watcher", loss="clicks_orphaned"}'
JOINER = 'stream_ctr_join_loss_warning{job="joiner", loss="clicks_orphaned"}'
SHORT = 'stream_ctr_loss_warning{arm="a", job="trainer", loss="clicks_late"}'
ALERTS = {rule["alert"]: rule for rule in read_yaml(DEPLOY / "alerts.yml")["groups"][0]["rules"]}


def case(series: dict[str, str], raised: str | None) -> dict[str, Any]:
    """A promtool test case: at the end, only the alert ``raised`` fires."""
    return {
        "interval": "15s",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": [
            {
                "expr": 'count by (alertname) (ALERTS{alertstate="firing"})',
                "eval_time": f"{MINUTES}m",
                "exp_samples": [{"labels": f'{{alertname="{raised}"}}', "value": 1}] if raised else [],
            }
        ],
    }


def test_each_alert_fires_for_its_fault_only(tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("no promtool: apt-get install prometheus")
    assert set(FAULTS) == set(ALERTS)
    cases = [
        case(HEALTHY, None),
        case({**HEALTHY, **QUIET}, None),
        case({**HEALTHY, SHORT: "0x77 1x3"}, None),
        case({**HEALTHY, WATCHER: "0x70 1x10"}, "StreamCtrRecordsLost"),
        case({**HEALTHY, JOINER: "0x70 1x10"}, "StreamCtrRecordsLost"),
        *(case({**HEALTHY, name: values}, alert) for alert, (name, values) in FAULTS.items()),
    ]
    tests = tmp_path / "alerts_test.yml"
    tests.write_text(json.dumps({"rule_files": [str(DEPLOY / "alerts.yml")], "tests": cases}), "utf-8")
    done = subprocess.run([promtool, "test", "rules", str(tests)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("alert", sorted(ALERTS))
def test_each_alert_has_a_summary(alert: str) -> None:
    assert ALERTS[alert]["annotations"]["summary"].endswith(".")
