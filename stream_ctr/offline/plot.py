"""The learning curves of a batch run as a picture."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from stream_ctr.reporting.figure import BLUE, GREEN, GREY, ORANGE, dress, new_figure, write_figure

if TYPE_CHECKING:
    from stream_ctr.offline.fit import Fit

COLOURS: Final = (BLUE, ORANGE, GREEN, "#CC79A7", "#E69F00", "#56B4E9", GREY)


def plot_fits(fits: Mapping[str, Fit], path: str | os.PathLike[str], title: str) -> None:
    """Write a PNG: log loss of training and validation rows, and validation AUC, by epoch.

    Raises:
        UsageError: matplotlib is not installed.
        StreamCTRError: the file cannot be written.
    """
    figure = new_figure(9.0, 7.5)

    from matplotlib.ticker import MaxNLocator

    loss, ranking = figure.subplots(2, 1, sharex=True)
    for number, (name, fit) in enumerate(fits.items()):
        colour = COLOURS[number % len(COLOURS)]
        at = [epoch.epoch for epoch in fit.epochs]
        loss.plot(at, [e.training_log_loss for e in fit.epochs], "--", marker=".", color=colour)
        loss.plot(at, [e.validation.log_loss for e in fit.epochs], "-", marker=".", color=colour, label=name)
        ranking.plot(at, [e.validation.auc for e in fit.epochs], "-", marker=".", color=colour, label=name)
        best = fit.best
        ranking.plot([best.epoch], [best.validation.auc], "o", color=colour, markersize=9, fillstyle="none")
        loss.plot([best.epoch], [best.validation.log_loss], "o", color=colour, markersize=9, fillstyle="none")
    loss.set_title(title, loc="left", fontsize=13)
    loss.set_ylabel("log loss (nats / row)\nvalidation; dashed: training")
    ranking.set_ylabel("validation AUC\n(circle: the epoch that is kept)")
    ranking.set_xlabel("epoch")
    ranking.xaxis.set_major_locator(MaxNLocator(integer=True))
    loss.legend(frameon=False, fontsize=9)
    for axes in (loss, ranking):
        dress(axes)
    write_figure(figure, path)
