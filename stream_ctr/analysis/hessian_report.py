"""Output of ``stream-ctr analyze hessian``: a table, JSON, and scatter plots."""

from __future__ import annotations

import argparse
import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from stream_ctr.analysis.hessian import Correlation, Curvature, FrequencyCorrelations
from stream_ctr.analysis.rows import Rows
from stream_ctr.config.model import ModelConfig, model_identity
from stream_ctr.offline.scores import Scores

PAPER: Final = (
    "Helen (Zhu et al. 2024, arXiv 2403.00798) reports, for batches of the full data, a strong positive "
    "correlation of top eigenvalue and frequency (Table 1), and that Helen constrains the top eigenvalues "
    "(section 4.3). The loss is a mean over all events, so the raw correlation is positive partly by "
    "construction; multiplying by n / N removes that part. A network that has learned less is also flatter: "
    "compare eigenvalues together with the log loss."
)
"""Summary of the paper's findings, without its numbers, which come from other data."""
CORRELATIONS: Final = ("eigenvalue", "gradient", "eigenvalue_per_event", "gradient_per_event")


@dataclass(frozen=True, slots=True)
class FieldResult:
    """Result for one field of one trained network."""

    field: str
    optimizer: str
    rho: float | None
    """Radius of the optimizer's perturbation; None without one."""
    seed: int
    features: Curvature
    """Curvature at the features that occur often enough."""
    quality: Scores
    """Scores on the same slice."""
    skipped: int


def as_json(
    arguments: argparse.Namespace, rows: Rows, model: ModelConfig, results: list[FieldResult]
) -> dict[str, Any]:
    """Settings, one row per field, optimizer and seed, and all features' values for the first seed."""
    settings = ("events", "slice", "batch", "epochs", "rate", "minimum_count", "seeds")
    texts = value_texts(rows)
    return {
        "dataset": rows.dataset,
        "note": rows.note,
        "model": model_identity(model),
        **{name: getattr(arguments, name) for name in settings},
        "rows": [_row(result) for result in results],
        "features": [
            {"field": result.field, "optimizer": result.optimizer, "features": _features(result, texts)}
            for result in results
            if result.seed == arguments.seed
        ],
        "paper": PAPER,
    }


def value_texts(rows: Rows) -> dict[int, str]:
    """The original value of each row, for fields with a single slot; other rows have no text."""
    texts: dict[int, str] = {}
    single = [s for s, field in enumerate(rows.slot_field) if (rows.slot_field == field).sum() == 1]
    for event, example in enumerate(rows.held_out.examples):
        for slot in single:
            value = example.features.get(rows.fields[int(rows.slot_field[slot])].name)
            texts.setdefault(int(rows.held_out.rows[event, slot]), "missing" if value is None else str(value))
    return texts


def _row(result: FieldResult) -> dict[str, Any]:
    found = result.features
    correlations = FrequencyCorrelations.of(found)
    return {
        "field": result.field,
        "optimizer": result.optimizer,
        "rho": result.rho,
        "seed": result.seed,
        "features": len(found.row),
        "eigenvalue": spread(found.eigenvalue),
        "eigenvalue_per_event": spread(found.eigenvalue * found.share),
        "gradient": spread(found.gradient),
        **{f"r_{name}": _correlation(getattr(correlations, name)) for name in CORRELATIONS},
        "log_loss": finite(result.quality.log_loss, 5),
        "auc": finite(result.quality.auc, 5),
        "skipped_events": result.skipped,
    }


def _features(result: FieldResult, texts: dict[int, str]) -> list[dict[str, Any]]:
    found = result.features
    return [
        {
            "value": texts.get(int(row)),
            "events": int(count),
            "eigenvalue": float(f"{eigenvalue:.6g}"),
            "gradient": float(f"{gradient:.6g}"),
        }
        for row, count, eigenvalue, gradient in zip(
            found.row, found.count, found.eigenvalue, found.gradient, strict=True
        )
    ]


def spread(values: NDArray[np.float64]) -> dict[str, float]:
    """Mean, standard deviation, median, middle 80 % and largest of values [K]."""
    low, median, high = np.quantile(values, [0.1, 0.5, 0.9]).tolist()
    figures = {"mean": values.mean(), "deviation": values.std(ddof=1), "median": median}
    figures |= {"low": low, "high": high, "largest": values.max()}
    return {name: float(f"{value:.6g}") for name, value in figures.items()}


def _correlation(found: Correlation) -> dict[str, float | None]:
    return {name: finite(value, 4) for name, value in dataclasses.asdict(found).items()}


def finite(value: float, digits: int) -> float | None:
    """The value rounded; None if it is not finite, which JSON cannot represent."""
    return round(value, digits) if math.isfinite(value) else None


def print_report(found: dict[str, Any]) -> None:
    """Print a table per field with a column per optimizer: means over the seeds."""
    from stream_ctr.reporting.console import new_console

    console = new_console()
    for field in dict.fromkeys(row["field"] for row in found["rows"]):
        console.print(_table(found, field))
    console.print(
        f"Trained on {found['events']:,} rows in batches of {found['batch']:,}, {found['epochs']} pass(es), "
        f"rate {found['rate']:g}; measured on the {found['slice']:,} rows after them, for "
        f"features in at least {found['minimum_count']} of these. lambda: top eigenvalue of a row's own "
        "block; N: its events; n / N: per event of the feature. In parentheses: standard deviation over "
        "features, 95 % CI of r" + ("; means over seeds." if found["seeds"] > 1 else "."),
        highlight=False,
    )
    console.print(found["paper"], highlight=False)
    console.print(f"note: {found['note']}", highlight=False)


def _table(found: dict[str, Any], field: str) -> Any:
    from rich.table import Table

    rows = [row for row in found["rows"] if row["field"] == field]
    names = list(dict.fromkeys(row["optimizer"] for row in rows))
    title = f"{found['dataset']}, field {field}: {rows[0]['features']} features, {found['model']['backbone']}"
    table = Table(title=title)
    table.add_column("")
    for name in names:
        table.add_column(name, justify="right")

    def line(label: str, key: str, part: str, form: str) -> None:
        cells = []
        for name in names:
            mine = [row[key] if not part else row[key][part] for row in rows if row["optimizer"] == name]
            known = [value for value in mine if value is not None]
            cell = format(float(np.mean(known)), form) if known else "unknown"
            if len(known) > 1:
                cell += f" +- {format(float(np.std(known, ddof=1)), form)}"
            elif known and part in ("r", "mean"):
                own = next(row[key] for row in rows if row["optimizer"] == name)
                cell += _bracket(own, part, form)
            cells.append(cell)
        table.add_row(label, *cells)

    rho = {row["optimizer"]: row["rho"] for row in rows}
    table.add_row("rho", *("-" if rho[name] is None else f"{rho[name]:g}" for name in names))
    table.add_section()
    line("mean lambda", "eigenvalue", "mean", ".3g")
    line("median lambda", "eigenvalue", "median", ".3g")
    line("largest lambda", "eigenvalue", "largest", ".3g")
    line("mean lambda n / N", "eigenvalue_per_event", "mean", ".3g")
    line("mean |g|", "gradient", "mean", ".3g")
    table.add_section()
    line("r(lambda, N)", "r_eigenvalue", "r", ".2f")
    line("r(lambda n / N, N)", "r_eigenvalue_per_event", "r", ".2f")
    line("r(|g|, N)", "r_gradient", "r", ".2f")
    line("r(|g| n / N, N)", "r_gradient_per_event", "r", ".2f")
    table.add_section()
    line("log loss", "log_loss", "", ".4f")
    line("AUC", "auc", "", ".4f")
    return table


def _bracket(own: dict[str, float | None], part: str, form: str) -> str:
    if part == "mean":
        return f" ({own['deviation']:{form}})"
    if own["low"] is None or own["high"] is None:
        return ""
    return f" ({own['low']:{form}} to {own['high']:{form}})"


def plot(results: list[FieldResult], path: Path, title: str) -> None:
    """Plot eigenvalue and gradient norm over frequency, raw and per event, for the first field and seed."""
    from stream_ctr.reporting.figure import COLOURS, MARKERS, dress_panel, panels, write_figure

    first = results[0]
    shown = [r for r in results if r.field == first.field and r.seed == first.seed]
    figure, axes = panels(
        2, 2, f"{title}, field {first.field}", f"{len(first.features.row)} features, one point each"
    )
    for number, result in enumerate(shown):
        found = result.features
        own = (found.eigenvalue, found.gradient, found.eigenvalue * found.share, found.gradient * found.share)
        colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
        for panel, values in zip(axes, own, strict=True):
            panel.scatter(
                found.count,
                values,
                s=12,
                alpha=0.6,
                label=result.optimizer,
                linewidths=0,
                color=colour,
                marker=marker,
            )
    names = (
        ("top eigenvalue", "lambda"),
        ("gradient norm", "|g|"),
        ("top eigenvalue, per event of the feature", "lambda n / N"),
        ("gradient norm, per event of the feature", "|g| n / N"),
    )
    for panel, (name, y) in zip(axes, names, strict=True):
        panel.set_xscale("log")
        panel.set_yscale("log", nonpositive="mask")
        dress_panel(panel, name, "N, events of the feature", y)
    axes[0].legend(frameon=False)
    write_figure(figure, path)
