"""Several server processes on one listening socket, and the parent that supervises them.

A worker sends heartbeats through a pipe. A worker that exits is replaced. So is one that hangs: its
connections would otherwise wait indefinitely.

Snapshots are memory-mapped files, so all workers share them through the page cache. The parent only holds
the sockets, so a fault that kills a worker does not affect it, and another worker accepts the waiting
connections.
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
"""Time between checks for workers that have exited."""
START_SECONDS: Final = 120.0
"""Time limit for the start of a worker."""
STEADY_SECONDS: Final = 10.0
"""A worker that ran at least this long is replaced without a delay."""
FIRST_PAUSE_SECONDS: Final = 0.5
LONGEST_PAUSE_SECONDS: Final = 30.0
END_SECONDS: Final = GRACE_SECONDS + 10.0
"""Time from SIGTERM to SIGKILL, for requests in progress and queued impressions."""


class Worker:
    """Supervises one worker: its current process, and when the next one may start."""

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
            pass  # it has exited already; its exit status is reported

    def wait_until_ready(self, stop: threading.Event) -> bool:
        """Wait until the process is ready; False if it exits first or ``stop`` is set.

        Raises:
            StreamCTRError: none of these happens within START_SECONDS.
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
        """Replace a process that has exited. If it ran only briefly, wait first (exponential backoff)."""
        if self._process is not None:
            self._listen()
        if self._process is not None and self._process.poll() is not None:
            now = time.monotonic()
            steady = now - self._started > STEADY_SECONDS
            self._pause = FIRST_PAUSE_SECONDS if steady else min(2 * self._pause, LONGEST_PAUSE_SECONDS)
            self._due = now if steady else now + self._pause
            if not self._hung:
                logger.warning(
                    "worker %d (process %d) exited with status %d; starting a replacement",
                    self.number, self._process.pid, self._process.returncode,
                )  # fmt: skip
            self._replaced["hung" if self._hung else "ended"] += 1
            self.close()
        if self._process is None and time.monotonic() >= self._due:
            self.start()

    def _listen(self) -> None:
        """Kill a process that has sent no heartbeat for too long."""
        now = time.monotonic()
        # Time in which this parent did not run (suspended or starved) must not count against the worker.
        self._silent += min(now - self._looked, 5 * POLL_SECONDS)
        self._looked = now
        readable, _, _ = select.select([self._ready], [], [], 0.0)
        if readable and os.read(self._ready, 65_536):
            self._silent, self._alive = 0.0, True
        limit = self._job.serve.hang_seconds
        allowed = limit if self._alive else max(limit, START_SECONDS)
        if limit > 0.0 and self._silent > allowed and not self._hung:
            assert self._process is not None
            self._hung = True
            logger.warning(
                "worker %d (process %d) sent no heartbeat for %.0f seconds; killing and replacing it",
                self.number, self._process.pid, self._silent,
            )  # fmt: skip
            self._process.kill()

    def send(self, number: int) -> None:
        """Send a signal to the process, if one is running."""
        if self._process is not None:
            self._process.send_signal(number)

    def end(self, deadline: float) -> int:
        """Wait for the process and return its exit status; kill it at ``deadline`` (time.monotonic)."""
        if self._process is None:
            return 0
        try:
            return self._process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            logger.warning("worker %d did not exit in time; killing it", self.number)
            self._process.kill()
            self._process.wait()
            return 1
        finally:
            self.close()

    def close(self) -> None:
        """Release the pipes of a process that has exited."""
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
        """``admins``: one admin socket per worker, kept open when its process is replaced."""
        self._workers = [Worker(number, job, listener, admin) for number, admin in enumerate(admins)]
        self._listening = listening

    def run(self) -> int:
        """Serve until SIGTERM or SIGINT, restarting workers that die. SIGHUP is forwarded to all workers.

        Returns the exit status; if the first worker cannot start, its exit status.
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
        """Start one worker, and the others once it is ready, so that a common fault is reported once."""
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
