"""The killed arms: those in the control file, and kills of this process that are not written yet."""

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
"""Stamp before the file has been read for the first time."""


class KillSwitch:
    """The state of the kill switch in one server process."""

    def __init__(self, state_folder: Path, metrics: RoutingMetrics) -> None:
        self.error = ""
        """Why the file cannot be read or written; empty if it can."""
        self._file = ControlFile(state_folder)
        self._metrics = metrics
        self._in_file: Mapping[str, Kill] = {}
        """Kills in the file. Like ``_own``, replaced as a whole, because it is read without a lock."""
        self._own: Mapping[str, Kill] = {}
        """Kills of this process that are not in the file yet."""
        self._last_stamp = UNREAD
        self._turn = threading.Lock()
        """Serializes reads and writes of the file."""
        self._change = threading.Lock()
        """Held only briefly, because requests acquire it when a guard trips."""

    @property
    def killed(self) -> dict[str, Kill]:
        """All killed arms, including arms outside the experiment."""
        return {**self._own, **self._in_file}

    def trip(self, arm: str, trip: Trip) -> None:
        """Kill an arm in this process at once; ``follow`` writes it to the file."""
        with self._change:
            self._own = {**self._own, arm: Kill(trip.cause, trip.reason, time.time_ns() // 1_000_000)}

    def kill(self, arm: str, reason: str) -> bool:
        """Kill an arm in all processes; False if it was killed already. Raises StateError: writing failed."""
        with self._turn:
            return self._file.kill(arm, reason)

    def revive(self, arm: str) -> bool:
        """Revive an arm in all processes; False if it was not killed. Raises StateError: writing failed."""
        with self._turn:
            own = arm in self._own
            done = self._file.revive(arm)
            self._forget(arm)
        return done or own

    def follow(self, arms: Collection[str]) -> None:
        """Write this process's kills, and read those of others. ``arms``: all arms that can be killed."""
        with self._turn:
            self._write()
            stamp = self._file.stamp()
            if stamp != self._last_stamp:
                self._read(stamp, arms)

    def _write(self) -> None:
        """Write this process's kills. If that fails, they are kept and retried."""
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
                # The killed arms are unknown, so only the control serves until the file can be read.
                reason = f"the kill switch cannot be read: {error}"
                self._in_file = dict.fromkeys(arms, Kill("unknown", reason, time.time_ns() // 1_000_000))
            return  # otherwise keep the last known kills
        self._last_stamp = stamp
        self._fail("")

    def _fail(self, error: str) -> None:
        if error and error != self.error:
            logger.warning("kill switch: %s", error)
        self.error = error
        self._metrics.control_stale.set(1 if error else 0)
