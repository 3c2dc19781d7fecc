"""Plots the learning curve."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from stream_ctr.errors import UsageError
from stream_ctr.metrics.curve import CurvePoint
from stream_ctr.reporting.figure import BLUE, GREEN, GREY, ORANGE, dress, new_figure, short, write_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot_curve(points: Sequence[CurvePoint], path: str | os.PathLike[str], title: str, window: int) -> None:
    """Write a PNG with log loss, AUC and calibration along the stream.

    The log loss is drawn with those of the running base rate and, if known, of the ground truth. ``title``
    names dataset, arm and model; each point covers the last ``window`` impressions.

    Raises:
        UsageError: matplotlib is not installed, or the curve has no points.
        StreamCTRError: the file cannot be written.
    """
    figure = new_figure(9.0, 8.0)

    from matplotlib.transforms import ScaledTranslation

    if not points:
        raise UsageError(f"{path}: the learning curve has no points yet; run over more impressions")
    loss, ranking, calibration = figure.subplots(3, 1, sharex=True, height_ratios=(2.0, 1.0, 1.0))
    _loss(loss, points)
    _ranking(ranking, points)
    _calibration(calibration, points)
    calibration.set_xlabel("impressions scored")
    calibration.xaxis.set_major_formatter(lambda value, _: short(value))
    # Both lines of the heading align with the left edge of the axes.
    loss.set_title(title, loc="left", fontsize=14, pad=24)
    loss.text(
        0.0,
        1.0,
        f"progressive validation, each point covers the last {window:,} impressions",
        transform=loss.transAxes + ScaledTranslation(0, 8 / 72, figure.dpi_scale_trans),
        fontsize=10,
        color=GREY,
    )
    figure.align_ylabels()
    write_figure(figure, path)


def _loss(axes: Axes, points: Sequence[CurvePoint]) -> None:
    at = [point.impressions for point in points]
    axes.plot(at, [p.base_log_loss for p in points], "--", color=GREY, label="running base rate")
    axes.plot(at, [p.log_loss for p in points], "-", color=BLUE, linewidth=2, label="model")
    if any(math.isfinite(p.bayes_log_loss) for p in points):
        optimum = [p.bayes_log_loss for p in points]
        axes.plot(at, optimum, "-.", color=GREEN, label="Bayes-optimal (ground truth)")
    axes.set_ylabel("log loss (nats / impression)")
    axes.legend(frameon=False, loc="best")
    _dress(axes)


def _ranking(axes: Axes, points: Sequence[CurvePoint]) -> None:
    axes.plot([p.impressions for p in points], [p.auc for p in points], color=BLUE, linewidth=2)
    axes.set_ylabel("AUC")
    _dress(axes)


def _calibration(axes: Axes, points: Sequence[CurvePoint]) -> None:
    axes.axhline(1.0, color=GREY, linestyle="--", linewidth=1, label="_one")
    values = [p.calibration for p in points]
    axes.plot([p.impressions for p in points], values, color=ORANGE, linewidth=2)
    axes.set_ylabel("calibration\n(predicted / clicks)")
    # The first points may be far from 1; scale the axis by the other points, around 1.
    known = sorted(abs(value - 1.0) for value in values if math.isfinite(value))
    if known:
        reach = max(0.1, 1.3 * known[int(0.9 * (len(known) - 1))])
        axes.set_ylim(1.0 - min(reach, 1.0), 1.0 + reach)
    _dress(axes)


def _dress(axes: Any) -> None:
    for line in axes.lines:
        # A line through a single point, or between undefined ones, is invisible without markers.
        if len(line.get_xdata()) < 30 and line.get_label() != "_one":
            line.set_marker(".")
    dress(axes)
    axes.margins(x=0.01)
