"""The records that a daemon writes to the log: dead letters and, in the joining process, labelled records."""

from __future__ import annotations

from typing import Protocol

from stream_ctr.errors import LogError
from stream_ctr.reporting.progress import Reporter


class Writer(Protocol):
    """Appends records to one topic; they are kept in memory until they are flushed."""

    @property
    def topic(self) -> str:
        """The topic's name."""
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
        """Whether reading must pause until some records are written."""
        ...

    def flush(self) -> None:
        """Append all records in memory.

        Raises:
            LogError: the log did not acknowledge them; they stay in memory.
        """
        ...


class Outbox:
    """The writers of a daemon, in the order in which they are flushed."""

    def __init__(self, reporter: Reporter, *writers: Writer) -> None:
        self._reporter, self._writers = reporter, writers

    def write(self) -> bool:
        """Write the records that are due; False if a write failed and reading must pause.

        A failure is reported; the next call tries again.
        """
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
        """Write all records: only after that may the offsets of their sources be saved.

        Raises:
            LogError: the log did not acknowledge them; they stay in memory.
        """
        for writer in self._writers:
            writer.flush()
