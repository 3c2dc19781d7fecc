"""Progress of a long job: a live table on a terminal, structured JSON lines elsewhere."""

from __future__ import annotations

import contextlib
import io
import json
import math
import sys
import time
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, TextIO

from rich.console import Console
from rich.live import Live
from rich.table import Table

from stream_ctr.errors import printable


class Reporter:
    """Reports events and progress of one job on standard error.

    On a terminal, progress is a small live table; elsewhere it is one JSON line every ``line_seconds``, for
    log collectors. Each event is one line in both cases.
    """

    def __init__(
        self, job: str, *, stream: TextIO | None = None, line_seconds: float = 10.0, quiet: bool = False
    ) -> None:
        self._job = job
        self._stream = stream or sys.stderr or io.StringIO()  # standard error may have been closed
        self._console = Console(file=self._stream)
        self._terminal = self._stream.isatty()
        self._line_seconds = line_seconds
        self._quiet = quiet
        self._last = time.monotonic()
        self._live: Live | None = None

    def __enter__(self) -> Reporter:
        if self._terminal and not self._quiet:
            self._live = Live(console=self._console, refresh_per_second=4, transient=False)
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def say(self, event: str, **values: Any) -> None:
        """Report one event with its values."""
        if self._terminal:
            shown = "  ".join(f"{name}={_text(value)}" for name, value in values.items())
            self._console.print(f"{self._job}: {event}  {shown}".rstrip(), markup=False, highlight=False)
        else:
            self._line(event, values)

    def progress(self, **values: Any) -> None:
        """Report the current state of the job; cheap enough to call after every chunk."""
        if self._quiet:
            return
        if self._live is not None:
            self._live.update(self._table(values))
        elif time.monotonic() - self._last >= self._line_seconds:
            self._last = time.monotonic()
            self._line("progress", values)

    def _line(self, event: str, values: dict[str, Any]) -> None:
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        known = {name: _finite(value) for name, value in values.items()}
        line = {"time": now, "job": self._job, "event": event, **known}
        with contextlib.suppress(OSError):  # a log collector that is gone must not end the job
            print(json.dumps(line, default=str), file=self._stream, flush=True)

    def _table(self, values: dict[str, Any]) -> Table:
        table = Table.grid(padding=(0, 2))
        for name, value in values.items():
            table.add_row(name.replace("_", " "), _text(value))
        return table


def _finite(value: Any) -> Any:
    """The value, or None if it is not finite, which JSON cannot represent."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.4f}" if abs(value) < 100 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else printable(str(value))
