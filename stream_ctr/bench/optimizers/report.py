"""Report of ``stream-ctr bench optimizers``: JSON, a table and a plot."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from stream_ctr.bench.machine import describe_machine
from stream_ctr.bench.optimizers.study import Plan, Tested, compared
from stream_ctr.metrics.log_loss import vector_log_losses
from stream_ctr.metrics.sums import Sums
from stream_ctr.reporting.figure import BLACK, LINE_STYLES, new_figure, write_figure

if TYPE_CHECKING:
    from stream_ctr.datasets.base import Dataset

CONTROLS: Final = ("base-wide", "base-twice")
"""Baselines that spend twice the compute on the base rules."""
LOOKED_AT: Final = (
    "The default settings and the search spaces were declared after rows 40,000 to 80,000 of a thinned "
    "Criteo sample had been examined: on that sample, the test rows are not unseen."
)


def as_json(
    results: Sequence[Tested], label: NDArray[np.float32], plan: Plan, dataset: Dataset
) -> dict[str, Any]:
    """Machine, plan and one row per method."""
    return {
        "machine": describe_machine(),
        "dataset": dataset.name,
        "note": dataset.note,
        "looked_at": LOOKED_AT,
        "plan": {
            "trials": plan.trials,
            "tuning_rows": [0, plan.tune_to],
            "tuning_scored_from": plan.score_from,
            "test_rows": [plan.tune_to, plan.test_to],
            "seeds": list(plan.seeds),
            "block_events": plan.block,
        },
        "rows": [_row(tested, results, label, plan) for tested in results],
    }


def _row(tested: Tested, results: Sequence[Tested], label: NDArray[np.float32], plan: Plan) -> dict[str, Any]:
    named = {other.method.name: other for other in results}
    base = named[tested.method.base]
    test = slice(plan.tune_to, plan.test_to)
    by_seed = [float(vector_log_losses(p[test], label[test] > 0.5).mean()) for p in tested.probability]
    against = compared(tested, base, plan)
    return {
        "optimizer": tested.method.name,
        "base": base.method.name,
        "passes": tested.method.passes,
        "relative_time": round(tested.seconds / base.seconds, 2) if base.seconds else None,
        "log_loss": round(float(np.mean(by_seed)), 6),
        "log_loss_by_seed": [round(loss, 6) for loss in by_seed],
        "log_loss_spread": round(float(np.std(by_seed, ddof=1)), 6) if len(by_seed) > 1 else None,
        "auc": round(float(np.mean([auc(p[test], label[test]) for p in tested.probability])), 5),
        "difference_to_base": round(against.mean, 6),
        "ci_low": round(against.low, 6),
        "ci_high": round(against.high, 6),
        "against": {
            name: _difference(tested, named[name], plan)
            for name in CONTROLS
            if name in named and name != tested.method.name
        },
        "tuned_log_loss": None if math.isnan(tested.tuned_loss) else round(tested.tuned_loss, 6),
        "setting": tested.setting,
    }


def _difference(tested: Tested, other: Tested, plan: Plan) -> dict[str, float]:
    found = compared(tested, other, plan)
    return {
        "difference": round(found.mean, 6),
        "ci_low": round(found.low, 6),
        "ci_high": round(found.high, 6),
    }


def auc(probability: NDArray[np.float32], label: NDArray[np.float32]) -> float:
    """Area under the ROC curve of probabilities and labels [n]."""
    sums, none = Sums.empty(), np.full(len(label), np.nan, np.float32)
    sums.add(probability, label.astype(np.uint8), none, np.full(len(label), 0.5, np.float32))
    return float(sums.values().auc)


def print_table(report: dict[str, Any]) -> None:
    """Print the rows as a table with explanatory notes."""
    from rich.table import Table

    from stream_ctr.reporting.console import new_console

    plan = report["plan"]
    first, last = plan["test_rows"]
    table = Table(
        title=f"{report['dataset']}: {plan['trials']} settings each, tuned on rows "
        f"{plan['tuning_scored_from']:,} to {first:,}, tested on rows {first:,} to {last:,}"
    )
    table.add_column("optimizer")
    table.add_column("base")
    for column in ("passes", "time", "log loss", "spread", "AUC", "minus base", "95 % interval"):
        table.add_column(column, justify="right")
    for row in report["rows"]:
        spread, same = row["log_loss_spread"], row["optimizer"] == row["base"]
        time = row["relative_time"]
        table.add_row(
            row["optimizer"],
            row["base"],
            str(row["passes"]),
            "" if time is None else f"{time:.1f} x",
            f"{row['log_loss']:.5f}",
            "" if spread is None else f"{spread:.5f}",
            f"{row['auc']:.4f}",
            "" if same else f"{row['difference_to_base']:+.5f}",
            "" if same else f"{row['ci_low']:+.5f} to {row['ci_high']:+.5f}",
        )
    console = new_console(150)
    console.print(table)
    console.print(
        f"Losses are means over the seeds {', '.join(map(str, plan['seeds']))}; spread: standard deviation "
        f"over seeds. Intervals: paired by event, over blocks of {plan['block_events']} events.",
        report["looked_at"],
        report["note"],
        sep="\n",
        highlight=False,
    )


def draw(results: Sequence[Tested], plan: Plan, path: Path, title: str) -> None:
    """Write a PNG: cumulative log loss of each method minus its base's, in nats; below 0 the method leads.

    Raises:
        UsageError: matplotlib is not installed.
        StreamCTRError: the file cannot be written.
    """
    figure = new_figure(10.0, 6.0)
    axes = figure.subplots()
    named = {tested.method.name: tested for tested in results}
    others = [tested for tested in results if tested.method.base != tested.method.name]
    for number, tested in enumerate(others):
        behind = np.cumsum(tested.loss - named[tested.method.base].loss)
        label = f"{tested.method.name} - {tested.method.base}"
        style = LINE_STYLES[number % len(LINE_STYLES)]
        axes.plot(np.arange(1, len(behind) + 1), behind, style, lw=1.2, label=label)
    axes.set_yscale("symlog", linthresh=50.0, linscale=2.0)  # a diverging method must not flatten the others
    axes.axhline(0.0, color=BLACK, lw=0.8)
    axes.axvspan(plan.tune_to, plan.test_to, color="0.93", zorder=0, label="test rows")
    axes.set_xlim(0, plan.test_to)
    axes.set_xlabel("events")
    axes.set_ylabel("cumulative log loss minus the base's (nats)")
    axes.set_title(f"{title}: worse (above 0) or better (below 0) than the base", loc="left")
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=9)
    write_figure(figure, path)
