"""The closed set of errors that Stream CTR raises on purpose.

Every message says what is wrong, which value, where, and what to do about it. The command line prints
the message as one line and exits with the class's ``exit_status``; a traceback is a defect.
"""

from __future__ import annotations

from typing import ClassVar


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
