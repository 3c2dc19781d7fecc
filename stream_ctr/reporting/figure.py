"""A figure to draw on, and its way into a PNG; how panels are dressed."""

from __future__ import annotations

import importlib.util
import os
from typing import TYPE_CHECKING

from stream_ctr.errors import StreamCTRError, UsageError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MISSING = "plots need matplotlib; install it with: pip install 'stream-ctr[plots]'"


def why_no_pictures() -> str | None:
    """Why no picture can be drawn here, and what to do; None where one can. Nothing is imported to look."""
    return _MISSING if importlib.util.find_spec("matplotlib") is None else None


def require_pictures() -> None:
    """Refuse a job that is to end with a picture before it begins.

    Raises:
        UsageError: matplotlib is not installed.
    """
    reason = why_no_pictures()
    if reason is not None:
        raise UsageError(reason)


def new_figure(width: float, height: float, *, dpi: int = 150) -> Figure:
    """A figure of its own, not pyplot's: no global state, no display, safe in any thread. Sizes in inches.

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


def dress(axes: Axes) -> None:
    """A light grid behind the data, and no frame above and to the right of it."""
    axes.grid(visible=True, color="#E5E5E5", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def write_figure(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Write the PNG.

    Raises:
        StreamCTRError: the file cannot be written.
    """
    try:
        figure.savefig(path, format="png")
    except OSError as error:
        raise StreamCTRError(f"cannot write the plot {path}: {error.strerror or error}") from None
