"""A process that ends with the one that started it, whatever ended that one.

The parent starts the child with a pipe as its standard input, and keeps its end open. When the parent is
gone, killed by SIGKILL too, the system closes that end, and the child's input is at its end. That is so on
every POSIX system, leaves no moment in which it does not hold, and lets the child end in its own order.

The first SIGINT or SIGTERM asks a process to end; the second ends it.

A lock on the state folder refuses a second process.

A process that only learns a stream has its own settings for garbage collection and thread switching.
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
"""Allocations between two looks for cyclic garbage. The loop makes next to none, and what it holds
(open impressions) would be looked through every time."""
SWITCH_SECONDS: Final = 0.0005
"""Longest time for which a busy thread keeps another one from running Python: the learner, which runs
compiled, needs the interpreter only between two chunks, but then at once."""


def end_with_parent(kill_seconds: float | None = None) -> None:
    """Ask this process to end (SIGTERM) when its standard input ends; returns at once.

    With ``kill_seconds``, it is killed if it has not ended so long after.
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
    """An event that SIGINT and SIGTERM set; a second signal ends the process as it always would."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def ask(number: int, frame: FrameType | None) -> None:
        stop.set()
        restore()

    for number in before:
        signal.signal(number, ask)
    try:
        yield stop
    finally:
        restore()


class StateLock:
    """An exclusive lock on a state folder, held by the open file and so released by any end.

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
                f"the state folder {folder} is in use by process {holder}; stop it, or name another folder"
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
    """Set up collection and switching for the daemon; for a process of its own."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER, 20, 20)
    sys.setswitchinterval(SWITCH_SECONDS)


def peak_bytes() -> int:
    """Largest resident memory of this program so far."""
    # Linux counts the process that started this one into its resource usage, but not into its status.
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
