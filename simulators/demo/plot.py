"""The plot of the demo: learning curves, the paired difference with its interval, the value of shown ads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from stream_ctr.experiments.report.model import Report
from stream_ctr.metrics.curve import CurvePoint
from stream_ctr.reporting.figure import BLUE, GREEN, GREY, ORANGE, dress, new_figure, short, write_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STYLES: Final = ((ORANGE, "--"), (BLUE, "-"))
"""Colour and line style of control and treatment."""
LEAST_VISITS: Final = 20
"""Points of an arm with fewer visits are omitted as too noisy."""


def plot_demo(
    report: Report,
    curves: Mapping[str, Sequence[CurvePoint]],
    shown: Sequence[Mapping[str, Any]],
    window: int,
    path: Path,
) -> None:
    """Write a PNG.

    Args:
        report: the experiment's report.
        curves: learning curve of each arm, over the last ``window`` impressions.
        shown: the curve of the traffic, by visits.
        window: impressions per point of ``curves``.
        path: the file to write.

    Raises:
        UsageError: matplotlib is not installed.
        StreamCTRError: the file cannot be written.
    """
    figure = new_figure(9.0, 10.0)
    loss, difference, value = figure.subplots(3, 1, height_ratios=(1.2, 1.0, 1.0))
    _loss(loss, curves, window)
    _difference(difference, report)
    _value(value, shown, tuple(curves))
    figure.align_ylabels()
    write_figure(figure, path)


def _loss(axes: Axes, curves: Mapping[str, Sequence[CurvePoint]], window: int) -> None:
    for (arm, points), (colour, line) in zip(curves.items(), STYLES, strict=False):
        at = [point.impressions for point in points]
        axes.plot(at, [point.log_loss for point in points], line, color=colour, linewidth=2, label=arm)
    points = list(curves.values())[-1]
    at = [point.impressions for point in points]
    axes.plot(
        at, [point.base_log_loss for point in points], ":", color=GREY, label="running click rate alone"
    )
    best = [point.bayes_log_loss for point in points]
    axes.plot(at, best, "-.", color=GREEN, label="Bayes-optimal")
    axes.set_title("Log loss of the served predictions (prequential)", loc="left", fontsize=12)
    axes.set_ylabel("log loss\n(nats / impression)")
    axes.set_xlabel(f"impressions; each point covers the last {window:,}")
    axes.legend(frameon=False, ncols=2, fontsize=9)
    _dress(axes)


def _difference(axes: Axes, report: Report) -> None:
    axes.axhline(0.0, color=GREY, linewidth=1)
    axes.set_title("Paired difference: both arms predict every impression", loc="left", fontsize=12)
    points = [point for point in report.series if point.final]
    for comparison in report.comparisons:
        drawn = [
            ((point.end_ms - points[0].start_ms) / 1000.0, figure.estimate, figure)
            for point in points
            if (figure := point.comparisons.get(comparison.arm, {}).get("log_loss")) is not None
            and figure.estimate is not None
        ]
        if not drawn:
            continue
        axes.plot([at for at, _, _ in drawn], [estimate for _, estimate, _ in drawn], ".-", color=BLUE)
        sure = [(at, figure.low, figure.high) for at, _, figure in drawn if figure.low is not None]
        if sure:
            at, low, high = (list(column) for column in zip(*sure, strict=True))
            axes.fill_between(at, low, high, color=BLUE, alpha=0.2, label="always-valid interval")
            axes.legend(frameon=False, fontsize=9)
    axes.set_ylabel("log loss, treatment\nminus control")
    axes.set_xlabel("seconds since the first visit; below 0, the treatment predicts better")
    _dress(axes)


def _value(axes: Axes, shown: Sequence[Mapping[str, Any]], arms: Sequence[str]) -> None:
    for arm, (colour, line) in zip(arms, STYLES, strict=False):
        points = [
            (point["visits"], 100.0 * point["arms"][arm]["share_of_way"])
            for point in shown
            if point["arms"].get(arm, {}).get("visits", 0) >= LEAST_VISITS
            and point["arms"][arm]["share_of_way"] is not None
        ]
        axes.plot([at for at, _ in points], [share for _, share in points], line, color=colour, label=arm)
    axes.axhline(100.0, color=GREEN, linestyle="-.", linewidth=1)
    axes.set_title(
        "Value of the shown ads: random candidate (0 %) to best candidate (100 %)", loc="left", fontsize=12
    )
    axes.set_ylabel("expected value (% of\nthe achievable uplift)")
    axes.set_xlabel("visits")
    axes.xaxis.set_major_formatter(lambda value, _: short(value))
    axes.legend(frameon=False, fontsize=9)
    _dress(axes)


def _dress(axes: Axes) -> None:
    dress(axes)
    axes.margins(x=0.01)
