"""Trainers that kill themselves with SIGKILL at chosen moments, one process after the other.

    echo '[{"entries": 70, "after_us": 900}, {"entries": 90, "operation": 5}, {}]' |
        python -m tests.support.killed_trainers CONFIG

Each item of the plan is one process. After "entries" applied log entries, it is killed: "after_us"
microseconds later, or before file operation number "operation" of the next checkpoint. With "segment", it is
killed before that file operation on the joiner's segments. An empty item runs to the end of the log.

Processes are forked, so that modules are imported once, and killed with SIGKILL, so that nothing is cleaned
up. Prints the exit statuses.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from stream_ctr.config.settings import load_settings
from stream_ctr.daemon.process import StateLock
from stream_ctr.events.open import open_log
from stream_ctr.reporting.progress import Reporter
from stream_ctr.state.durable_files import Files
from stream_ctr.training.core import Step
from stream_ctr.training.trainer import Trainer
from tests.support.faulty_files import WatchedFiles


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class DeadlyFiles(WatchedFiles):
    """Once armed, kills the process before operation number ``operation`` of the next checkpoint."""

    def __init__(self, operation: int, segment: int = 0) -> None:
        self.operation = operation
        self.segment = segment
        self.segment_count = 0
        self.armed = False
        self.count = 0
        self.inside = False

    def step(self, operation: str, path: Path) -> None:
        if self.segment and "segments" in (path.name, path.parent.name):
            self.segment_count += 1
            if self.segment_count == self.segment:
                die()
        if operation == "write_piece":
            return  # a partially written file is simulated below
        begins = operation == "make_folder" and path.parent.name == "checkpoints"
        self.inside = self.inside or (self.armed and begins)
        if self.inside:
            self.count += 1
            if self.count == self.operation:
                die()

    def write(self, path: Path, content: bytes | memoryview) -> None:
        # Write half of the file, then die: a torn write.
        if self.inside and self.count + 2 == self.operation:
            Files().write(path, memoryview(content)[: len(content) // 2])
            die()
        super().write(path, content)

    def write_pieces(self, path: Path, pieces: Iterable[bytes | memoryview]) -> None:
        if self.inside and self.count + 2 == self.operation:
            content = b"".join(bytes(piece) for piece in pieces)
            Files().write(path, content[: len(content) // 2])
            die()
        super().write_pieces(path, pieces)


def run(config: str, moment: dict[str, Any]) -> None:
    """Run one trainer until it is killed or reaches the end of the log."""
    settings = load_settings(config)
    arm = settings.arm(None)
    steps, due = 0, False
    files = DeadlyFiles(moment.get("operation", 0), moment.get("segment", 0))

    def on_step(step: Step) -> None:
        nonlocal steps, due
        steps += 1
        if not due and trainer.core.stage.progress.applied >= moment.get("entries", float("inf")):
            due = True
            if files.operation:
                files.armed = True
            elif "after_us" in moment:
                threading.Thread(target=_die_later, args=(moment["after_us"] / 1e6,)).start()
        if steps % CHECKPOINT_EVERY == 0:
            trainer.checkpoint()

    log = open_log(settings.log.url)
    with Reporter("victim", quiet=True) as reporter, StateLock(settings.arm_state(arm.name)):
        trainer = Trainer(settings, arm, log, reporter, files=files, on_step=on_step)
        trainer.run(threading.Event(), until_idle=0.0)
    log.close()


CHECKPOINT_EVERY = 5
"""Steps between checkpoints; with a timer, the moments would depend on the wall clock."""


def _die_later(seconds: float) -> None:
    time.sleep(seconds)
    die()


def main() -> int:
    statuses = []
    for moment in json.load(sys.stdin):
        child = os.fork()
        if child == 0:
            status = 0
            try:
                run(sys.argv[1], moment)
            except BaseException:
                traceback.print_exc()
                status = 1
            sys.stderr.flush()
            os._exit(status)
        statuses.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    print(json.dumps(statuses))
    return 0


if __name__ == "__main__":
    sys.exit(main())
