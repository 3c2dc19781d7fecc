"""Processes that the demo starts, watches and ends: each by its own id, whatever happens to the demo."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from stream_ctr.errors import StreamCTRError

END_SECONDS: Final = 60.0
"""Time to end cleanly after SIGTERM: a trainer writes its last checkpoint, on a busy machine too."""
POLL_SECONDS: Final = 0.1


class Child:
    """One ``stream-ctr`` command in a process of its own; what it says goes to two files."""

    def __init__(self, name: str, command: list[str], folder: Path) -> None:
        self.name = name
        self.output = folder / f"{name}.out"
        """Standard output."""
        self.log = folder / f"{name}.log"
        """Standard error."""
        self._asked = False
        with self.output.open("ab") as out, self.log.open("ab") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "simulators.demo.child_command", *command],
                # Nothing is written to it: its end tells the child that the demo is gone.
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=errors,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                # Ctrl-C is for the demo, which then ends its children in its own order.
                process_group=0,
            )

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self.process.poll() is None

    def check(self, *, ended: bool = False) -> None:
        """Raises StreamCTRError if it has ended, or with ``ended``, if it ended otherwise than well."""
        status = self.process.poll()
        # One that was asked to end so early that it could not yet listen has ended as asked.
        if status is None or (ended and (status == 0 or (self._asked and status == -signal.SIGTERM))):
            return
        how = f"by signal {-status}" if status < 0 else f"with status {status}"
        raise StreamCTRError(
            f"{self.name} ended {how}: {self.last_words()}; all that it said is in {self.log}"
        )

    def last_words(self) -> str:
        """Its last line: of what it said to people, else of its output."""
        for path in (self.log, self.output):
            lines = path.read_text("utf-8", errors="replace").strip().splitlines()
            if lines:
                return _plain(lines[-1])
        return "it said nothing"

    def address(self) -> str | None:
        """The first address that it told, without its path; None so far."""
        for path in (self.output, self.log):
            found = re.search(r"https?://[\w.\[\]:-]+\d", path.read_text("utf-8", errors="replace"))
            if found:
                return found.group()
        return None

    def ask_to_end(self) -> None:
        """Send SIGTERM."""
        if self.running:
            self._asked = True
            self.process.send_signal(signal.SIGTERM)

    def end(self, seconds: float = END_SECONDS) -> None:
        """Wait for its end; kill it if it takes longer."""
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if self.process.stdin is not None:
            self.process.stdin.close()  # not before: to one that ends, it would be a second signal


class Children:
    """All of them; the first one that ends before its time ends the demo."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._running: list[Child] = []

    def start(self, name: str, *command: str) -> Child:
        """Start one."""
        child = Child(name, list(command), self._folder)
        self._running.append(child)
        return child

    def check(self, may_end: Child | None = None) -> None:
        """Raises StreamCTRError with the last words of one that ended; ``may_end`` may have, if well."""
        for child in self._running:
            child.check(ended=child is may_end)

    def end(self, *children: Child) -> None:
        """End these (none: all) together, each by its id.

        Raises:
            StreamCTRError: one did not end well.
        """
        ending = [child for child in self._running if not children or child in children]
        self._running = [child for child in self._running if child not in ending]
        for child in ending:
            child.ask_to_end()
        for child in ending:
            child.end()
        for child in ending:
            child.check(ended=True)


@contextlib.contextmanager
def children(folder: Path) -> Iterator[Children]:
    """None of them outlives the block."""
    started = Children(folder)
    try:
        yield started
    finally:
        # One that ended badly has been told already, or does not matter any more.
        with contextlib.suppress(StreamCTRError):
            started.end()


def pause(seconds: float = POLL_SECONDS) -> None:
    """Between two looks at the children."""
    time.sleep(seconds)


def _plain(line: str) -> str:
    """A line of a structured log as people read it."""
    with contextlib.suppress(ValueError):
        told = json.loads(line)
        if isinstance(told, dict):
            kept = {key: value for key, value in told.items() if key not in ("time", "job")}
            event = kept.pop("event", "")
            return ", ".join([str(event), *(f"{key} {value}" for key, value in kept.items())])
    return line
