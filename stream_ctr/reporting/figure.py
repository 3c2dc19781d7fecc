"""Figures: creation, one palette and style for all plots, and writing to PNG."""

from __future__ import annotations

import importlib.util
import os
from typing import TYPE_CHECKING, Final, Literal

from stream_ctr.errors import StreamCTRError, UsageError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MISSING = "plots need matplotlib; install it with: pip install 'stream-ctr[plots]'"

BLUE: Final = "#0072B2"
ORANGE: Final = "#D55E00"
GREEN: Final = "#009E73"
GREY: Final = "#595959"
BLACK: Final = "#000000"

COLOURS: Final = (BLUE, ORANGE, GREEN, "#CC79A7", "#E69F00", "#56B4E9", BLACK, GREY)
"""Okabe and Ito's palette, distinguishable with any colour vision; vary markers or line styles as well."""
MARKERS: Final = ("o", "s", "^", "D", "v", "P", "X", "*")
LINE_STYLES: Final = ("-", "--", "-.", ":")


def why_no_pictures() -> str | None:
    """The reason why plots are unavailable and what to install; None if they are. Imports nothing heavy."""
    return _MISSING if importlib.util.find_spec("matplotlib") is None else None


def require_pictures() -> None:
    """Fail before a long job whose plot could not be drawn.

    Raises:
        UsageError: matplotlib is not installed.
    """
    reason = why_no_pictures()
    if reason is not None:
        raise UsageError(reason)


def new_figure(width: float, height: float, *, dpi: int = 150) -> Figure:
    """A figure without pyplot: no global state, no display, safe in any thread. Sizes in inches.

    Raises:
        UsageError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise UsageError(_MISSING) from None
    figure = Figure(figsize=(width, height), dpi=dpi, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def dress(axes: Axes, grid: Literal["both", "x", "y"] = "both") -> None:
    """Draw a light grid behind the data and remove the top and right spines."""
    axes.grid(visible=True, axis=grid, color="#E5E5E5", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def write_figure(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Write the figure as a PNG.

    Raises:
        StreamCTRError: the file cannot be written.
    """
    try:
        figure.savefig(path, format="png")
    except OSError as error:
        raise StreamCTRError(f"cannot write the plot {path}: {error.strerror or error}") from None


def short(count: float) -> str:
    """A count as an axis label.

    >>> [short(n) for n in (0, 500, 80_000, 2_500_000)]
    ['0', '500', '80k', '2.5M']
    """
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(count) >= size:
            return f"{count / size:g}{unit}"
    return f"{count:g}"


def panels(rows: int, columns: int, title: str, subtitle: str) -> tuple[Figure, list[Axes]]:
    """A figure with a grid of panels and one heading."""
    figure = new_figure(4.6 * columns, 3.6 * rows + 0.7, dpi=130)
    figure.suptitle(f"{title}\n{subtitle}", fontsize=11)
    axes = figure.subplots(rows, columns, squeeze=False)
    return figure, list(axes.flat)


def dress_panel(axes: Axes, title: str, x: str, y: str) -> None:
    """Set titles and grid of one panel; call after its scales are set."""
    from matplotlib.ticker import NullFormatter

    axes.set_title(title, loc="left", fontsize=10)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    dress(axes)
    if axes.get_xscale() == "log":  # labels between the powers of ten would overlap
        axes.xaxis.set_minor_formatter(NullFormatter())


def plain_number(value: float, _: object) -> str:
    """A tick label of a logarithmic axis, without an exponent.

    >>> plain_number(100.0, None)
    '100'
    """
    return f"{value:g}"
