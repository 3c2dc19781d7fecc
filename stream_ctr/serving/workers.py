"""Several server processes over one listening socket, and the parent that keeps them.

A worker gives signs of life through a pipe. One that ends is replaced, and so is one that lives and does
nothing, which would otherwise keep its connections waiting for ever.

The snapshots are files mapped into memory, so all workers share them through the page cache. The parent
holds the sockets and nothing else: what kills a worker does not reach it, and a connection that waits to be
accepted finds another worker.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import FrameType
from typing import Final

import msgspec

from stream_ctr.daemon.process import stop_on_signals
from stream_ctr.errors import StreamCTRError
from stream_ctr.serving.http.sockets import GRACE_SECONDS
from stream_ctr.serving.job import Job

logger = logging.getLogger("stream_ctr.serving")

POLL_SECONDS: Final = 0.2
"""Time between looks for a worker that has ended."""
START_SECONDS: Final = 120.0
"""Longest time in which a worker must have started."""
STEADY_SECONDS: Final = 10.0
"""A worker that lived that long is replaced at once, whatever happened before."""
FIRST_PAUSE_SECONDS: Final = 0.5
LONGEST_PAUSE_SECONDS: Final = 30.0
END_SECONDS: Final = GRACE_SECONDS + 10.0
"""Time after SIGTERM in which requests and impressions under way must be done; then SIGKILL."""


class Worker:
    """One worker's place: its process of now, and when the next one may be started."""

    def __init__(self, number: int, job: Job, listener: socket.socket, admin: socket.socket) -> None:
        self.number = number
        self._replaced = {"ended": 0, "hung": 0}
        self._hung = self._alive = False
        self._looked = self._silent = 0.0
        self._job = job
        self._sockets = (listener, admin)
        self._pause = FIRST_PAUSE_SECONDS
        self._started = 0.0
        self._due = 0.0
        self._process: subprocess.Popen[bytes] | None = None
        self._ready = -1

    def start(self) -> None:
        """Start a process."""
        self._ready, theirs = os.pipe()
        given = [*(each.fileno() for each in self._sockets), theirs]
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "stream_ctr.serving.worker", *map(str, given)],
                stdin=subprocess.PIPE,
                pass_fds=given,
            )
        finally:
            os.close(theirs)
        self._started = self._looked = time.monotonic()
        self._silent, self._alive, self._hung = 0.0, False, False
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(
                msgspec.json.encode(replace(self._job, replaced=self._replaced)) + b"\n"
            )
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # it has ended already, which is told by its status

    def wait_until_ready(self, stop: threading.Event) -> bool:
        """Whether the process answers now; False when it ended first, or ``stop`` was set.

        Raises:
            StreamCTRError: it does neither for too long.
        """
        while time.monotonic() < self._started + START_SECONDS:
            if stop.is_set():
                return False
            readable, _, _ = select.select([self._ready], [], [], POLL_SECONDS)
            if readable:
                self._alive = os.read(self._ready, 1) == b"1"
                return self._alive
        raise StreamCTRError(f"worker {self.number} did not start within {START_SECONDS:g} seconds")

    def look(self) -> None:
        """Replace a process that has ended; after a short life not at once, so that a fault costs little."""
        if self._process is not None:
            self._listen()
        if self._process is not None and self._process.poll() is not None:
            now = time.monotonic()
            steady = now - self._started > STEADY_SECONDS
            self._pause = FIRST_PAUSE_SECONDS if steady else min(2 * self._pause, LONGEST_PAUSE_SECONDS)
            self._due = now if steady else now + self._pause
            if not self._hung:
                logger.warning(
                    "worker %d (process %d) ended with status %d; another one is started",
                    self.number, self._process.pid, self._process.returncode,
                )  # fmt: skip
            self._replaced["hung" if self._hung else "ended"] += 1
            self.close()
        if self._process is None and time.monotonic() >= self._due:
            self.start()

    def _listen(self) -> None:
        """Kill a process that has given no sign of life for too long."""
        now = time.monotonic()
        # Time in which this parent itself did not look (suspended, or starved) is nobody's silence.
        self._silent += min(now - self._looked, 5 * POLL_SECONDS)
        self._looked = now
        readable, _, _ = select.select([self._ready], [], [], 0.0)
        if readable and os.read(self._ready, 65_536):
            self._silent, self._alive = 0.0, True
        patience = self._job.serve.hang_seconds
        allowed = patience if self._alive else max(patience, START_SECONDS)
        if patience > 0.0 and self._silent > allowed and not self._hung:
            assert self._process is not None
            self._hung = True
            logger.warning(
                "worker %d (process %d) stood still for %.0f seconds and is killed; another one is started",
                self.number, self._process.pid, self._silent,
            )  # fmt: skip
            self._process.kill()

    def send(self, number: int) -> None:
        """Send a signal to the process, if there is one."""
        if self._process is not None:
            self._process.send_signal(number)

    def end(self, deadline: float) -> int:
        """Exit status of the process, which is killed at ``deadline`` (of time.monotonic)."""
        if self._process is None:
            return 0
        try:
            return self._process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            logger.warning("worker %d did not end in time and is killed", self.number)
            self._process.kill()
            self._process.wait()
            return 1
        finally:
            self.close()

    def close(self) -> None:
        """Let go of what has ended."""
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
        if self._ready >= 0:
            os.close(self._ready)
            self._ready = -1
        self._process = None


class Workers:
    """The parent of ``serve.workers`` processes."""

    def __init__(
        self,
        job: Job,
        listener: socket.socket,
        admins: Sequence[socket.socket],
        listening: Callable[[], None],
    ) -> None:
        """``admins``: one socket a worker, for its metrics; it outlives the worker's processes."""
        self._workers = [Worker(number, job, listener, admin) for number, admin in enumerate(admins)]
        self._listening = listening

    def run(self) -> int:
        """Serve until SIGTERM or SIGINT, restarting workers that die; SIGHUP goes on to all of them.

        Returns the exit status: the first worker's own when it cannot start.
        """
        with stop_on_signals() as stop:
            before = signal.signal(signal.SIGHUP, self._forward)
            try:
                if self._start(stop):
                    self._listening()
                    while not stop.wait(POLL_SECONDS):
                        for worker in self._workers:
                            worker.look()
            finally:
                status = self._end()
                signal.signal(signal.SIGHUP, before)
        return status

    def _start(self, stop: threading.Event) -> bool:
        """Start one, and when it answers the others: what is wrong with all of them is told once."""
        first, *others = self._workers
        first.start()
        if not first.wait_until_ready(stop):
            return False
        for worker in others:
            worker.start()
        return all(worker.wait_until_ready(stop) for worker in others)

    def _end(self) -> int:
        for worker in self._workers:
            worker.send(signal.SIGTERM)
        deadline = time.monotonic() + END_SECONDS
        return max([abs(worker.end(deadline)) for worker in self._workers])

    def _forward(self, number: int, _frame: FrameType | None) -> None:
        for worker in self._workers:
            worker.send(number)
