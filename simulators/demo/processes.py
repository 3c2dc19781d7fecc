"""Child processes of the demo: start, monitoring and termination, each by its process id."""

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
"""Time for a clean shutdown after SIGTERM: long enough for a trainer's last checkpoint on a busy machine."""
POLL_SECONDS: Final = 0.1


class Child:
    """One ``stream-ctr`` command in its own process; its output goes to two files."""

    def __init__(self, name: str, command: list[str], folder: Path) -> None:
        self.name = name
        self.output = folder / f"{name}.out"
        """Standard output."""
        self.log = folder / f"{name}.log"
        """Standard error."""
        self._terminated = False
        with self.output.open("ab") as out, self.log.open("ab") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "simulators.demo.child_command", *command],
                # Never written to: its end of file tells the child that the demo has ended.
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=errors,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                # Ctrl-C reaches the demo alone, which then ends its children in order.
                process_group=0,
            )

    @property
    def running(self) -> bool:
        """Whether the process has not ended."""
        return self.process.poll() is None

    def check(self, *, ended: bool = False) -> None:
        """Check that the process is running, or with ``ended``, that it did not fail.

        Raises:
            StreamCTRError: it has ended, or with ``ended``, it has failed.
        """
        status = self.process.poll()
        # A process that is terminated before it installs its signal handler ends by SIGTERM: no failure.
        if status is None or (ended and (status == 0 or (self._terminated and status == -signal.SIGTERM))):
            return
        how = f"by signal {-status}" if status < 0 else f"with status {status}"
        raise StreamCTRError(f"{self.name} ended {how}: {self.last_line()}; see its full log in {self.log}")

    def last_line(self) -> str:
        """The last line of its log, or of its output if the log is empty."""
        for path in (self.log, self.output):
            lines = path.read_text("utf-8", errors="replace").strip().splitlines()
            if lines:
                return _plain(lines[-1])
        return "no output"

    def address(self) -> str | None:
        """The first URL in its output, without the path; None if there is none yet."""
        for path in (self.output, self.log):
            found = re.search(r"https?://[\w.\[\]:-]+\d", path.read_text("utf-8", errors="replace"))
            if found:
                return found.group()
        return None

    def terminate(self) -> None:
        """Send SIGTERM."""
        if self.running:
            self._terminated = True
            self.process.send_signal(signal.SIGTERM)

    def end(self, seconds: float = END_SECONDS) -> None:
        """Wait up to ``seconds`` for its end, then kill it."""
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if self.process.stdin is not None:
            self.process.stdin.close()  # not earlier: during a shutdown it would act as a second signal


class Children:
    """All child processes; one that ends early ends the demo."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._running: list[Child] = []

    def start(self, name: str, *command: str) -> Child:
        """Start a child."""
        child = Child(name, list(command), self._folder)
        self._running.append(child)
        return child

    def check(self, may_end: Child | None = None) -> None:
        """Check that all children are running; ``may_end`` may have ended without failing.

        Raises:
            StreamCTRError: a child has ended; the message holds its last line.
        """
        for child in self._running:
            child.check(ended=child is may_end)

    def end(self, *children: Child) -> None:
        """End the given children, or all without arguments.

        Raises:
            StreamCTRError: a child failed.
        """
        ending = [child for child in self._running if not children or child in children]
        self._running = [child for child in self._running if child not in ending]
        for child in ending:
            child.terminate()
        for child in ending:
            child.end()
        for child in ending:
            child.check(ended=True)


@contextlib.contextmanager
def children(folder: Path) -> Iterator[Children]:
    """Children that are all ended at the end of the block."""
    started = Children(folder)
    try:
        yield started
    finally:
        # A failure has been reported already or no longer matters.
        with contextlib.suppress(StreamCTRError):
            started.end()


def pause(seconds: float = POLL_SECONDS) -> None:
    """Sleep between two checks of the children."""
    time.sleep(seconds)


def _plain(line: str) -> str:
    """A line of a structured log as plain text."""
    with contextlib.suppress(ValueError):
        record = json.loads(line)
        if isinstance(record, dict):
            kept = {key: value for key, value in record.items() if key not in ("time", "job")}
            event = kept.pop("event", "")
            return ", ".join([str(event), *(f"{key} {value}" for key, value in kept.items())])
    return line
