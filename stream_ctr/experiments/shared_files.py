"""The files that servers, watcher and command line share about an experiment.

All of them are in ``{train.state}/experiment``:

    control.json   killed arms and the reasons; written by the command line and by servers
    sums.json      impressions and clicks of each arm; written by the watcher, read by servers
    gaps.jsonl     spans in which servers could not log impressions; a line when one opens and when it ends

A reader never sees a partial file: each is written under a temporary name and renamed, and a line is appended
in one write.
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
    """Why an arm is killed, and since when."""

    cause: str
    """manual, or the guard that killed the arm: not_ready, non_finite, saturated, latency, calibration,
    observed."""
    reason: str
    """Explanation for operators, one line."""
    since_ms: int
    """Wall-clock time of the kill."""


class Control(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Content of control.json."""

    v: int = VERSION
    killed: dict[str, Kill] = {}
    """Killed arms by name. A kill outlives a change of salt and ends only when the arm is revived."""


class ArmSums(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Sums over the impressions of the users assigned to an arm whose labels are final."""

    impressions: int
    clicks: int
    predicted: float | None = None
    """Sum over the same impressions of the probability from the arm that served; None if not computed."""


class Sums(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Content of sums.json."""

    experiment: str
    salt: str
    """Salt of the experiment. Servers ignore sums under another salt: they belong to another experiment."""
    arms: dict[str, ArmSums]
    updated_ms: int
    """Wall-clock time at which the sums were written."""
    v: int = VERSION


class LogGap(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A span in which a server could not log impressions, as a line of gaps.jsonl."""

    worker: str
    """Server process: host and process id."""
    start_ms: int
    """Wall-clock time of the first failed append or dropped impression; with ``worker``, the span's key."""
    end_ms: int | None = None
    """Wall-clock time of the next successful append; None while the span lasts or if the server exited."""
    dropped: int = 0
    """Impressions lost. Delayed impressions are in the log and do not count."""
    reason: str = ""
    v: int = VERSION


def read_sums(folder: Path) -> Sums | None:
    """The sums in ``folder``; None if there is no file.

    Raises:
        StateError: the file cannot be read or parsed.
    """
    path = folder / SUMS
    try:
        return msgspec.json.decode(path.read_bytes(), type=Sums)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StateError(f"{path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise StateError(
            f"{path}: not a sums file ({error}); restart the watcher, which rewrites it"
        ) from None


def read_gaps(folder: Path) -> list[LogGap]:
    """The spans in ``folder`` by start time. The last line about a span wins.

    Partially written lines are skipped; the line that opened the span still describes it.

    Raises:
        StateError: the file exists and cannot be read.
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
    """Append one line in a single write, so that other processes never see part of it.

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
    """Replace a file atomically: a reader finds either the old content or the new.

    Raises:
        OSError: the file cannot be written; the old content is untouched.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.writing-{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
    finally:
        temporary.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
