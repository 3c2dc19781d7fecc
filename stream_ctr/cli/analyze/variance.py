"""``stream-ctr analyze variance``: variance of the initial logit by depth, measured and predicted."""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stream_ctr.cli.analyze.options import DEPTHS, add_output_arguments, at_least, check_plot, whole_numbers

if TYPE_CHECKING:
    from stream_ctr.analysis.variance import VarianceResult

TITLES = {
    "plain": "no skip logits",
    "vanilla": "skip logits W . x (eq. 6)",
    "meta_tanh": "skip meta logits (eq. 12)",
}


class Variance:
    """``stream-ctr analyze variance``."""

    help = "variance of the initial logit by depth, measured and predicted"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        listed = ",".join(map(str, DEPTHS))
        parser.add_argument("--depths", default=listed, metavar="N,N,...", help=f"hidden layers ({listed})")
        parser.add_argument("--width", type=int, default=64, help="units of each layer (64; the paper: 400)")
        parser.add_argument("--seeds", type=int, default=100, help="networks per depth and form (100)")
        parser.add_argument("--samples", type=int, default=32, help="random inputs per network (32)")
        add_output_arguments(parser)

    def run(self, arguments: argparse.Namespace) -> int:
        from stream_ctr.analysis.training import progress_of
        from stream_ctr.analysis.variance import FORMS, measure
        from stream_ctr.reporting.progress import Reporter

        at_least(arguments, "width", 1)
        at_least(arguments, "seeds", 2)
        at_least(arguments, "samples", 1)
        at_least(arguments, "seed", 0)
        check_plot(arguments.plot)
        depths = whole_numbers("--depths", arguments.depths)
        results = []
        with Reporter("analyze variance") as reporter:
            for form in FORMS:
                for depth in depths:
                    result = measure(
                        form,
                        depth,
                        arguments.width,
                        arguments.seeds,
                        arguments.samples,
                        arguments.seed,
                        progress_of(reporter, "networks", arguments.seeds, form=form, depth=depth),
                    )
                    results.append(result)
        found = as_json(arguments, results)
        if arguments.json:
            print(json.dumps(found, indent=2))
        else:
            print_report(found)
        if arguments.plot:
            plot(results, arguments.plot, arguments.width, arguments.seeds)
        return 0


def as_json(arguments: argparse.Namespace, results: list[VarianceResult]) -> dict[str, Any]:
    """Settings, one row per form and depth, and the growth exponent of each form."""
    from stream_ctr.analysis.variance import FORMS, growth

    exponents = {form: growth([r for r in results if r.form == form]) for form in FORMS}
    return {
        **{name: getattr(arguments, name) for name in ("width", "seeds", "samples", "seed")},
        "rows": [
            {
                "form": result.form,
                "depth": result.depth,
                "variance": _digits(result.measured),
                "standard_error": _digits(result.error),
                "median": _digits(result.median),
                "predicted": _digits(result.predicted),
                "bound": _digits(result.bound),
            }
            for result in results
        ],
        "growth_exponent": {form: _digits(value) for form, value in exponents.items()},
    }


def _digits(value: float) -> float | None:
    return float(f"{value:.5g}") if math.isfinite(value) else None


def print_report(found: dict[str, Any]) -> None:
    """Print one row per depth, grouped by form."""
    from rich.table import Table

    from stream_ctr.reporting.console import new_console

    table = Table(title=f"variance of the logit, initial networks of width {found['width']}")
    for column in ("", "layers", "measured", "predicted", "measured / predicted", "bound", "median network"):
        table.add_column(column, justify="left" if not column else "right")
    for form, title in TITLES.items():
        for number, row in enumerate(row for row in found["rows"] if row["form"] == form):
            table.add_row(
                title if not number else "",
                str(row["depth"]),
                f"{row['variance']:.3g} +- {row['standard_error']:.2g}",
                f"{row['predicted']:.3g}",
                f"{row['variance'] / row['predicted']:.2f}",
                "" if row["bound"] is None else f"{row['bound']:.3g}",
                f"{row['median']:.3g}",
            )
        table.add_section()
    console = new_console()
    console.print(table)
    shown = ", ".join(
        f"{TITLES[form]} {'unknown' if value is None else format(value, '.2f')}"
        for form, value in found["growth_exponent"].items()
    )
    console.print(
        f"{found['seeds']} networks per row, {found['samples']} inputs of mean square 1 each; +- is the "
        "standard error over networks. predicted: mean over initial weights of wide layers. bound: eq. 12 "
        f"for the initial weights used. Var(z) grows with (layers + 1) to the power of: {shown}.",
        highlight=False,
    )


def plot(results: list[VarianceResult], path: Path, width: int, seeds: int) -> None:
    """Plot measured points and predicted lines on logarithmic axes."""
    from stream_ctr.reporting.figure import COLOURS, MARKERS, dress_panel, panels, plain_number, write_figure

    figure, axes = panels(
        1, 2, f"variance of the initial logit, width {width}", f"{seeds} networks per point"
    )
    for number, (form, title) in enumerate(TITLES.items()):
        shown = [result for result in results if result.form == form]
        depth = [result.depth for result in shown]
        colour, marker = COLOURS[number], MARKERS[number]
        axes[0].errorbar(
            depth,
            [result.measured for result in shown],
            yerr=[2.0 * result.error for result in shown],
            color=colour,
            marker=marker,
            linestyle="none",
            label=title,
        )
        axes[0].plot(depth, [result.predicted for result in shown], color=colour, linewidth=1)
        axes[1].plot(depth, [result.median for result in shown], color=colour, marker=marker, label=title)
    limit = [result for result in results if math.isfinite(result.bound)]
    axes[0].plot(
        [r.depth for r in limit], [r.bound for r in limit], "--", color=COLOURS[2], label="bound of eq. 12"
    )
    for panel, name in zip(
        axes, ("mean over networks (2 standard errors); lines: predicted", "median network"), strict=True
    ):
        panel.set_xscale("log")
        panel.set_yscale("log", nonpositive="mask")
        panel.xaxis.set_major_formatter(plain_number)
        dress_panel(panel, name, "hidden layers", "Var(z)")
    axes[0].legend(frameon=False, fontsize=8)
    write_figure(figure, path)
