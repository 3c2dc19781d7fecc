"""Report of ``stream-ctr bench papers``: JSON, tables and a plot."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import Any, Final

from stream_ctr.bench.papers.grid import META_TANH, Plan, Results
from stream_ctr.bench.papers.published import NOT_COMPARABLE
from stream_ctr.bench.papers.tables import (
    Aucs,
    ablation_table,
    cell_aucs,
    component_table,
    gain_table,
    gain_test,
    optimizer_table,
)
from stream_ctr.errors import UsageError
from stream_ctr.reporting.figure import COLOURS, dress, new_figure, write_figure

TITLES: Final = {"": "without SML", META_TANH: "with SML"}


def as_json(plan: Plan, results: Results, dataset: str) -> dict[str, Any]:
    """Data, protocol, all cells, and the tables derived from them."""
    aucs = cell_aucs(results)
    cells = [{**asdict(cell), **result} for cell, result in results.items()]
    return {
        "dataset": dataset,
        "note": plan.prepared.feed.encoded.note,
        "rows": plan.prepared.sizes(),
        "embedding_rows": len(plan.prepared.feed.vocabulary.key),
        "protocol": {**asdict(plan.protocol), "shares": list(plan.protocol.shares)},
        "optimizer_settings": dict(plan.settings),
        "dense_rows": plan.dense_rows,
        "model": asdict(plan.model),
        "optimizers": {title: optimizer_table(aucs, dataset, skip) for skip, title in TITLES.items()},
        "sml": gain_table(aucs, "adam"),
        "sml_over_all_cells": gain_test(aucs),
        "ablation": ablation_table(aucs) if has_ablation(results) else [],
        "components": component_table(aucs) if has_components(results) else [],
        "papers": NOT_COMPARABLE,
        "cells": cells,
    }


def has_ablation(results: Results) -> bool:
    """Whether the grid contains a form of the skip logits other than the paper's."""
    return any(cell.skip not in TITLES for cell in results)


def has_components(results: Results) -> bool:
    """Whether the grid contains an ablation of Helen."""
    return any(cell.optimizer in ("helen-m", "helen-b") for cell in results)


def print_tables(report: dict[str, Any]) -> None:
    """Print the tables; values are means over seeds +- standard deviation."""
    from stream_ctr.reporting.console import new_console

    console = new_console(150)
    for title, rows in report["optimizers"].items():
        if rows:
            console.print(_optimizers(f"test AUC, {report['dataset']}, {title} (as Helen, main table)", rows))
    if report["sml"]:
        console.print(_gain(report["sml"]))
    if report["ablation"]:
        console.print(
            _simple(
                "forms of the skip logits, DNN, Adam (SML, Table 2)",
                "form",
                report["ablation"],
                "difference",
                {"Criteo, paper": "papers_criteo", "Avazu, paper": "papers_avazu"},
            )
        )
    if report["components"]:
        console.print(
            _simple(
                "parts of Helen, DeepFM (Helen, Table 4)",
                "optimizer",
                report["components"],
                "over_adam",
                {"Criteo, paper": "papers_criteo"},
            )
        )
    overall = report["sml_over_all_cells"]
    if overall:
        console.print(f"SML over all its cells: {_compared(overall)}", highlight=False)
    for cell in report["cells"]:
        if "failed" in cell:
            console.print(
                f"failed: {cell['backbone']} {cell['skip']} {cell['optimizer']} seed {cell['seed']}: "
                f"{cell['failed']}",
                highlight=False,
            )
    sizes = ", ".join(f"{count:,} {name}" for name, count in report["rows"].items())
    console.print(f"{sizes} rows; {report['embedding_rows']:,} embedding rows", highlight=False)
    console.print(report["papers"], highlight=False)
    if report["note"]:
        console.print(f"note: {report['note']}", highlight=False)


def _optimizers(title: str, rows: list[dict[str, Any]]) -> Any:
    from rich.table import Table

    table = Table(title=title)
    table.add_column("")
    for model in rows[0]["auc"]:
        table.add_column(model, justify="right")
    table.add_column("variance\nof models", justify="right")
    table.add_column("over Adam: mean, t-test, pairs won", justify="right")
    table.add_column("paper, over\nAdam", justify="right")
    for row in rows:
        variance, papers = row["variance"], row["papers_over_adam"]
        table.add_row(
            row["optimizer"],
            *(_auc(found) for found in row["auc"].values()),
            "" if variance is None else f"{variance:.2e}",
            _compared(row["over_adam"]),
            "" if papers is None else f"{papers:+.5f}",
        )
    return table


def _gain(rows: list[dict[str, Any]]) -> Any:
    from rich.table import Table

    table = Table(title="test AUC without and with SML, Adam (SML, Table 1)")
    for name in ("", "without", "with", "difference, t-test, pairs won", "Criteo, paper"):
        table.add_column(name, justify="right" if name else "left")
    for row in rows:
        papers = row["papers_criteo"]
        table.add_row(
            row["model"],
            _auc(row["without"]),
            _auc(row["with"]),
            _compared(row["difference"]),
            "" if papers is None else f"{papers[0]:.5f} -> {papers[1]:.5f}",
        )
    return table


def _simple(title: str, key: str, rows: list[dict[str, Any]], compared: str, papers: dict[str, str]) -> Any:
    from rich.table import Table

    table = Table(title=title)
    table.add_column("")
    for name in ("AUC", "over the first: mean, t-test, pairs won", *papers):
        table.add_column(name, justify="right")
    for row in rows:
        published = (f"{row[name]:.5f}" for name in papers.values())
        table.add_row(row[key], _auc(row["auc"]), _compared(row[compared]), *published)
    return table


def _auc(found: dict[str, Any] | None) -> str:
    if found is None:
        return "failed"
    deviation = found["deviation"]
    return f"{found['mean']:.5f}" + ("" if deviation is None else f" ± {deviation:.5f}")


def _compared(found: dict[str, Any] | None) -> str:
    if found is None:
        return ""
    p = "" if found["p"] is None else f", p {found['p']:.3f}"
    return f"{found['difference']:+.5f}{p}, {found['better']} of {found['pairs']}"


def plot_grid(results: Results, path: str | os.PathLike[str], title: str) -> None:
    """Write a PNG: AUC by optimizer and model, without and with SML; bars are standard deviations over seeds.

    Raises:
        UsageError: matplotlib is not installed, or no cell has an AUC.
        StreamCTRError: the file cannot be written.
    """
    aucs = cell_aucs(results)
    shown = [skip for skip in TITLES if any(cell.skip == skip for cell in aucs)]
    if not shown:
        raise UsageError(f"{path}: nothing to draw, because no cell has an AUC")
    figure = new_figure(6.0 * len(shown) + 1.0, 5.5)
    panels = figure.subplots(1, len(shown), sharey=True, squeeze=False)[0]
    for axes, skip in zip(panels, shown, strict=True):
        _panel(axes, aucs, skip)
        axes.set_title(TITLES[skip], loc="left")
    panels[0].set_ylabel("test AUC")
    panels[-1].legend(frameon=False, fontsize=9)
    figure.suptitle(title, x=0.01, ha="left", fontsize=13)
    write_figure(figure, path)


def _panel(axes: Any, aucs: Aucs, skip: str) -> None:
    rows = optimizer_table(aucs, "", skip)
    names = [row["optimizer"] for row in rows]
    models = list(rows[0]["auc"])
    for number, model in enumerate(models):
        found = [(place, row["auc"][model]) for place, row in enumerate(rows) if row["auc"][model]]
        # offset, so that bars of models with equal means do not overlap
        at = [place + (number - (len(models) - 1) / 2) * 0.08 for place, _ in found]
        mean = [each["mean"] for _, each in found]
        bars = [each["deviation"] or 0.0 for _, each in found]
        axes.errorbar(
            at,
            mean,
            bars,
            fmt="o",
            color=COLOURS[number % len(COLOURS)],
            label=model,
            capsize=3,
            linewidth=1,
        )
    axes.set_xticks(range(len(names)), names)
    dress(axes, grid="y")
