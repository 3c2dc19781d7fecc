"""Checkpoints of a trainer: when they are due, what goes into one, and what becomes of it.

The loop hands over the state of one position; it is written in another thread while learning goes on. A
checkpoint that cannot be written stops no learning: its age shows, and it is tried again.

A daemon with a small state stands still while a checkpoint is written.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

from stream_ctr.daemon.background import Background
from stream_ctr.daemon.checkpoint import SEGMENTS, CheckpointStore
from stream_ctr.daemon.resume import Resumable
from stream_ctr.daemon.state_folder import Opening
from stream_ctr.errors import LogError, StateError
from stream_ctr.events.dead_letters import DeadLetters
from stream_ctr.pipeline.joining.segments import names_in, remove_others
from stream_ctr.pipeline.ordering.journal import FileJournal
from stream_ctr.reporting.progress import Reporter
from stream_ctr.state.frozen import FrozenState
from stream_ctr.state.state import State

RETRY_SECONDS: Final = 5.0
"""Longest time until a checkpoint that failed is tried again."""


class Saved(NamedTuple):
    """A checkpoint that is durable."""

    version: int
    created_ms: int


class Freezable(Resumable, Protocol):
    """What :class:`Saver` takes checkpoints of: it goes on while one is written."""

    rebuilds: bool
    """Whether the learner has no state: a start learns the log again."""

    def freeze(self) -> dict[str, FrozenState]:
        """Everything that decides what comes next, to be written in another thread."""
        ...


class Saver:
    """Writes the checkpoints of one run.

    Args:
        store: where they go.
        core: what is saved.
        identity, place: what the state belongs to, for the manifest.
        dead_letters: acknowledged before their offsets are saved.
        journal: cut before what every checkpoint holds.
        every_seconds: time between two of them.
        settle: called before the state is taken, so that all of it is of one position.
        on_saved: told the time of each that is durable.
    """

    def __init__(
        self,
        store: CheckpointStore,
        core: Freezable,
        identity: dict[str, Any],
        place: dict[str, Any],
        dead_letters: DeadLetters,
        journal: FileJournal,
        reporter: Reporter,
        every_seconds: float,
        settle: Callable[[], None],
        on_saved: Callable[[int], None],
    ) -> None:
        self._store, self._core, self._identity, self._place = store, core, identity, place
        self._dead_letters, self._journal, self._reporter = dead_letters, journal, reporter
        self._settle, self._on_saved = settle, on_saved
        self._every_seconds = every_seconds
        self._due = time.monotonic() + every_seconds
        self._writing = Background[Saved]("checkpoint")
        self.newest: Path = store.folder.parent
        """Folder of the newest checkpoint."""

    def now(self) -> None:
        """Write the state of everything applied so far, and wait until it is durable.

        Raises:
            OSError: the file system refuses; the checkpoints before are untouched.
            LogError: dead letters are not acknowledged: without that their offsets must not be saved.
        """
        self._end()
        self._saved(self._begin()())

    def when_due(self) -> None:
        """Begin a checkpoint if it is time, and take in what became of the one before."""
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
        """Wait for the thread's end."""
        self._writing.close()

    def _begin(self) -> Callable[[], Saved]:
        """The state of everything applied so far, and what writes it, in any thread."""
        self._settle()
        self._dead_letters.flush()
        pipeline, store = self._core.pipeline, self._store
        if self._core.rebuilds and pipeline.applied:
            used = {segment.name for segment in pipeline.joiner.segments()}
            unused = [name for name in names_in(store.folder / SEGMENTS) if name not in used]
            return partial(self._unchanged, unused)
        created_ms = time.time_ns() // 1_000_000
        positions = [(*tp, offset) for tp, offset in sorted(pipeline.positions().items())]
        emitted = pipeline.order_state().emitted
        segments = pipeline.joiner.segments()
        # What the joiner writes from here on is not this checkpoint's to judge.
        removable = names_in(store.folder / SEGMENTS)
        parts = self._core.freeze()

        def write() -> Saved:
            with FrozenState.gather(parts):
                manifest = store.save(
                    parts,
                    created_ms=created_ms,
                    software=f"stream-ctr {version('stream-ctr')}",
                    identity=self._identity,
                    log=self._place,
                    positions=positions,
                    emitted=emitted,
                    segments=segments,
                    removable=removable,
                )
            return Saved(manifest.version, created_ms)

        return write

    def _unchanged(self, unused: list[str]) -> Saved:
        """A learner without a state goes on from the checkpoint of its beginning; the joiner's files that
        are no longer used go."""
        store = self._store
        remove_others(store.folder / SEGMENTS, unused, (), store.files)
        manifest = store.manifest(store.versions()[-1])
        return Saved(manifest.version, manifest.created_ms)

    def _end(self) -> None:
        """Take in what became of the checkpoint that is being written, if there is one."""
        try:
            saved = self._writing.take()
        except OSError as error:
            self._failed(error)
            return
        if saved is not None:
            self._saved(saved)

    def _saved(self, saved: Saved) -> None:
        """A checkpoint is durable: show it, and let go of the decisions that lie before all of them."""
        self.newest = self._store.path(saved.version)
        self._on_saved(saved.created_ms)
        try:
            self._journal.trim(self._store.oldest_emitted())
        except StateError as error:
            # The journal only stays longer than it must; the checkpoint is complete.
            self._reporter.say("journal-not-trimmed", reason=str(error))

    def _failed(self, error: Exception) -> None:
        self._due = time.monotonic() + min(RETRY_SECONDS, self._every_seconds)
        self._reporter.say("checkpoint-failed", reason=str(error), newest=str(self.newest))


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
