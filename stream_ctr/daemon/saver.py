"""Schedules and writes the checkpoints of a daemon.

The loop passes the state of one position; a background thread writes it while the loop continues. A failed
checkpoint does not stop the daemon: it is reported and tried again, and metrics show the age of the newest.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Final, NamedTuple, Protocol

from stream_ctr.daemon.background import Background
from stream_ctr.daemon.checkpoint import SEGMENTS
from stream_ctr.daemon.resume import Resumable
from stream_ctr.daemon.state_folder import Opening
from stream_ctr.errors import LogError, StateError
from stream_ctr.pipeline.joining.segments import names_in, remove_others
from stream_ctr.reporting.progress import Reporter
from stream_ctr.state.frozen import FrozenState

RETRY_SECONDS: Final = 5.0
"""Longest time in seconds until a failed checkpoint is tried again."""


class Saved(NamedTuple):
    """A durable checkpoint."""

    version: int
    created_ms: int


class Savable(Resumable, Protocol):
    """The state of a daemon, of which checkpoints are written while it runs."""

    @property
    def unfinished(self) -> bool:
        """Whether the end of the log would change the state, because a window is open."""
        ...

    def freeze(self) -> dict[str, FrozenState]:
        """The complete state, to be written in another thread."""
        ...


class Saver:
    """Writes the checkpoints of one run.

    Args:
        opening: the opened state; its core is saved to its store.
        reporter: reports failures.
        every_seconds: interval between checkpoints.
        settle: called before the state is read; brings all its parts to one position, and waits until the log
            has acknowledged every record that was written because of entries before that position.
        rebuilds: whether the learner has no saved state, so that every start learns the log again.
    """

    def __init__(
        self,
        opening: Opening[Savable],
        reporter: Reporter,
        every_seconds: float,
        settle: Callable[[], None] = lambda: None,
        *,
        rebuilds: bool = False,
    ) -> None:
        self._opening, self._reporter, self._settle, self._rebuilds = opening, reporter, settle, rebuilds
        self._every_seconds = every_seconds
        self._due = time.monotonic() + every_seconds
        self._writing = Background[Saved]("checkpoint")
        self.newest: Path = opening.store.folder.parent
        """Folder of the newest checkpoint; the state folder before the first one."""
        self.created_ms: int | None = None
        """When the newest checkpoint was made; None before the first one."""
        if opening.loaded is not None:
            manifest = opening.loaded.manifest
            self._note(Saved(manifest.version, manifest.created_ms))

    def now(self) -> None:
        """Write the state of everything applied so far, and wait until it is durable.

        Raises:
            OSError: the file system failed; earlier checkpoints are untouched.
            LogError: the log did not acknowledge records whose offsets would be saved.
        """
        self._end()
        self._saved(self._begin()())

    def when_due(self) -> None:
        """Begin a checkpoint if it is due, and collect the result of the previous one."""
        if self._writing.done:
            self._end()
        if self._writing.busy or time.monotonic() < self._due:
            return
        self._due = time.monotonic() + self._every_seconds
        try:
            self._writing.start(self._begin())
        except (OSError, LogError) as error:
            self._failed(error)

    def close(self) -> None:
        """Wait until the background thread has ended."""
        self._writing.close()

    def _begin(self) -> Callable[[], Saved]:
        """Freeze the state of everything applied so far; returns a function that writes it, in any thread."""
        self._settle()
        opening, stage, store = self._opening, self._opening.core.stage, self._opening.store
        segments = stage.segments()
        if self._rebuilds and stage.progress.applied:
            used = {segment.name for segment in segments}
            unused = [name for name in names_in(store.folder / SEGMENTS) if name not in used]
            return partial(self._unchanged, unused)
        created_ms = time.time_ns() // 1_000_000
        positions = [(*tp, offset) for tp, offset in sorted(stage.progress.positions().items())]
        emitted = stage.progress.applied
        # Segments that the joiner writes from now on must not be removed by this checkpoint.
        removable = names_in(store.folder / SEGMENTS)
        parts = opening.core.freeze()

        def write() -> Saved:
            with FrozenState.gather(parts):
                manifest = store.save(
                    parts,
                    created_ms=created_ms,
                    software=f"stream-ctr {version('stream-ctr')}",
                    identity=opening.identity,
                    log=opening.log,
                    positions=positions,
                    emitted=emitted,
                    segments=segments,
                    removable=removable,
                )
            return Saved(manifest.version, created_ms)

        return write

    def _unchanged(self, unused: list[str]) -> Saved:
        """Keep the checkpoint of the start, from which a learner without saved state always resumes.

        Removes unused files of the joiner.
        """
        store = self._opening.store
        remove_others(store.folder / SEGMENTS, unused, (), store.files)
        manifest = store.manifest(store.versions()[-1])
        return Saved(manifest.version, manifest.created_ms)

    def _end(self) -> None:
        """Wait for the checkpoint that is being written, if any, and collect its result."""
        try:
            saved = self._writing.take()
        except OSError as error:
            self._failed(error)
            return
        if saved is not None:
            self._saved(saved)

    def _saved(self, saved: Saved) -> None:
        """Record a durable checkpoint, and trim journal decisions that precede every kept checkpoint."""
        self._note(saved)
        try:
            self._opening.journal.trim(self._opening.store.oldest_emitted())
        except StateError as error:
            # The checkpoint is complete; the journal only stays longer than necessary.
            self._reporter.say("journal-not-trimmed", reason=str(error))

    def _note(self, saved: Saved) -> None:
        self.newest, self.created_ms = self._opening.store.path(saved.version), saved.created_ms

    def _failed(self, error: Exception) -> None:
        self._due = time.monotonic() + min(RETRY_SECONDS, self._every_seconds)
        self._reporter.say("checkpoint-failed", reason=str(error), newest=str(self.newest))
