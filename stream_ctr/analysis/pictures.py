"""Pictures of the analyses: a figure of panels, dressed alike, for PNGs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from stream_ctr.metrics.plot import BLUE, GREEN, GREY, ORANGE
from stream_ctr.reporting.figure import dress as dress_axes
from stream_ctr.reporting.figure import new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS: Final = (BLUE, ORANGE, GREEN, "#CC79A7", "#E69F00", "#56B4E9", "#000000", GREY)
"""Okabe and Ito's palette, told apart with any colour vision; markers differ as well."""
MARKERS: Final = ("o", "s", "^", "D", "v", "P", "X", "*")


def panels(rows: int, columns: int, title: str, subtitle: str) -> tuple[Figure, list[Axes]]:
    """A figure of panels under one heading."""
    figure = new_figure(4.6 * columns, 3.6 * rows + 0.7, dpi=130)
    figure.suptitle(f"{title}\n{subtitle}", fontsize=11)
    axes = figure.subplots(rows, columns, squeeze=False)
    return figure, list(axes.flat)


def dress(axes: Axes, title: str, x: str, y: str) -> None:
    """Titles and grid of one panel, after its scales are set."""
    from matplotlib.ticker import NullFormatter

    axes.set_title(title, loc="left", fontsize=10)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    dress_axes(axes)
    if axes.get_xscale() == "log":  # labels between the powers of ten run into each other
        axes.xaxis.set_minor_formatter(NullFormatter())


def plain_number(value: float, _: object) -> str:
    """A tick of a logarithmic axis as people write it.

    >>> plain_number(100.0, None)
    '100'
    """
    return f"{value:g}"
