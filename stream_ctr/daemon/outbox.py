"""Records that a daemon writes to the log: dead letters and, in the joining process, labelled records."""

from __future__ import annotations

from typing import Protocol

from stream_ctr.errors import LogError
from stream_ctr.reporting.progress import Reporter


class Writer(Protocol):
    """Appends records to one topic; they wait in memory until they are flushed."""

    @property
    def topic(self) -> str:
        """Where they are appended."""
        ...

    @property
    def waiting(self) -> int:
        """Records that the log has not acknowledged yet."""
        ...

    @property
    def due(self) -> bool:
        """Whether records should be written now."""
        ...

    @property
    def full(self) -> bool:
        """Whether no more records may be added before some are written."""
        ...

    def flush(self) -> None:
        """Append the records that wait.

        Raises:
            LogError: not acknowledged; they still wait.
        """
        ...


class Outbox:
    """The topics that a daemon writes, in the order in which they are flushed."""

    def __init__(self, reporter: Reporter, *writers: Writer) -> None:
        self._reporter, self._writers = reporter, writers

    def write(self) -> bool:
        """Write the records that are due; False while the log refuses them and reading must pause."""
        ready = True
        for writer in self._writers:
            if not writer.due:
                continue
            try:
                writer.flush()
            except LogError as error:
                self._reporter.say(
                    "write-failed", topic=writer.topic, waiting=writer.waiting, reason=str(error)
                )
                ready = ready and not writer.full
        return ready

    def flush(self) -> None:
        """Have the log acknowledge every record: only then may the offsets of their sources be saved.

        Raises:
            LogError: not acknowledged; the records still wait.
        """
        for writer in self._writers:
            writer.flush()
