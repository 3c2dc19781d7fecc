"""The life of a process: signals, parent, lock on the state folder, interpreter settings, peak memory.

A child process ends when its parent does. The parent starts the child with a pipe as its standard input and
keeps the other end open. When the parent ends, even by SIGKILL, the operating system closes that end, and the
child reads the end of its input. This works on every POSIX system, has no race at the start, and lets the
child shut down in an orderly way.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType, TracebackType
from typing import Final

from stream_ctr.errors import StateError

INPUT: Final = 0

COLLECT_AFTER: Final = 50_000
"""Allocations between two runs of the cyclic garbage collector. The loop makes almost no cycles, and each run
would traverse all open impressions."""
SWITCH_SECONDS: Final = 0.0005
"""Longest time in seconds for which a busy thread holds the interpreter lock while another waits for it. The
learner runs compiled code and needs the interpreter only between two chunks, but then without delay."""


def end_with_parent(kill_seconds: float | None = None) -> None:
    """Send SIGTERM to this process when its standard input ends; returns at once.

    With ``kill_seconds``, also send SIGKILL if the process still runs that many seconds later.
    """
    threading.Thread(target=_watch, args=(kill_seconds,), name="lifeline", daemon=True).start()


def _watch(kill_seconds: float | None) -> None:
    while os.read(INPUT, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    if kill_seconds is not None:
        time.sleep(kill_seconds)
        os.kill(os.getpid(), signal.SIGKILL)


@contextlib.contextmanager
def stop_on_signals() -> Iterator[threading.Event]:
    """An event that the first SIGINT or SIGTERM sets; a second signal has its default effect."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def request_stop(number: int, frame: FrameType | None) -> None:
        stop.set()
        restore()

    for number in before:
        signal.signal(number, request_stop)
    try:
        yield stop
    finally:
        restore()


class StateLock:
    """An exclusive lock on a state folder; the operating system releases it however the process ends.

    Raises:
        StateError: another process holds it.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / "lock"
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(self._descriptor, 64, 0).decode(errors="replace").strip() or "unknown"
            os.close(self._descriptor)
            raise StateError(
                f"the state folder {folder} is in use by process {holder}; stop it, or use another folder"
            ) from None
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)

    def __enter__(self) -> StateLock:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._descriptor)


def tune_interpreter() -> None:
    """Configure garbage collection and thread switching of this process for a daemon."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER, 20, 20)
    sys.setswitchinterval(SWITCH_SECONDS)


def peak_bytes() -> int:
    """Peak resident memory of this process in bytes."""
    # On Linux, ru_maxrss includes the memory of the process that started this one; VmHWM does not.
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
