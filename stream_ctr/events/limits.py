"""How many bytes a reader of the log may take at once. Numbers of entries alone bound no memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

from stream_ctr.config.log import MAX_BATCH_BYTES

ENTRY_BYTES: Final = 256
"""What an entry costs in memory in addition to its own bytes: a tuple, numbers, object headers."""


@dataclass(frozen=True, slots=True)
class ReadLimits:
    """What a reader of the log does not exceed. All sizes are in bytes."""

    record: int = 33 * 1024 * 1024
    """Largest record whose key, value and headers are read. Of a larger one the entry holds only
    :class:`Unread`. The default exceeds what :meth:`EventLog.append` accepts."""
    batch: int = MAX_BATCH_BYTES
    """Largest record batch after decompression. A larger one becomes a single entry without key and value."""
    poll: int = 16 * 1024 * 1024
    """Entries that one poll returns, together. The entry that exceeds it is the last one."""


DEFAULT_LIMITS: Final = ReadLimits()


class Unread(NamedTuple):
    """Why a reader left a record in the log."""

    reason: str
    size_bytes: int
    """What the record, or the record batch, takes in the log."""


def too_large(size_bytes: int, limit: int) -> Unread:
    """What an entry says in place of a record above the limit."""
    return Unread(f"the record has {size_bytes} bytes, more than {limit}: it is not read", size_bytes)
