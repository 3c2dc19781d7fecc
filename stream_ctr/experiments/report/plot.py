"""The report as a plot: each arm vs the control over time, with always-valid intervals."""

from __future__ import annotations

import os
from textwrap import fill
from typing import TYPE_CHECKING, Final

from stream_ctr.errors import UsageError
from stream_ctr.experiments.report.model import Point, Report
from stream_ctr.experiments.report.text import UNSOUND, VERDICT_WORDS, reasons
from stream_ctr.reporting.figure import COLOURS, GREY, LINE_STYLES, dress, new_figure, write_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing

PANELS: Final = (
    ("ctr_uplift", "CTR uplift (%)", 100.0),
    ("advv_uplift", "ADVV uplift (%)", 100.0),
    ("log_loss", "log loss difference\n(nats / impression; below 0 is better)", 1.0),
    ("auc", "AUC difference", 1.0),
)
WIDEST: Final = 60
"""Characters in a line of text in a panel."""
MOST_HEIGHTS: Final = 4.0
"""Maximum height of a panel in multiples of the last interval, because early intervals are very wide."""


def plot_report(report: Report, path: str | os.PathLike[str]) -> None:
    """Write a PNG with the cumulative difference of each arm from the control: CTR, ADVV, log loss and AUC.

    Raises:
        UsageError: matplotlib is not installed, or no window has closed yet.
        StreamCTRError: the file cannot be written.
    """
    write_figure(draw_report(report, path), path)


def draw_report(report: Report, path: str | os.PathLike[str]) -> Drawing:
    """The figure; ``path`` appears in the error message only.

    Raises:
        UsageError: as :func:`plot_report`.
    """
    figure = new_figure(11.0, 7.5)
    points = [point for point in report.series if point.final]
    if not points or not report.comparisons:
        raise UsageError(
            f"{path}: nothing to draw: the report has {len(points)} closed windows and "
            f"{len(report.comparisons)} comparisons; a plot needs at least one of each"
        )
    panels = figure.subplots(2, 2, sharex=True).ravel()
    start_ms, unit_ms, unit = _scale(points)
    for axes, (name, title, factor) in zip(panels, PANELS, strict=True):
        for number, comparison in enumerate(report.comparisons):
            _draw(axes, points, comparison.arm, name, factor, number, start_ms, unit_ms)
        _dress(axes, title, _without(report, name))
    for axes in panels[2:]:
        axes.set_xlabel(f"{unit} since the first impression (event time)")
    drawn, names = panels[2].get_legend_handles_labels()
    if drawn:
        panels[2].legend(drawn, names, frameon=False, fontsize=9, loc="best")
    control = report.comparisons[0].control
    figure.suptitle(
        f"{report.experiment} ({report.salt}): difference from {control}", x=0.02, ha="left", fontsize=14
    )
    level = report.comparisons[0].level
    text = f"cumulative, with always-valid {100 * (1 - level):.4g} % intervals"
    if not report.sample_ratio.sound:
        text = f"withheld: {report.sample_ratio.why or UNSOUND}"
    panels[0].set_title(text, loc="left", fontsize=9, color=GREY)
    return figure


def _scale(points: list[Point]) -> tuple[int, float, str]:
    """Start in ms, unit of time in ms, and name of that unit."""
    start_ms = points[0].start_ms
    length_ms = points[-1].end_ms - start_ms
    for unit_ms, unit in ((86_400_000.0, "days"), (3_600_000.0, "hours"), (60_000.0, "minutes")):
        if length_ms >= 3 * unit_ms:
            return start_ms, unit_ms, unit
    return start_ms, 1000.0, "seconds"


def _draw(
    axes: Axes,
    points: list[Point],
    arm: str,
    name: str,
    factor: float,
    number: int,
    start_ms: int,
    unit_ms: float,
) -> None:
    colour, style = COLOURS[number % len(COLOURS)], LINE_STYLES[number % len(LINE_STYLES)]
    at, values, lows, highs = [], [], [], []
    for point in points:
        found = point.comparisons.get(arm, {}).get(name)
        if found is None or found.estimate is None or found.low is None or found.high is None:
            continue
        at.append((point.end_ms - start_ms) / unit_ms)
        values.append(factor * found.estimate)
        lows.append(factor * found.low)
        highs.append(factor * found.high)
    if not at:
        return
    marker = "." if len(at) < 30 else None
    axes.plot(at, values, style, color=colour, linewidth=2, marker=marker, label=arm)
    axes.fill_between(at, lows, highs, color=colour, alpha=0.15, linewidth=0)
    if len(at) == 1:  # a band needs two points
        axes.vlines(at, lows, highs, color=colour, linewidth=2, alpha=0.4)
    axes.plot(at, lows, style, color=colour, linewidth=0.7)
    axes.plot(at, highs, style, color=colour, linewidth=0.7)
    reach = MOST_HEIGHTS * (highs[-1] - lows[-1]) / 2.0
    low, high = min(0.0, values[-1] - reach), max(0.0, values[-1] + reach)
    if number:
        before = axes.get_ylim()
        low, high = min(low, before[0]), max(high, before[1])
    if low < high:
        axes.set_ylim(low, high)


def _without(report: Report, name: str) -> str:
    """Verdicts and reasons of the arms that have no interval now, one line each."""
    found = [(each.arm, each.figures[name]) for each in report.comparisons if name in each.figures]
    lines = reasons(
        (arm, f"{VERDICT_WORDS[figure.verdict]}: {figure.why}") for arm, figure in found if figure.why
    )
    return "\n".join(fill(line, WIDEST) for line in lines)


def _dress(axes: Axes, title: str, without: str) -> None:
    axes.axhline(0.0, color=GREY, linestyle="--", linewidth=1)
    axes.set_ylabel(title)
    dress(axes)
    axes.margins(x=0.01)
    if len(axes.lines) == 1:  # only the zero line, for which a scale is meaningless
        axes.set_yticks([])
        without = without or "no interval yet"
    if without:
        axes.text(0.5, 0.75, without, transform=axes.transAxes, ha="center", va="top", color=GREY, fontsize=9)
