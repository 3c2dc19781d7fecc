"""External merge sort of examples by time: files of any size in bounded memory.

Examples are collected up to ``memory_bytes``, sorted, and written to a temporary file (a run). ``FAN_IN``
runs of one level are merged into one run of the next level, which bounds the number of open files as well.
The order is by time, then by position in the file. It depends on the data alone, so a repeated or resumed
run gives the same sequence. Event ids are those of the unsorted file.
"""

from __future__ import annotations

import heapq
import struct
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Final, NamedTuple

import msgspec

from stream_ctr.datasets.base import Example
from stream_ctr.errors import UsageError

MEMORY_BYTES: Final = 64 << 20
"""Memory for the examples of one run."""
FAN_IN: Final = 32
"""Runs merged at a time; each has an open file and a buffer."""
_BUFFER_BYTES: Final = 1 << 17
_OVERHEAD_BYTES: Final = 250
"""Memory of an entry besides its payload: a tuple, two integers, a bytes object and a list slot."""
_HEAD: Final = struct.Struct("<qqI")
_PROGRESS_ROWS: Final = 10_000
"""Rows between two calls of ``progress``."""


class _Entry(NamedTuple):
    """Sort key and encoded example; (time, number) is unique."""

    time_ms: int
    number: int
    payload: bytes


class TimeSort:
    """Sorts one sequence of examples. Temporary files go to ``folder``, by default the system's."""

    def __init__(
        self,
        folder: Path | None = None,
        *,
        memory_bytes: int = MEMORY_BYTES,
        stop: threading.Event | None = None,
        progress: Callable[[int], None] = lambda rows: None,
    ) -> None:
        self._folder = folder
        self._memory_bytes = memory_bytes
        self._stop = stop or threading.Event()
        self._progress = progress
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(Example)
        self._levels: list[list[IO[bytes]]] = []
        """Sorted runs by level; a run of level n + 1 was merged from FAN_IN runs of level n."""

    def sort(self, examples: Iterable[Example]) -> Iterator[Example]:
        """The examples by time; equal times keep their order. Setting ``stop`` ends the sequence.

        Raises:
            UsageError: the temporary files cannot be written.
        """
        try:
            if self._folder is not None:
                self._folder.mkdir(parents=True, exist_ok=True)
            with ExitStack() as files:
                yield from self._sorted(examples, files)
        except OSError as error:
            raise UsageError(
                f"cannot sort in {self._folder or tempfile.gettempdir()}: {error.strerror or error}; choose "
                "a folder with enough free space with --work"
            ) from None

    def _sorted(self, examples: Iterable[Example], files: ExitStack) -> Iterator[Example]:
        entries: list[_Entry] = []
        held = 0
        for number, example in enumerate(examples):
            payload = self._encoder.encode(example)
            entries.append(_Entry(example.time_ms, number, payload))
            held += len(payload) + _OVERHEAD_BYTES
            if held >= self._memory_bytes:
                self._add(entries, files)
                entries, held = [], 0
            if not number % _PROGRESS_ROWS:
                self._progress(number)
            if self._stop.is_set():
                return
        entries.sort()
        for entry in heapq.merge(*(_read(run) for level in self._levels for run in level), entries):
            yield self._decoder.decode(entry.payload)

    def _add(self, entries: list[_Entry], files: ExitStack) -> None:
        """Add a run; merge each full level into the next."""
        entries.sort()
        run = self._write(entries, files)
        for level in self._levels:
            level.append(run)
            if len(level) < FAN_IN:
                return
            run = self._write(heapq.merge(*map(_read, level)), files)
            for merged in level:
                merged.close()
            level.clear()
        self._levels.append([run])

    def _write(self, entries: Iterable[_Entry], files: ExitStack) -> IO[bytes]:
        file = files.enter_context(_unnamed_file(self._folder))
        for time_ms, number, payload in entries:
            file.write(_HEAD.pack(time_ms, number, len(payload)))
            file.write(payload)
            if self._stop.is_set():
                break
        file.flush()
        return file


@contextmanager
def _unnamed_file(folder: Path | None) -> Iterator[IO[bytes]]:
    """A temporary file, without a name if the system supports that, so a kill leaves nothing behind."""
    with tempfile.TemporaryFile(buffering=_BUFFER_BYTES, dir=folder) as file:
        yield file


def _read(run: IO[bytes]) -> Iterator[_Entry]:
    run.seek(0)
    while head := run.read(_HEAD.size):
        time_ms, number, length = _HEAD.unpack(head)
        yield _Entry(time_ms, number, run.read(length))
