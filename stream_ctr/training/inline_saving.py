"""Checkpoints of a daemon whose state is small: it stands still while one is written."""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Final, Protocol

from stream_ctr.daemon.resume import Resumable
from stream_ctr.daemon.state_folder import Opening
from stream_ctr.errors import LogError, StateError
from stream_ctr.reporting.progress import Reporter
from stream_ctr.state.state import State

RETRY_SECONDS: Final = 5.0
"""Longest time until a checkpoint that failed is tried again."""


class Savable(Resumable, Protocol):
    """What a checkpoint is taken of."""

    def parts(self) -> dict[str, State]:
        """Everything that decides what comes next."""
        ...


class InlineSaver:
    """Writes the checkpoints of one run.

    Args:
        opening: the state that the run goes on from.
        reporter: told of what failed.
        every_seconds: time between two of them.
        flush: called before each: what must be in the log before the offsets behind it are saved.
    """

    def __init__(
        self,
        opening: Opening[Savable],
        reporter: Reporter,
        every_seconds: float,
        flush: Callable[[], None] = lambda: None,
    ) -> None:
        self._opening, self._reporter, self._flush = opening, reporter, flush
        self._every_seconds = every_seconds
        self._due = time.monotonic() + every_seconds

    def now(self) -> None:
        """Write the state of everything applied so far.

        Raises:
            OSError: the file system refuses; the checkpoints before are untouched.
            LogError: the log did not acknowledge what waits.
        """
        self._flush()
        opening, pipeline = self._opening, self._opening.core.pipeline
        opening.store.save(
            opening.core.parts(),
            created_ms=time.time_ns() // 1_000_000,
            software=f"stream-ctr {version('stream-ctr')}",
            identity=opening.identity,
            log=opening.log,
            positions=[(*tp, offset) for tp, offset in sorted(pipeline.positions().items())],
            emitted=pipeline.order_state().emitted,
            segments=pipeline.joiner.segments(),
        )
        try:
            opening.journal.trim(opening.store.oldest_emitted())
        except StateError as error:
            # The journal only stays longer than it must; the checkpoint is complete.
            self._reporter.say("journal-not-trimmed", reason=str(error))

    def when_due(self) -> None:
        """Write one if it is time. It may fail: the daemon goes on, and it is tried again."""
        if time.monotonic() < self._due:
            return
        self._due = time.monotonic() + self._every_seconds
        try:
            self.now()
        except (OSError, LogError) as error:
            self._due = time.monotonic() + min(RETRY_SECONDS, self._every_seconds)
            self._reporter.say("checkpoint-failed", reason=str(error))
