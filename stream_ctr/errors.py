"""The closed set of errors that Stream CTR raises on purpose.

Every message says what is wrong, which value, where, and what to do about it. The command line prints
the message as one line and exits with the class's ``exit_status``; a traceback is a defect.
"""

from __future__ import annotations

from typing import ClassVar


def printable(text: str) -> str:
    """The text with escapes for control characters, which would act on a terminal.

    >>> printable("a\\x1b[2Jb")
    'a\\\\x1b[2Jb'
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class StreamCTRError(Exception):
    """Root of all errors that a user, a file, a log or a machine can cause."""

    exit_status: ClassVar[int] = 1


class UsageError(StreamCTRError):
    """The command line or a combination of options is wrong."""

    exit_status: ClassVar[int] = 2


class ConfigError(UsageError):
    """A configuration file or environment variable holds something unusable."""


class DataError(StreamCTRError):
    """A dataset file cannot be read, or a line of it is not what its format says."""


class NothingUsedError(StreamCTRError):
    """A log with records was read to its end, and not one impression of it was of use."""


class RowError(DataError):
    """One row of a dataset file is not what its format says; a reader may skip it."""

    def __init__(
        self,
        path: object,
        line: int,
        what: str,
        reason: str,
        remedy: str = "correct or remove the line, or skip bad rows with --option on_bad_row=skip",
    ) -> None:
        self.path = str(path)
        self.line = line
        self.fault = f"{path}, line {line}{what}"
        """What is wrong and where, without the remedy."""
        self.reason = reason
        """What is wrong, in the same words for every row with the same fault."""
        super().__init__(f"{self.fault}; {remedy}")


class RecordError(StreamCTRError):
    """One record of the log is malformed; it goes to the dead letters with this reason."""


class LogError(StreamCTRError):
    """The event log is unreachable, lacks a topic, or contradicts what was saved about it."""


class LogAwayError(LogError):
    """The event log does not answer; a daemon waits for it."""


class OffsetRangeError(LogError):
    """Saved offsets lie outside what the log still holds, or belong to another log."""


class PartitionsAddedError(LogError):
    """A topic has other partitions than when reading began: a daemon saves its state and stops."""


class StateError(StreamCTRError):
    """A checkpoint or snapshot is missing, damaged, locked, or belongs to another model."""


class ModelError(UsageError):
    """A model, optimizer and learner that do not go together, or an unknown name of one."""
