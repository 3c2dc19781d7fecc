"""Limits in bytes for readers of the log. A limit on the number of entries alone does not bound memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

from stream_ctr.config.log import MAX_BATCH_BYTES

ENTRY_BYTES: Final = 256
"""Memory of an entry in addition to its own bytes: a tuple, numbers, object headers."""


@dataclass(frozen=True, slots=True)
class ReadLimits:
    """Limits of a reader. All sizes are in bytes."""

    record: int = 33 * 1024 * 1024
    """Largest record whose key, value and headers are read. The entry of a larger record holds only
    :class:`Unread`. The default exceeds the limit of :meth:`EventLog.append`."""
    batch: int = MAX_BATCH_BYTES
    """Largest record batch after decompression. A larger one becomes a single entry without key and value."""
    poll: int = 16 * 1024 * 1024
    """Total size of the entries that one poll returns. The entry that exceeds it is the last one."""


DEFAULT_LIMITS: Final = ReadLimits()


class Unread(NamedTuple):
    """Why a reader did not read a record."""

    reason: str
    size_bytes: int
    """Size of the record, or of the record batch, in the log."""


def too_large(size_bytes: int, limit: int) -> Unread:
    """The marker for a record above the limit."""
    reason = f"the record has {size_bytes} bytes, more than the limit of {limit}; it was not read"
    return Unread(reason, size_bytes)
