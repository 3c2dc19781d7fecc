"""The order journal: every decision about the order of events that depended on the wall clock.

A decision belongs to an emission count n: it takes effect after entry n - 1 and before entry n is emitted.
Decisions are durable before they take effect, so the log's contents and the journal together determine the
order of events, whenever and however often a process restarts.

The file is text. Each line is a JSON value, a space and the CRC-32 of the JSON in eight hex digits. The
first line is the base: the result of the decisions before it. Each further line is one write: decisions
that were made together. A truncated or damaged last line was never in effect (it was not yet synced) and is
dropped; damage anywhere else is an error.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from stream_ctr.errors import StateError
from stream_ctr.events.log import TopicPartition
from stream_ctr.state.durable_files import Files

Change = Literal["idle", "active", "end", "bound", "clock"]
FORMAT = 2
READABLE_FORMATS = (1, 2)
"""Format 1 lacks the decisions "bound" and "clock"; everything else is the same."""


class Decision(NamedTuple):
    """One decision, in effect before entry number ``at`` is emitted.

    idle: the partition no longer holds up the order. active: it does again. end: the open windows are closed.
    bound: the partition's look-ahead ends at offset ``value``. clock: the wall clock showed ``value``
    milliseconds.
    """

    at: int
    change: Change
    partition: TopicPartition | None
    value: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class Base:
    """Result of the decisions before emission count ``count``."""

    count: int = 0
    decisions: int = 0
    """Number of these decisions."""
    idle: frozenset[TopicPartition] = frozenset()
    """Partitions that are idle after them."""
    bounds: Mapping[TopicPartition, int] = dataclasses.field(default_factory=dict)
    """Last offset of each partition's look-ahead, if one was set."""
    clock_ms: int = 0
    """The latest wall clock time; 0 if there was none."""

    def after(self, decisions: Iterable[Decision], count: int) -> Base:
        """The base at a later emission count, given the decisions before it."""
        idle, bounds = set(self.idle), dict(self.bounds)
        number, clock_ms = self.decisions, self.clock_ms
        for _, change, partition, value in decisions:
            number += 1
            if change == "clock":
                clock_ms = value
            elif partition is None:
                continue
            elif change == "bound":
                bounds[partition] = value
            elif change == "idle":
                idle.add(partition)
            else:
                idle.discard(partition)
        return Base(count, number, frozenset(idle), bounds, clock_ms)


class Journal:
    """The decisions of one run, in memory; for finite runs that are never resumed.

    >>> journal = Journal()
    >>> journal.append([Decision(5, "idle", TopicPartition("clicks", 0))])
    >>> journal.base_at(6).idle
    frozenset({TopicPartition(topic='clicks', partition=0)})
    """

    def __init__(self) -> None:
        self._base = Base()
        self._groups: list[tuple[Decision, ...]] = []

    @property
    def base(self) -> Base:
        """Where the journal begins."""
        return self._base

    def decisions(self) -> list[Decision]:
        """All decisions since the base, in the order in which they were made."""
        return [decision for group in self._groups for decision in group]

    def base_at(self, count: int) -> Base:
        """The result of all decisions made before ``count``.

        Raises:
            StateError: the journal begins later.
        """
        if count < self._base.count:
            raise StateError(
                f"{self}: begins at emission count {self._base.count}, which is later than the checkpoint's "
                f"{count}; start from a newer checkpoint, or from the log's beginning in a new state folder"
            )
        return self._base.after((d for d in self.decisions() if d.at < count), count)

    def append(self, decisions: Sequence[Decision]) -> None:
        """Make decisions durable, all with one sync; they may take effect when this has returned.

        Raises:
            StateError: the file system refuses. The decisions must not take effect then.
        """
        if decisions:
            self._write(tuple(decisions))
            self._groups.append(tuple(decisions))

    def settle(self) -> None:
        """Undo the possible remains of a failed :meth:`append`; nothing may be emitted before this succeeds.

        Raises:
            StateError: the file system refuses.
        """

    def trim(self, before_count: int) -> None:
        """Fold the decisions before an emission count (the oldest checkpoint's) into the base.

        Raises:
            StateError: the file system refuses; the journal is then as it was.
        """
        if before_count <= self._base.count:
            return
        base = self.base_at(before_count)
        kept = [tuple(d for d in group if d.at >= before_count) for group in self._groups]
        groups = [group for group in kept if group]
        self._rewrite(base, groups)
        self._base, self._groups = base, groups

    def cut(self, count: int) -> None:
        """Forget the decisions from an emission count on: the entries behind them are no longer in the log.

        Raises:
            StateError: the file system refuses; the journal is then as it was.
        """
        groups = [g for group in self._groups if (g := tuple(d for d in group if d.at < count))]
        self._rewrite(self._base, groups)
        self._groups = groups

    def __str__(self) -> str:
        return "the order journal in memory"

    def _write(self, group: tuple[Decision, ...]) -> None:
        pass

    def _rewrite(self, base: Base, groups: list[tuple[Decision, ...]]) -> None:
        pass


class FileJournal(Journal):
    """The decisions of one trainer, in a file of its state folder.

    Raises:
        StateError: the file is damaged other than in its last line, or cannot be read or created.
    """

    def __init__(self, path: str | os.PathLike[str], files: Files | None = None) -> None:
        super().__init__()
        self.path = Path(path)
        self._files = files or Files()
        self._size = 0
        self._in_doubt = False
        self._named = True
        try:
            if self.path.exists():
                self._read(self.path.read_bytes())
            else:
                self._rewrite(self._base, [])
        except OSError as error:
            raise self._failed("open", error) from None

    def __str__(self) -> str:
        return f"the order journal {self.path}"

    def settle(self) -> None:
        # The next start may find a line whose sync failed, although it was never in effect here.
        if self._in_doubt:
            self._put(b"")

    def _write(self, group: tuple[Decision, ...]) -> None:
        line = _line([_plain(decision) for decision in group])
        self._put(line)
        self._size += len(line)

    def _put(self, content: bytes) -> None:
        """Write after the last good line and truncate the file there."""
        self._in_doubt = True
        try:
            if not self._named:
                self._files.sync_folder(self.path.parent)
                self._named = True
            self._files.append(self.path, content, self._size)
            self._files.sync_file(self.path)
        except OSError as error:
            raise self._failed("write", error) from None
        self._in_doubt = False

    def _rewrite(self, base: Base, groups: list[tuple[Decision, ...]]) -> None:
        content = b"".join([_line(_plain_base(base)), *(_line([_plain(d) for d in g]) for g in groups)])
        temporary = self.path.with_name(self.path.name + ".new")
        try:
            self._files.write(temporary, content)
            self._files.sync_file(temporary)
            self._files.rename(temporary, self.path)
            # The new file is the journal now. Until its name is durable, nothing may depend on it: after a
            # power failure here, the old file is back.
            self._size, self._in_doubt, self._named = len(content), False, False
            self._files.sync_folder(self.path.parent)
            self._named = True
        except OSError as error:
            raise self._failed("write", error) from None

    def _read(self, content: bytes) -> None:
        *lines, rest = content.split(b"\n")
        values: list[Any] = []
        for number, line in enumerate(lines):
            value = _value(line)
            if value is None:
                last = number == len(lines) - 1 and not rest
                if number == 0 or not last or _swallowed_a_line(line):
                    raise self._damaged(number + 1)
                break
            values.append(value)
        if _swallowed_a_line(rest):
            raise self._damaged(len(lines) + 1)
        try:
            self._base = _base(values[0])
            self._groups = [tuple(_decision(item) for item in group) for group in values[1:]]
            counts = [self._base.count, *(d.at for d in self.decisions())]
            if counts != sorted(counts):
                raise ValueError("counts descend")
        except (IndexError, KeyError, TypeError, ValueError):
            raise StateError(f"{self}: is not a journal of format {FORMAT}") from None
        self._size = sum(len(line) + 1 for line in lines[: len(values)])

    def _damaged(self, line: int) -> StateError:
        return StateError(
            f"{self}: line {line} is damaged; without it the order of events cannot be reproduced. "
            "Restore the file, or start from the log's beginning in a new state folder"
        )

    def _failed(self, verb: str, error: OSError) -> StateError:
        return StateError(f"{self}: cannot {verb} it: {error.strerror or error}")


_WITH_VALUE = ("bound", "clock")


def _line(value: Any) -> bytes:
    text = json.dumps(value, separators=(",", ":")).encode()
    return b"%s %08x\n" % (text, zlib.crc32(text))


def _value(line: bytes) -> Any:
    """The JSON of a line, or None if the line is damaged."""
    text, _, check = line.rpartition(b" ")
    if check != b"%08x" % zlib.crc32(text):
        return None
    try:
        return json.loads(text)
    except ValueError:
        return None


def _swallowed_a_line(tail: bytes) -> bool:
    """Whether a damaged last line begins with a complete one: then a line break is lost, not a line's end."""
    ends = (match.end() for match in re.finditer(rb" [0-9a-f]{8}", tail))
    return any(end < len(tail) and _value(tail[:end]) is not None for end in ends)


def _plain(decision: Decision) -> list[Any]:
    value = [decision.value] if decision.change in _WITH_VALUE else []
    return [decision.at, decision.change, *(decision.partition or ()), *value]


def _decision(item: Any) -> Decision:
    count, change, *rest = item
    if change not in get_args(Change) or not isinstance(count, int):
        raise ValueError(change)
    value = int(rest.pop()) if change in _WITH_VALUE else 0
    if change in ("end", "clock"):
        if rest:
            raise ValueError(change)
        return Decision(count, change, None, value)
    topic, number = rest
    return Decision(count, change, TopicPartition(str(topic), int(number)), value)


def _plain_base(base: Base) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "count": base.count,
        "decisions": base.decisions,
        "idle": [list(partition) for partition in sorted(base.idle)],
        "bounds": [[*partition, offset] for partition, offset in sorted(base.bounds.items())],
        "clock_ms": base.clock_ms,
    }


def _base(item: Any) -> Base:
    if item["format"] not in READABLE_FORMATS:
        raise ValueError(item["format"])
    idle = frozenset(TopicPartition(str(topic), int(number)) for topic, number in item["idle"])
    bounds = {
        TopicPartition(str(topic), int(number)): int(offset)
        for topic, number, offset in item.get("bounds", [])
    }
    return Base(int(item["count"]), int(item["decisions"]), idle, bounds, int(item.get("clock_ms", 0)))
