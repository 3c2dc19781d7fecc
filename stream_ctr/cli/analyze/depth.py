"""``stream-ctr analyze depth``: towers of 1 to 100 layers with and without skip logits."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stream_ctr.cli.analyze.options import (
    DEPTHS,
    add_batch_arguments,
    add_data_arguments,
    add_output_arguments,
    at_least,
    check_plot,
    positive,
    whole_numbers,
)

if TYPE_CHECKING:
    from stream_ctr.analysis.depth import DepthResult
    from stream_ctr.analysis.rows import Rows


class Depth:
    """``stream-ctr analyze depth``."""

    help = "quality, logit variance, inactive units and similarity of events by depth, with and without SML"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        add_data_arguments(parser, events=60_000, held_out=10_000)
        listed = ",".join(map(str, DEPTHS))
        parser.add_argument("--depths", default=listed, metavar="N,N,...", help=f"hidden layers ({listed})")
        parser.add_argument("--width", type=int, default=64, help="units of each layer (64; the paper: 400)")
        parser.add_argument(
            "--steps",
            type=int,
            help="batches to learn (default: one pass over the rows; more repeat it)",
        )
        parser.add_argument(
            "--optimizer", default="adam", metavar="NAME", help="optimizer of the batch protocol (adam)"
        )
        parser.add_argument(
            "--initial",
            choices=["he", "xavier", "torch"],
            default="he",
            help="initialization of the hidden weights: he (default) keeps the mean square through a ReLU "
            "layer; xavier halves it, torch (PyTorch's linear layer) divides it by 6",
        )
        add_batch_arguments(parser, batch=256, rate=1e-3)
        add_output_arguments(parser)

    def run(self, arguments: argparse.Namespace) -> int:
        depths = _check(arguments)
        results, rows = measure(arguments, depths)
        found = as_json(arguments, rows, results)
        if arguments.json:
            print(json.dumps(found, indent=2))
        else:
            print_report(found)
        if arguments.plot:
            plot(results, arguments.plot, f"{rows.dataset}, width {arguments.width}, {arguments.initial}")
        return 0


def _check(arguments: argparse.Namespace) -> tuple[int, ...]:
    for name in ("events", "width", "batch"):
        at_least(arguments, name, 1)
    at_least(arguments, "slice", 2)
    if arguments.steps is not None:
        at_least(arguments, "steps", 1)
    at_least(arguments, "seed", 0)
    positive(arguments, "rate")
    check_plot(arguments.plot)
    return whole_numbers("--depths", arguments.depths)


def measure(arguments: argparse.Namespace, depths: tuple[int, ...]) -> tuple[list[DepthResult], Rows]:
    """Train every depth with and without skip logits on the same rows."""
    from stream_ctr.analysis.depth import at_depth, tower
    from stream_ctr.analysis.rows import open_rows
    from stream_ctr.analysis.training import progress_of, same_base
    from stream_ctr.config.settings import load_settings
    from stream_ctr.models.validation import check_model
    from stream_ctr.reporting.progress import Reporter

    optimizer = same_base(arguments.optimizer, arguments.rate)
    settings = load_settings(arguments.config)
    results = []
    with Reporter("analyze depth") as reporter:
        rows = open_rows(
            arguments,
            settings,
            events=arguments.events,
            held_out=arguments.slice,
            chunk=arguments.batch,
            steps=arguments.steps,
        )
        steps = arguments.steps or len(rows.batches)
        for depth in depths:
            for sml in (False, True):
                model = tower(settings.model, depth, arguments.width, sml)
                check_model(model, len(rows.fields))
                name = "SML" if sml else "plain"
                result = at_depth(
                    rows,
                    model,
                    optimizer,
                    steps,
                    seed=arguments.seed,
                    device=arguments.device,
                    initial=arguments.initial,
                    progress=progress_of(reporter, "batches", steps, depth=depth, network=name),
                )
                auc = result.quality.auc
                reporter.say("done", depth=depth, network=name, auc=auc, log_loss=result.quality.log_loss)
                results.append(result)
    return results, rows


def as_json(arguments: argparse.Namespace, rows: Rows, results: list[DepthResult]) -> dict[str, Any]:
    """Settings, and one row per depth and network; ``layers`` from first to last."""
    return {
        "dataset": rows.dataset,
        "note": rows.note,
        "events": rows.events,
        **{name: getattr(arguments, name) for name in ("slice", "width", "batch", "rate", "seed")},
        "optimizer": arguments.optimizer,
        "initial": arguments.initial,
        "steps": arguments.steps or len(rows.batches),
        "base_log_loss": known(results[0].base_log_loss),
        "rows": [_row(result) for result in results],
    }


def known(value: float, digits: int = 5) -> float | None:
    """The value rounded; None if it is not finite, which JSON cannot represent."""
    return round(value, digits) if math.isfinite(value) else None


def _row(result: DepthResult) -> dict[str, Any]:
    layers = [dataclasses.asdict(layer) for layer in result.layers]
    return {
        "depth": result.depth,
        "sml": result.sml,
        "auc": known(result.quality.auc),
        "log_loss": known(result.quality.log_loss),
        "collapsed": result.collapsed,
        "logit_variance": float(f"{result.logit_variance:.4g}")
        if math.isfinite(result.logit_variance)
        else None,
        "dead": known(result.dead),
        "always_on": known(result.always_on),
        "cosine_last": known(result.layers[-1].cosine),
        "skipped_events": result.skipped,
        "layers": [{name: known(value) for name, value in layer.items()} for layer in layers],
    }


def print_report(found: dict[str, Any]) -> None:
    """Print one row per depth, each cell without and with skip logits."""
    from rich.table import Table

    from stream_ctr.reporting.console import new_console

    title = f"{found['dataset']}: towers of width {found['width']}, plain | with SML"
    table = Table(title=title)
    for column in (
        "depth",
        "AUC",
        "log loss",
        "logit variance",
        "inactive",
        "always on",
        "cosine, last layer",
    ):
        table.add_column(column, justify="right")
    forms = {
        "auc": ".4f",
        "log_loss": ".4f",
        "logit_variance": ".3g",
        "dead": ".1%",
        "always_on": ".1%",
        "cosine_last": ".3f",
    }
    for depth in dict.fromkeys(row["depth"] for row in found["rows"]):
        plain, sml = (
            next(row for row in found["rows"] if row["depth"] == depth and row["sml"] is kind)
            for kind in (False, True)
        )
        cells = []
        for key, form in forms.items():
            texts = ["-" if row[key] is None else format(row[key], form) for row in (plain, sml)]
            if key == "auc":
                texts = [
                    text + (" *" if row["collapsed"] else "")
                    for text, row in zip(texts, (plain, sml), strict=True)
                ]
            cells.append(" | ".join(texts))
        table.add_row(str(depth), *cells)
    known_base = found["base_log_loss"]
    base = "unknown" if known_base is None else format(known_base, ".4f")
    console = new_console()
    console.print(table)
    console.print(
        f"{found['steps']:,} batches of {found['batch']:,} from {found['events']:,} rows, "
        f"{found['optimizer']} with rate {found['rate']:g}, hidden weights by {found['initial']}; measured "
        f"on the {found['slice']:,} rows after them, where the click rate alone has log loss "
        f"{base}. * collapsed: log loss not below that, or AUC below 0.55. inactive, always on: "
        "units of all layers that are 0, or above 0, for every row. cosine: mean over pairs of rows.",
        highlight=False,
    )
    console.print(f"note: {found['note']}", highlight=False)


def plot(results: list[DepthResult], path: Path, title: str) -> None:
    """Plot six panels, each with a line for networks with skip logits and one without."""
    from stream_ctr.reporting.figure import COLOURS, MARKERS, dress_panel, panels, plain_number, write_figure

    figure, axes = panels(2, 3, title, "each point is one network, trained on the same rows")
    for number, (sml, name) in enumerate(((False, "plain"), (True, "SML"))):
        shown = [result for result in results if result.sml is sml]
        depth = [result.depth for result in shown]
        colour, marker = COLOURS[number], MARKERS[number]
        lines = (
            [result.quality.auc for result in shown],
            [result.quality.log_loss for result in shown],
            [result.logit_variance for result in shown],
            [result.dead for result in shown],
            [result.always_on for result in shown],
            [result.layers[-1].cosine for result in shown],
        )
        for panel, values in zip(axes, lines, strict=True):
            panel.plot(depth, values, label=name, color=colour, marker=marker)
    axes[1].axhline(results[0].base_log_loss, linestyle="--", color=COLOURS[-1], label="click rate alone")
    axes[2].set_yscale("log", nonpositive="mask")
    names = (
        ("AUC", "AUC"),
        ("log loss", "nats / event"),
        ("variance of the logit", "variance over events"),
        ("inactive units", "share"),
        ("always-on units", "share"),
        ("similarity of events, last layer", "mean cosine"),
    )
    for panel, (heading, y) in zip(axes, names, strict=True):
        panel.set_xscale("log")
        panel.xaxis.set_major_formatter(plain_number)
        dress_panel(panel, heading, "hidden layers", y)
    axes[1].legend(frameon=False)
    write_figure(figure, path)
