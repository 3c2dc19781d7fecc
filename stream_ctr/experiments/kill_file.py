"""The kill switch: a file that the command line and any server can write and that all servers poll."""

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
"""Inode, size and modification time (ns) of a file; zeros if it does not exist."""


def stamp_of(path: Path) -> Stamp:
    """A value that changes whenever the file is replaced or written."""
    try:
        status = path.stat()
    except OSError:
        return 0, 0, 0
    return status.st_ino, status.st_size, status.st_mtime_ns


def check_killable(experiment: ExperimentConfig, arm: str) -> None:
    """Check that an arm can be killed.

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
    """``control.json`` of one state folder. Writers hold a lock; readers need none."""

    def __init__(self, state_folder: Path) -> None:
        self.path = state_folder / FOLDER / CONTROL

    def stamp(self) -> Stamp:
        """A value that changes whenever the file does."""
        return stamp_of(self.path)

    def read(self) -> Control:
        """The killed arms; empty if there is no file.

        Raises:
            StateError: the file cannot be read or parsed, or has another version.
        """
        try:
            found = msgspec.json.decode(self.path.read_bytes(), type=Control)
        except FileNotFoundError:
            return Control()
        except OSError as error:
            raise StateError(f"{self.path}: {error.strerror}") from None
        except (ValueError, RecursionError) as error:
            raise StateError(
                f"{self.path}: damaged ({error}); remove it, then kill again the arms that must not serve"
            ) from None
        if found.v != VERSION:
            raise StateError(f"{self.path}: version {found.v}; this version of stream-ctr reads {VERSION}")
        return found

    def kill(self, arm: str, reason: str, cause: str = MANUAL) -> bool:
        """Kill an arm. False if it was killed already; the earlier reason is kept.

        Raises:
            StateError: the file is damaged, or cannot be written.
        """
        with self._locked():
            killed = self.read().killed
            if arm in killed:
                return False
            entry = Kill(cause, " ".join(reason.split())[:MAX_REASON], time.time_ns() // 1_000_000)
            self._write({**killed, arm: entry})
        return True

    def revive(self, arm: str) -> bool:
        """Let a killed arm serve again. False if it was not killed.

        Raises:
            StateError: the file is damaged, or cannot be written.
        """
        with self._locked():
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
    def _locked(self) -> Iterator[None]:
        """Exclusive access for one writer: without it, one of two concurrent kills could be lost."""
        path = self.path.with_name(LOCK)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = path.open("ab")
        except OSError as error:
            raise StateError(f"{path}: cannot be written: {error.strerror}") from None
        with file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
