"""Which arms are killed: what the control file says, and this process's own kills on their way into it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Collection, Mapping
from pathlib import Path

from stream_ctr.errors import StateError
from stream_ctr.experiments.kill_file import ControlFile, Stamp
from stream_ctr.experiments.shared_files import Kill
from stream_ctr.serving.metrics import RoutingMetrics
from stream_ctr.serving.routing.guards import Trip

logger = logging.getLogger("stream_ctr.serving")

UNREAD: Stamp = (-1, -1, -1)
"""Stamp of a file that was never read."""


class KillSwitch:
    """The kill switch as one server process knows it."""

    def __init__(self, state_folder: Path, metrics: RoutingMetrics) -> None:
        self.error = ""
        """Why the file cannot be read or written; empty when it can."""
        self._file = ControlFile(state_folder)
        self._metrics = metrics
        self._in_file: Mapping[str, Kill] = {}
        """As the file says. Replaced whole, like the other: they are read without a lock."""
        self._own: Mapping[str, Kill] = {}
        """Kills of this process that the file does not hold yet."""
        self._last_stamp = UNREAD
        self._turn = threading.Lock()
        """One at a time looks at the file or writes it."""
        self._change = threading.Lock()
        """Held for moments only: requests take it when a guard trips."""

    @property
    def killed(self) -> dict[str, Kill]:
        """The killed arms, also such as are not in the experiment."""
        return {**self._own, **self._in_file}

    def trip(self, arm: str, trip: Trip) -> None:
        """Kill an arm in this process at once; ``follow`` writes it down."""
        with self._change:
            self._own = {**self._own, arm: Kill(trip.cause, trip.reason, time.time_ns() // 1_000_000)}

    def kill(self, arm: str, reason: str) -> bool:
        """Kill an arm for all; False when it was killed already. Raises StateError: it cannot be written."""
        with self._turn:
            return self._file.kill(arm, reason)

    def revive(self, arm: str) -> bool:
        """Let an arm serve again; False when it was not killed. Raises StateError: it cannot be written."""
        with self._turn:
            own = arm in self._own
            done = self._file.revive(arm)
            self._forget(arm)
        return done or own

    def follow(self, arms: Collection[str]) -> None:
        """Write own kills down, and read what others wrote. ``arms`` are those that could be killed."""
        with self._turn:
            self._write()
            stamp = self._file.stamp()
            if stamp != self._last_stamp:
                self._read(stamp, arms)

    def _write(self) -> None:
        """Own kills that the file does not take stay, and are tried again."""
        for arm, kill in self._own.items():
            try:
                self._file.kill(arm, kill.reason, kill.cause)
            except StateError as error:
                self._fail(str(error))
                return
            self._in_file = {arm: kill, **self._in_file}
            self._forget(arm)

    def _forget(self, arm: str) -> None:
        with self._change:
            self._own = {name: kill for name, kill in self._own.items() if name != arm}

    def _read(self, stamp: Stamp, arms: Collection[str]) -> None:
        try:
            self._in_file = self._file.read().killed
        except StateError as error:
            self._fail(str(error))
            if self._last_stamp == UNREAD:
                # Who was killed is not known, so nobody but the control serves until it is.
                reason = f"the kill switch cannot be read: {error}"
                self._in_file = dict.fromkeys(arms, Kill("unknown", reason, time.time_ns() // 1_000_000))
            return  # otherwise what was known goes on
        self._last_stamp = stamp
        self._fail("")

    def _fail(self, error: str) -> None:
        if error and error != self.error:
            logger.warning("kill switch: %s", error)
        self.error = error
        self._metrics.control_stale.set(1 if error else 0)
