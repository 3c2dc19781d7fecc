"""Progress of one network of an analysis."""

from __future__ import annotations

from collections.abc import Callable

from stream_ctr.reporting.progress import Reporter


def progress_of(reporter: Reporter, what: str, of: int, **names: object) -> Callable[[int], None]:
    """A function that reports how many of ``of`` steps are done, beside the names of what is running."""

    def tell(done: int) -> None:
        reporter.progress(**names, **{what: done}, of=of)

    return tell
