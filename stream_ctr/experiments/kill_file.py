"""The kill switch as a file: written by the command line and by any server, followed by all servers."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from stream_ctr.config.experiment import FOLDER, ExperimentConfig
from stream_ctr.errors import StateError, UsageError
from stream_ctr.experiments.shared_files import CONTROL, VERSION, Control, Kill, replace_file

LOCK: Final = "control.lock"
MANUAL: Final = "manual"
MAX_REASON: Final = 500
"""Longest reason, in characters."""

Stamp = tuple[int, int, int]
"""Identity, size and time of a file; zeros where there is none."""


def stamp_of(path: Path) -> Stamp:
    """What changes when a file is replaced or written."""
    try:
        status = path.stat()
    except OSError:
        return 0, 0, 0
    return status.st_ino, status.st_size, status.st_mtime_ns


def check_killable(experiment: ExperimentConfig, arm: str) -> None:
    """Refuse to kill what cannot be killed.

    Raises:
        UsageError: the arm is unknown, or is the control.
    """
    names = [known.name for known in experiment.arms]
    if arm not in names:
        raise UsageError(f"no arm named {arm!r}; the arms are {', '.join(names)}")
    if arm == names[0]:
        raise UsageError(
            f"arm {arm!r} is the control, which serves in place of a killed arm, and cannot be killed; make "
            "another arm the control (first in the list, with a new salt)"
        )


class ControlFile:
    """``control.json`` of one state folder. Writers take turns by a lock; readers need none."""

    def __init__(self, state_folder: Path) -> None:
        self.path = state_folder / FOLDER / CONTROL

    def stamp(self) -> Stamp:
        """Changes whenever the file does."""
        return stamp_of(self.path)

    def read(self) -> Control:
        """Which arms are killed; none where there is no file.

        Raises:
            StateError: the file cannot be read, or is none of this kind.
        """
        try:
            found = msgspec.json.decode(self.path.read_bytes(), type=Control)
        except FileNotFoundError:
            return Control()
        except OSError as error:
            raise StateError(f"{self.path}: {error.strerror}") from None
        except (ValueError, RecursionError) as error:
            raise StateError(
                f"{self.path}: damaged ({error}); remove it and kill the arms anew that should be"
            ) from None
        if found.v != VERSION:
            raise StateError(f"{self.path}: version {found.v}; this version of stream-ctr reads {VERSION}")
        return found

    def kill(self, arm: str, reason: str, cause: str = MANUAL) -> bool:
        """Kill an arm; False when it was killed already, whose reason then stays.

        Raises:
            StateError: the file is damaged, or cannot be written.
        """
        with self._turn():
            killed = self.read().killed
            if arm in killed:
                return False
            entry = Kill(cause, " ".join(reason.split())[:MAX_REASON], time.time_ns() // 1_000_000)
            self._write({**killed, arm: entry})
        return True

    def revive(self, arm: str) -> bool:
        """Let an arm serve again; False when it was not killed.

        Raises:
            StateError: the file is damaged, or cannot be written.
        """
        with self._turn():
            killed = self.read().killed
            if arm not in killed:
                return False
            self._write({name: entry for name, entry in killed.items() if name != arm})
        return True

    def _write(self, killed: dict[str, Kill]) -> None:
        try:
            replace_file(self.path, msgspec.json.encode(Control(killed=killed)) + b"\n")
        except OSError as error:
            raise StateError(f"{self.path}: cannot be written: {error.strerror}") from None

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """One writer at a time: without it, of two kills at once one could be lost."""
        path = self.path.with_name(LOCK)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = path.open("ab")
        except OSError as error:
            raise StateError(f"{path}: cannot be written: {error.strerror}") from None
        with file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
