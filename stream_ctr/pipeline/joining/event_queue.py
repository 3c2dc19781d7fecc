"""Records by event id, in the order in which they were added; the oldest may lie in segments on disk.

Times of the order never descend, so the oldest record was added first. The position of a record is the number
of records added before it. Positions ascend from the first record of the oldest segment to the newest record
in memory. Two marks move over them: one behind the last record that became due, one behind the last that was
forgotten.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice, pairwise
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from stream_ctr.pipeline.joining.segments import Held, Segment, SegmentFolder, SegmentName, hash_of
from stream_ctr.state.state import Json, State

RECORD_BYTES: Final = 384
"""Memory of one record in CPython without its id and payload: a measured upper estimate."""


def size_of(held: Held) -> int:
    """Estimated memory of a record in bytes."""
    return RECORD_BYTES + len(held.event_id) + (len(held.payload) if held.payload is not None else 0)


class Queue:
    """A first-in, first-out queue with an index by event id."""

    def __init__(self) -> None:
        self.segments: list[Segment] = []
        """Segments with remembered records, oldest first."""
        self.bytes = 0
        """Estimated memory of the records that are not in segments."""
        self.head = self.due = self.end = 0
        """Positions of the oldest remembered record, the oldest not yet due, and the next one to be added."""
        self._kept: dict[str, Held] = {}
        self._line: deque[Held] = deque()
        self._waiting: deque[Held] = deque()
        self._latest: Segment | None = None
        self._changes: dict[int, tuple[int, int]] = {}
        """Status and own time of records that changed after they were written to a segment."""

    @property
    def spilled(self) -> int:
        """The position before which records lie in segments."""
        return self.end - len(self._line)

    def find(self, event_id: str) -> Held | None:
        """The record with that id; of several, the one added last."""
        held = self._kept.get(event_id)
        if held is not None or not self.segments:
            return held
        hashed = hash_of(event_id)
        for segment in reversed(self.segments):
            for place in reversed(segment.places(event_id, hashed)):
                if segment.start + place >= self.head:
                    return self._at(segment, place)
        return None

    def add(self, held: Held) -> None:
        """Add a record; its place time must not be earlier than the previous record's."""
        held.position = self.end
        self.end += 1
        self._kept[held.event_id] = held
        self._line.append(held)
        self._waiting.append(held)
        self.bytes += size_of(held)

    def change(self, held: Held) -> None:
        """Keep a record's new status or own time, also if the record lies in a segment."""
        if held.position < self.spilled:
            self._changes[held.position] = (held.status, held.ts_ms)

    def release(self, held: Held) -> None:
        """Free the payload of a record."""
        if held.position >= self.spilled and held.payload is not None:
            self.bytes -= len(held.payload)
            held.payload = None

    def may_be_due(self, before_ms: int) -> bool:
        """Whether :meth:`pop_due` may find records: a cheap test with false positives."""
        if self.due < self.spilled:
            return True
        return bool(self._waiting) and self._waiting[0].time_ms < before_ms

    def may_be_old(self, before_ms: int) -> bool:
        """Whether :meth:`forget` may find records: a cheap test with false positives."""
        return bool(self.segments) or (bool(self._line) and self._line[0].time_ms < before_ms)

    def pop_due(self, before_ms: int) -> Iterator[Held]:
        """Records whose place time is before ``before_ms``, each once, oldest first."""
        while self.due < self.end:
            if self.due < self.spilled:
                segment = self._segment_of(self.due)
                if segment.time_ms(self.due - segment.start) >= before_ms:
                    return
                held = self._at(segment, self.due - segment.start)
            else:
                held = self._waiting[0]
                if held.time_ms >= before_ms:
                    return
                self._waiting.popleft()
            self.due += 1
            yield held

    def forget(self, before_ms: int, status: int) -> int:
        """Forget records whose place time is before ``before_ms``; returns how many of them had
        ``status``."""
        counted = 0
        while self.segments:
            segment = self.segments[0]
            place = self.head - segment.start
            if place == len(segment):
                del self.segments[0]
                self._latest = None
                continue
            if segment.time_ms(place) >= before_ms:
                return counted
            known = self._changes.pop(self.head, None)
            counted += (known[0] if known else segment.status(place)) == status
            self.head += 1
            self.due = max(self.due, self.head)
        line = self._line
        while line and line[0].time_ms < before_ms:
            held = line.popleft()
            self.head += 1
            if self.due < self.head:
                self._waiting.popleft()
                self.due = self.head
            self.bytes -= size_of(held)
            counted += held.status == status
            if self._kept.get(held.event_id) is held:
                del self._kept[held.event_id]
        return counted

    def newest(self, statuses: tuple[int, ...]) -> Held | None:
        """The newest record that is not yet due and has one of these statuses."""
        for held in reversed(self._waiting):
            if held.status in statuses:
                return held
        for position in range(self.spilled - 1, self.due - 1, -1):
            segment = self._segment_of(position)
            held = self._at(segment, position - segment.start)
            if held.status in statuses:
                return held
        return None

    def spill(self, to_bytes: int, folder: SegmentFolder, number: int) -> bool:
        """Write the oldest records to segment ``number`` until ``to_bytes`` of memory are left; False if
        there are none.

        Raises:
            StateError: the segment cannot be written; the queue is unchanged.
        """
        count, left = 0, self.bytes
        for held in self._line:
            if left <= to_bytes:
                break
            left -= size_of(held)
            count += 1
        if not count:
            return False
        start = self.spilled
        self.segments.append(folder.write(number, start, list(islice(self._line, count))))
        for _ in range(count):
            held = self._line.popleft()
            if self._kept.get(held.event_id) is held:
                del self._kept[held.event_id]
        while self._waiting and self._waiting[0].position < start + count:
            self._waiting.popleft()
        self.bytes = left
        return True

    def state(self) -> State:
        """Records in memory as columns, segments by name, and changes to the records in segments."""
        changes = sorted((position, *change) for position, change in self._changes.items())
        segments: list[Json] = [[*segment.named, segment.start] for segment in self.segments]
        return State(
            {**columns_of(self._line), "changes": np.array(changes, np.int64).reshape(-1, 3)},
            {"head": self.head, "due": self.due, "end": self.end, "segments": segments},
        )

    @classmethod
    def from_state(cls, state: State, folder: SegmentFolder | None) -> Queue:
        """The queue whose :meth:`state` is ``state``.

        Raises:
            KeyError, ValueError, IndexError, TypeError: the state is damaged.
            StateError: a segment is missing or truncated.
        """
        queue = cls()
        records = records_of(state.arrays)
        marks = [state.values[name] for name in ("head", "due", "end")]
        head, due, end = (mark for mark in marks if isinstance(mark, int))
        begin = first = end - len(records)
        segments = state.values["segments"]
        if not isinstance(segments, list) or (segments and folder is None):
            raise ValueError("segments must be a list, and need a folder")
        for item in segments:
            match item:
                case [str(name), int(size), str(digest), int(start)] if folder is not None:
                    queue.segments.append(folder.open(SegmentName(name, size, digest), start))
                case _:
                    raise ValueError("a segment lacks a part")
        for segment, following in pairwise([*queue.segments, None]):
            if segment is not None:
                first = min(first, segment.start)
                if segment.start + len(segment) != (following.start if following else begin):
                    raise ValueError("segments do not follow one another")
        if not 0 <= first <= head <= due <= end:
            raise ValueError(f"marks {head}, {due}, {end} do not fit records {first} to {end}")
        queue.head, queue.due, queue.end = head, due, begin
        for held in records:
            queue.add(held)
            if held.position < due:
                queue._waiting.pop()
        for position, status, ts_ms in state.arrays["changes"].tolist():
            queue._changes[position] = (status, ts_ms)
        return queue

    def _segment_of(self, position: int) -> Segment:
        # Positions are requested in ascending order, so it is nearly always the same segment as before.
        found = self._latest
        if found is None or not 0 <= position - found.start < len(found):
            found = next(s for s in self.segments if position < s.start + len(s))
            self._latest = found
        return found

    def _at(self, segment: Segment, place: int) -> Held:
        held = segment.held(place)
        if (known := self._changes.get(held.position)) is not None:
            held.status, held.ts_ms = known
        return held


def columns_of(records: Iterable[Held]) -> dict[str, NDArray[Any]]:
    """N records as arrays: N numbers each, and texts as one buffer with N + 1 offsets."""
    items = list(records)
    return {
        **_pack("ids", [item.event_id.encode() for item in items]),
        **_pack("payloads", [item.payload or b"" for item in items]),
        "number": np.array([item.number for item in items], np.int64),
        "ts_ms": np.array([item.ts_ms for item in items], np.int64),
        "time_ms": np.array([item.time_ms for item in items], np.int64),
        "status": np.array([item.status for item in items], np.uint8),
    }


def records_of(arrays: dict[str, NDArray[Any]]) -> list[Held]:
    """The inverse of :func:`columns_of`.

    Raises:
        KeyError, ValueError: the arrays do not fit together.
    """
    numbers = (arrays[name].tolist() for name in ("number", "ts_ms", "time_ms", "status"))
    return [
        Held(event_id.decode(), number, ts_ms, time_ms, payload or None, status)
        for event_id, payload, number, ts_ms, time_ms, status in zip(
            _unpack("ids", arrays), _unpack("payloads", arrays), *numbers, strict=True
        )
    ]


def _pack(name: str, items: list[bytes]) -> dict[str, NDArray[Any]]:
    offsets = np.zeros(len(items) + 1, np.int64)
    np.cumsum([len(item) for item in items], out=offsets[1:])
    return {f"{name}_bytes": np.frombuffer(b"".join(items), np.uint8), f"{name}_offsets": offsets}


def _unpack(name: str, arrays: dict[str, NDArray[Any]]) -> list[bytes]:
    buffer = arrays[f"{name}_bytes"].tobytes()
    offsets = arrays[f"{name}_offsets"].tolist()
    if offsets[0] != 0 or offsets[-1] != len(buffer) or offsets != sorted(offsets):
        raise ValueError(f"{name}: offsets do not fit {len(buffer)} bytes")
    return [buffer[a:b] for a, b in pairwise(offsets)]
