"""The small files by which servers, watcher and command line tell each other about an experiment.

All lie in ``{train.state}/experiment``:

    control.json   which arms are killed, and why; written by the command line and by servers
    sums.json      impressions and clicks of each arm; written by the watcher, read by servers
    gaps.jsonl     spans in which servers could not log impressions; a line each time one opens or closes

A reader finds a whole file or none: each is written beside and renamed, and lines are appended in one write.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import msgspec

from stream_ctr.errors import StateError

CONTROL: Final = "control.json"
SUMS: Final = "sums.json"
GAPS: Final = "gaps.jsonl"
VERSION: Final = 1


class Kill(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Why and since when an arm does not serve."""

    cause: str
    """manual, or the guard that did it: not_ready, non_finite, saturated, latency, calibration, observed."""
    reason: str
    """One line for people."""
    since_ms: int
    """Wall clock."""


class Control(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Content of control.json."""

    v: int = VERSION
    killed: dict[str, Kill] = {}
    """By arm; it stays, also over a new salt, until the arm is revived."""


class ArmSums(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is known about the impressions of the users assigned to an arm, labels final."""

    impressions: int
    clicks: int
    predicted: float | None = None
    """Sum over the same impressions of the probability that the served arm gave; None where not summed."""


class Sums(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Content of sums.json."""

    experiment: str
    salt: str
    """Sums of another salt are another experiment's, and are not used."""
    arms: dict[str, ArmSums]
    updated_ms: int
    """Wall clock at which they were written."""
    v: int = VERSION


class LogGap(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A span in which a server could not log impressions, as a line of gaps.jsonl."""

    worker: str
    """Which server process: host and process id."""
    start_ms: int
    """Wall clock of the first refused append or dropped impression; with ``worker`` the span's identity."""
    end_ms: int | None = None
    """Wall clock of the next append that the log took; None while it lasts, or if the server ended in it."""
    dropped: int = 0
    """Impressions that were lost; those that only waited are in the log."""
    reason: str = ""
    v: int = VERSION


def read_sums(folder: Path) -> Sums | None:
    """The sums in ``folder``; None when there is no file.

    Raises:
        StateError: it is there and is no such file.
    """
    path = folder / SUMS
    try:
        return msgspec.json.decode(path.read_bytes(), type=Sums)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StateError(f"{path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise StateError(f"{path}: not the sums that the watcher writes ({error}); start it again") from None


def read_gaps(folder: Path) -> list[LogGap]:
    """The spans in ``folder`` in the order of their starts, each as its last line tells it.

    A line that was not written whole is passed over: its span is told by the line that opened it.

    Raises:
        StateError: the file is there and cannot be read.
    """
    path = folder / GAPS
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StateError(f"{path}: {error.strerror}") from None
    found: dict[tuple[str, int], LogGap] = {}
    for line in lines:
        try:
            gap = msgspec.json.decode(line, type=LogGap)
        except (ValueError, RecursionError):
            continue
        found[gap.worker, gap.start_ms] = gap
    return sorted(found.values(), key=lambda gap: (gap.start_ms, gap.worker))


def append_gap(folder: Path, gap: LogGap) -> None:
    """Add one line in one write, which readers and other processes see whole.

    Raises:
        OSError: the file cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / GAPS, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(descriptor, msgspec.json.encode(gap) + b"\n")
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_file(path: Path, content: bytes) -> None:
    """Write a file beside and put it in place, so that a reader finds the old one or the new one.

    Raises:
        OSError: it cannot be written; the old one is as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"{path.name}.writing-{os.getpid()}")
    try:
        with beside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        beside.rename(path)
    finally:
        beside.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
