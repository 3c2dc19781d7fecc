"""The closed set of errors that Stream CTR raises on purpose.

Every message names the fault, the value, the place and the remedy. The command line prints the message as
one line and exits with the class's ``exit_status``; a traceback is a bug.
"""

from __future__ import annotations

from typing import ClassVar


def printable(text: str) -> str:
    """Escape control characters, which a terminal would interpret.

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
    """A configuration file or environment variable holds an invalid value."""


class DataError(StreamCTRError):
    """A dataset file cannot be read, or one of its lines does not match the format."""


class NothingUsedError(StreamCTRError):
    """The log was read to its end and held records, but not one usable impression."""


class RowError(DataError):
    """One row of a dataset file does not match the format; a reader may skip it."""

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
        """What is wrong, without the value: identical for all rows with the same fault."""
        super().__init__(f"{self.fault}; {remedy}")


class RecordError(StreamCTRError):
    """One record of the log is malformed; it goes to the dead letters with this reason."""


class LogError(StreamCTRError):
    """The event log is unreachable, lacks a topic, or contradicts the saved state."""


class LogUnavailableError(LogError):
    """The event log is unavailable; a daemon waits until it answers."""


class OffsetRangeError(LogError):
    """Saved offsets lie outside the range that the log still holds, or belong to another log."""


class PartitionsAddedError(LogError):
    """A topic's partition count changed since reading began; a daemon saves its state and stops."""


class StateError(StreamCTRError):
    """A checkpoint or snapshot is missing, damaged, locked, or belongs to another model."""


class ModelError(UsageError):
    """A model, optimizer or learner is unknown, or they cannot be combined."""
