"""Report of ``stream-ctr bench labels``: JSON, tables, and a plot of the excess loss."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stream_ctr.bench.labels.join import JoinRun
from stream_ctr.bench.labels.measure import CLICK_RATE, STEADY, WINDOW_SECONDS, PolicyRun
from stream_ctr.bench.machine import describe_machine
from stream_ctr.reporting.figure import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    dress,
    new_figure,
    short,
    write_figure,
)

STYLES = {"wait": (GREY, "-"), "fast": (BLUE, "-"), "fnw": (GREEN, "--"), "naive": (ORANGE, "-.")}


def as_json(runs: Sequence[PolicyRun], joins: Sequence[JoinRun], events: int) -> dict[str, Any]:
    """Machine, stream, one row per policy, and one row per storage of the joiner's records."""
    return {
        "machine": describe_machine(),
        "events": events,
        "window_seconds": WINDOW_SECONDS,
        "planted_click_rate": CLICK_RATE,
        "mean_truth": round(runs[0].mean_truth, 5),
        "clicks_later_than_quarter_window": round(runs[0].late_clicks, 4),
        "steady_state": [round(part * events) for part in STEADY],
        "rows": [_rounded(run) for run in runs],
        "join": [_rounded(join) for join in joins],
    }


def _rounded(row: PolicyRun | JoinRun) -> dict[str, Any]:
    def short_of(value: Any) -> Any:
        if isinstance(value, list):
            return [short_of(item) for item in value]
        return round(value, 5) if isinstance(value, float) else value

    return {name: short_of(value) for name, value in dataclasses.asdict(row).items()}


def print_tables(runs: Sequence[PolicyRun], joins: Sequence[JoinRun], events: int) -> None:
    """Print the results as tables, with the machine below."""
    from rich.table import Table

    from stream_ctr.reporting.console import new_console

    first = runs[0]
    low, high = (round(part * events) for part in STEADY)
    table = Table(title=f"label policies, impressions {low:,} to {high:,} of {events:,}; drift at {high:,}")
    for column in ("policy", "negatives kept"):
        table.add_column(column)
    for column in ("calibration", "log loss", "Bayes", "excess", "excess after the change", "half way after"):
        table.add_column(column, justify="right")
    for run in runs:
        table.add_row(
            run.policy,
            f"{run.keep_negatives:g}",
            f"{run.calibration:.4f}",
            f"{run.log_loss:.4f}",
            f"{run.bayes_log_loss:.4f}",
            f"{run.steady_excess:.4f}",
            f"{run.drift_excess:.4f}",
            "not in this run" if run.half_way_events is None else f"{run.half_way_events:,}",
        )
    joiner = Table(title="the joiner alone")
    joiner.add_column("records in")
    for column in ("impressions/s", "open", "bytes per open", "counted", "on disk"):
        joiner.add_column(column, justify="right")
    for join in joins:
        joiner.add_row(
            join.memory,
            f"{join.impressions_per_second:,.0f}",
            f"{join.open_impressions:,}",
            f"{join.python_bytes_per_open:,.0f}",
            f"{join.counted_bytes_per_open:,.0f}",
            f"{join.segment_bytes_per_open:,.0f}",
        )
    console = new_console(130)
    console.print(table)
    console.print(
        f"mean true click probability {first.mean_truth:.4f}, window {WINDOW_SECONDS:g} s, "
        f"{first.late_clicks:.0%} of the clicks later than a quarter of it; calibration: predictions over "
        "true click probabilities; excess: log loss above the Bayes-optimal log loss",
        highlight=False,
    )
    console.print(joiner)
    console.print("; ".join(f"{key} {value}" for key, value in describe_machine().items()), highlight=False)


def plot_policies(runs: Sequence[PolicyRun], events: int, path: Path) -> None:
    """Write a PNG: excess log loss over the Bayes-optimal log loss along the stream, one line per policy.

    Raises:
        UsageError: matplotlib is not installed.
        StreamCTRError: the file cannot be written.
    """
    figure = new_figure(9.0, 5.0)
    axes = figure.subplots()
    for run in runs:
        if run.keep_negatives == 1.0:
            colour, line = STYLES[run.policy]
            axes.plot(run.at, run.excess, line, color=colour, linewidth=2, label=run.policy)
    axes.axvline(STEADY[1] * events, color=BLACK, linewidth=1, linestyle=":", label="sudden drift")
    whole = sorted(value for run in runs for value in run.excess[2:])
    axes.set_ylim(0.0, 1.1 * whole[-1])
    axes.set_xlabel("impressions")
    axes.set_ylabel("log loss above the Bayes-optimal\n(nats / impression)")
    axes.set_title("Label policies on one simulated stream", loc="left", fontsize=14)
    axes.xaxis.set_major_formatter(lambda value, _: short(value))
    dress(axes)
    axes.legend(frameon=False)
    write_figure(figure, path)
