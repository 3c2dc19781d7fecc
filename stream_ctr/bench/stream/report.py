"""Report of ``stream-ctr bench stream``: JSON and tables."""

from __future__ import annotations

from typing import Any, Final

from stream_ctr.bench.machine import describe_machine
from stream_ctr.bench.stream.measure import Measured, StreamBench, median
from stream_ctr.config.model import ModelConfig

FREE_BYTES: Final = 600_000_000
ROW_BYTES: Final = 48
"""Memory budget of the product: 4 bytes per number of the rows' weights and state, another 48 bytes per row,
and 600 MB."""


def as_json(bench: StreamBench) -> dict[str, Any]:
    """Machine, data and one row per optimizer."""
    return {
        "machine": describe_machine(),
        "data": bench.data,
        "rounds": len(bench.measured[0].daemon_seconds),
        "rows": [row(bench, measured) for measured in bench.measured],
    }


def row(bench: StreamBench, measured: Measured) -> dict[str, Any]:
    """The results of one optimizer."""
    daemon, learner = median(measured.daemon_seconds), median(measured.learner_seconds)
    ratios = [a / b for a, b in zip(measured.learner_seconds, measured.daemon_seconds, strict=True)]
    us = 1e6 / measured.impressions
    stages = {name: round(median(seconds) * us, 2) for name, seconds in measured.stage_seconds.items()}
    numbers = 2 * ModelConfig().embedding  # a weight and one accumulator
    return {
        "log": bench.log,
        "optimizer": measured.optimizer,
        "impressions": measured.impressions,
        "entries": measured.entries,
        "events_per_second": round(measured.impressions / daemon, 1),
        "learner_events_per_second": round(measured.impressions / learner, 1),
        "ratio": round(median(ratios), 3),
        "ratio_low": round(min(ratios), 3),
        "ratio_high": round(max(ratios), 3),
        "stage_cpu_microseconds": stages,
        "vocabulary_rows": measured.rows,
        "peak_bytes": measured.peak_bytes,
        "allowed_bytes": (4 * numbers + ROW_BYTES) * measured.rows + FREE_BYTES,
        "log_loss": round(measured.log_loss, 5),
    }


def print_table(bench: StreamBench) -> None:
    """Print the results as two tables, with the machine below."""
    from rich.table import Table

    from stream_ctr.reporting.console import new_console

    rows = [row(bench, measured) for measured in bench.measured]
    title = f"the whole daemon on {bench.log}: {rows[0]['impressions']:,} impressions, {bench.data}"
    table = Table(title=title)
    table.add_column("optimizer")
    for column in ("events/s", "learner alone", "ratio", "peak MB", "budget MB", "log loss"):
        table.add_column(column, justify="right")
    for each in rows:
        peak = each["peak_bytes"]
        table.add_row(
            each["optimizer"],
            f"{each['events_per_second']:,.0f}",
            f"{each['learner_events_per_second']:,.0f}",
            f"{each['ratio']:.2f} ({each['ratio_low']:.2f} to {each['ratio_high']:.2f})",
            "" if peak is None else f"{peak / 1e6:,.0f}",
            f"{each['allowed_bytes'] / 1e6:,.0f}",
            f"{each['log_loss']:.4f}",
        )
    stages = Table(title="CPU microseconds per impression by stage, in one thread")
    stages.add_column("optimizer")
    for name in rows[0]["stage_cpu_microseconds"]:
        stages.add_column(name, justify="right")
    for each in rows:
        stages.add_row(each["optimizer"], *(f"{us:.1f}" for us in each["stage_cpu_microseconds"].values()))
    console = new_console(150)
    console.print(table)
    console.print(stages)
    console.print(
        "events/s: impressions per second that the daemon predicted at their position in the order and "
        "learned. learner alone: only the learner, on the same encoded events in the same chunks.",
        highlight=False,
    )
    console.print("; ".join(f"{key} {value}" for key, value in describe_machine().items()), highlight=False)
