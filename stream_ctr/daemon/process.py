"""A process that ends with the one that started it, whatever ended that one.

The parent starts the child with a pipe as its standard input, and keeps its end open. When the parent is
gone, killed by SIGKILL too, the system closes that end, and the child's input is at its end. That is so on
every POSIX system, leaves no moment in which it does not hold, and lets the child end in its own order.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import Final

INPUT: Final = 0


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
