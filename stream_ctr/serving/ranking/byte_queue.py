"""A queue bounded in items and in bytes."""

from __future__ import annotations

import queue
from collections.abc import Callable
from typing import Final, Generic, TypeVar

from stream_ctr.events.log import Record

T = TypeVar("T")
OVERHEAD_BYTES: Final = 300
"""Memory of a record besides its key and value: Python objects and queue entry."""


def size_of(record: Record) -> int:
    """Memory of a record in bytes.

    >>> size_of(Record(b"key", b"value", 0)) - OVERHEAD_BYTES
    8
    """
    return OVERHEAD_BYTES + len(record.key or b"") + len(record.value or b"")


class ByteQueue(queue.Queue[T], Generic[T]):
    """A queue that counts the bytes of an item from ``put`` until :meth:`release`, so that items which the
    consumer is still processing count as well.

    >>> waiting = ByteQueue[bytes](capacity=10, capacity_bytes=5, size=len)
    >>> waiting.put_nowait(b"abc")
    >>> waiting.get_nowait(), waiting.bytes
    (b'abc', 3)
    >>> waiting.release(b"abc")
    >>> waiting.bytes
    0
    """

    def __init__(self, capacity: int, capacity_bytes: int, size: Callable[[T], int]) -> None:
        super().__init__(capacity)
        self.bytes = 0
        """Size of all items that were put and not released."""
        self._capacity_bytes = capacity_bytes
        self._size = size

    def release(self, item: T) -> None:
        """Subtract the size of an item that the consumer has finished with."""
        with self.mutex:
            self.bytes -= self._size(item)

    def _put(self, item: T) -> None:
        """Called with the mutex held. Raises queue.Full if the item exceeds the capacity in bytes."""
        size = self._size(item)
        if self.bytes + size > self._capacity_bytes:
            raise queue.Full
        self.bytes += size
        super()._put(item)
