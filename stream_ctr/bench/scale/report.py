"""Report of ``stream-ctr bench scale``: JSON, tables and a plot."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from stream_ctr.bench.machine import describe_machine, load_average, print_machine
from stream_ctr.bench.scale.child import DRAWS
from stream_ctr.bench.scale.measure import Size
from stream_ctr.reporting.figure import BLUE, GREEN, GREY, ORANGE, dress, new_figure, write_figure


def as_json(sizes: list[Size], optimizer: str) -> list[dict[str, Any]]:
    """One row per size; values that the system does not report are null."""
    machine = {**describe_machine(), "load": load_average()}
    return [{**row(size, sizes[0]), "optimizer": optimizer, "machine": machine} for size in sizes]


def row(size: Size, smallest: Size) -> dict[str, Any]:
    """The results of one size; costs are medians over chunks, ratios medians over pairs of chunks."""
    figures: dict[str, Any] = {"name": f"{size.rows} rows", "rows": size.rows}
    for draw in DRAWS:
        parts, cost = np.array(size.seconds[draw]) * 1e6, size.cost(draw)
        low, high = np.quantile(cost * 1e6, [0.1, 0.9]).tolist()
        figures[draw] = {
            "encode_microseconds": round(float(np.median(parts[:, 0])), 2),
            "learn_microseconds": round(float(np.median(parts[:, 1])), 2),
            "microseconds": round(float(np.median(cost)) * 1e6, 2),
            "microseconds_low": round(low, 2),
            "microseconds_high": round(high, 2),
            "ratio_to_smallest": round(float(np.median(cost / smallest.cost(draw))), 3),
        }
    checkpoint, allowed = size.checkpoint, size.allowed_bytes
    resident, peak = checkpoint["resident_bytes"], checkpoint["peak_bytes"]
    return {
        **figures,
        "chunks": len(size.seconds[DRAWS[0]]),
        "fill_seconds": round(size.filled["seconds"], 1),
        "ready_bytes": size.filled["ready_bytes"],
        "resident_bytes": resident,
        "fill_peak_bytes": size.filled["fill_peak_bytes"],
        "checkpoint_peak_bytes": peak,
        "checkpoint_seconds": round(checkpoint["seconds"], 2),
        "checkpoint_file_bytes": checkpoint["file_bytes"],
        "allowed_bytes": allowed,
        "resident_to_allowed": _ratio(resident, allowed),
        "checkpoint_peak_to_allowed": _ratio(peak, allowed),
    }


def print_table(sizes: list[Size], optimizer: str) -> None:
    """Print the results as two tables, with the machine below."""
    from rich.table import Table

    from stream_ctr.reporting.console import new_console

    rows = [row(size, sizes[0]) for size in sizes]
    cost = Table(
        title=f"cost of an event by vocabulary size: 39 fields x 16, 128-64 SML, {optimizer}, one thread"
    )
    for column in (
        "rows",
        "distribution",
        "encode us",
        "learn us",
        "both us (median)",
        "10 % to 90 %",
        "x smallest",
    ):
        cost.add_column(column, justify="left" if column == "distribution" else "right")
    for each in rows:
        for draw in DRAWS:
            one = each[draw]
            cost.add_row(
                f"{each['rows']:,}",
                draw,
                f"{one['encode_microseconds']:.1f}",
                f"{one['learn_microseconds']:.1f}",
                f"{one['microseconds']:.1f}",
                f"{one['microseconds_low']:.1f} to {one['microseconds_high']:.1f}",
                f"{one['ratio_to_smallest']:.2f}",
            )
    memory = Table(title="memory in MB")
    for column in ("rows", "resident", "filling peak", "checkpoint peak", "budget", "checkpoint file"):
        memory.add_column(column, justify="right")
    for each in rows:
        memory.add_row(
            f"{each['rows']:,}",
            _megabytes(each["resident_bytes"]),
            _megabytes(each["fill_peak_bytes"]),
            _megabytes(each["checkpoint_peak_bytes"]),
            _megabytes(each["allowed_bytes"]),
            f"{each['checkpoint_file_bytes'] / 1e6:,.0f} in {each['checkpoint_seconds']:.1f} s",
        )
    console = new_console(150)
    console.print(cost)
    console.print(memory)
    console.print(
        "uniform: all rows equally likely, the worst case for caches; zipf: probability proportional to "
        "1 / rank. x smallest: median ratio over pairs of adjacent chunks.\nbudget: 4 bytes per weight and "
        "accumulator, 48 bytes per row, and 600 MB.",
        highlight=False,
    )
    print_machine(console)


def plot(sizes: list[Size], path: str | os.PathLike[str], optimizer: str) -> None:
    """Write a PNG: cost of an event and memory by vocabulary rows.

    Raises:
        UsageError: matplotlib is not installed.
        StreamCTRError: the file cannot be written.
    """
    figure = new_figure(9.0, 7.0)
    rows = [row(size, sizes[0]) for size in sizes]
    x = [each["rows"] for each in rows]
    cost, memory = figure.subplots(2, 1, sharex=True)
    for draw, colour, style in zip(DRAWS, (BLUE, ORANGE), ("-", "--"), strict=True):
        low, high, middle = (
            np.array([each[draw][name] for each in rows])
            for name in ("microseconds_low", "microseconds_high", "microseconds")
        )
        cost.plot(x, middle, style, color=colour, marker="o", label=f"{draw} rows")
        cost.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0.0)
    smallest = rows[0][DRAWS[0]]["microseconds"]
    cost.axhline(2.0 * smallest, color=GREY, linestyle=":", label=f"twice the smallest size, {DRAWS[0]}")
    cost.set_ylim(0.0)
    cost.set_ylabel("microseconds per event")
    cost.set_title(f"Cost of an event by vocabulary size: encode and learn, {optimizer}", loc="left")
    lines = (
        ("resident_bytes", "resident", BLUE, "-"),
        ("checkpoint_peak_bytes", "peak during a checkpoint", ORANGE, "--"),
        ("allowed_bytes", "budget", GREEN, ":"),
    )
    for name, label, colour, style in lines:
        y = [np.nan if each[name] is None else each[name] / 1e9 for each in rows]
        memory.plot(x, y, style, color=colour, marker="o", label=label)
    memory.set_ylim(0.0)
    memory.set_ylabel("memory, GB")
    memory.set_xlabel("vocabulary rows")
    memory.set_xscale("log")
    for axes in (cost, memory):
        dress(axes)
        axes.legend(frameon=False)
    write_figure(figure, path)


def _ratio(part: int | None, whole: int) -> float | None:
    return None if part is None else round(part / whole, 3)


def _megabytes(value: int | None) -> str:
    return "unknown" if value is None else f"{value / 1e6:,.0f}"
