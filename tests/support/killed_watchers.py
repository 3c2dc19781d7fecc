"""Watchers that kill themselves with SIGKILL, one process after the other.

    python -m tests.support.killed_watchers CONFIG STEPS CHUNKS CHUNKS ...

Each process writes a checkpoint after STEPS chunks and dies CHUNKS chunks later. Processes are forked, so
that modules are imported once. Prints the exit statuses.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from pathlib import Path

from stream_ctr.experiments.watcher.daemon import Watcher
from tests.support.experiment_logs import watch


def run(config: Path, steps: int, chunks: int) -> None:
    """Run one watcher until it is killed or reaches the end of the log."""
    done = 0

    def on_step(watcher: Watcher) -> None:
        nonlocal done
        done += 1
        if done == steps:
            watcher.checkpoint()
        if done == steps + chunks:
            os.kill(os.getpid(), signal.SIGKILL)

    watch(config, on_step)


if __name__ == "__main__":
    place, first, *rest = sys.argv[1:]
    for each in rest:
        child = os.fork()
        if not child:
            try:
                run(Path(place), int(first), int(each))
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
