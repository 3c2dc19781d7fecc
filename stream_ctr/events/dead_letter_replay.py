"""Replay of dead letters: appends their original bytes to the partitions they came from.

A letter is replayed once. Two notes in the dead-letter topic enclose each append: ``begun``, which records
the end offset of the source partition, before it, and ``done`` after its acknowledgement. An interrupted run
leaves ``begun`` without ``done``. The next run then searches the source partition from that end offset for
the header that replayed records carry, and appends only the missing records.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Literal

import msgspec

from stream_ctr.errors import UsageError
from stream_ctr.events.dead_letters import (
    NOTE_HEADER,
    DeadLetter,
    Place,
    held_entries,
    list_dead_letters,
    place_key,
)
from stream_ctr.events.log import Entry, EventLog, Record

REPLAYED_HEADER = "stream-ctr-replayed-from"
"""Header of a replayed record: topic, partition and offset of the original, separated by slashes."""

_CHUNK = 200


class ReplayNote(msgspec.Struct, kw_only=True, frozen=True):
    """Progress of one letter's replay; ``end`` is its source partition's end offset before the append."""

    v: int = 1
    state: Literal["begun", "done"]
    topic: str
    partition: int
    offset: int
    end: int


@dataclass(frozen=True, slots=True)
class Selection:
    """Filter over dead letters.

    >>> Selection(topic="clicks", offsets=(10, 20)).takes(
    ...     DeadLetter(reason="not JSON", topic="clicks", partition=0, offset=20, timestamp_ms=0))
    True
    """

    reason: str = ""
    """Text that the reason contains, ignoring case."""
    topic: str = ""
    """Source topic of the unusable record."""
    partition: int | None = None
    """Source partition."""
    offsets: tuple[int, int] | None = None
    """First and last source offset, both included."""

    def takes(self, letter: DeadLetter) -> bool:
        """Whether a letter is selected."""
        return (
            self.reason.lower() in letter.reason.lower()
            and self.topic in ("", letter.topic)
            and self.partition in (None, letter.partition)
            and (self.offsets is None or self.offsets[0] <= letter.offset <= self.offsets[1])
        )


def offset_range(text: str) -> tuple[int, int]:
    """Parse ``A:B``, either end optional, or a single offset.

    Raises:
        UsageError: the text has another form, or A is greater than B.

    >>> offset_range("3:7"), offset_range("5"), offset_range(":7")
    ((3, 7), (5, 5), (0, 7))
    """
    first, colon, last = text.partition(":")
    if (
        text == ":"
        or not all((part.isascii() and part.isdigit()) or not part for part in (first, last))
        or not text
    ):
        raise UsageError(f"--offsets must be FIRST:LAST, FIRST:, :LAST or one offset, got {text!r}")
    found = int(first or 0), int(last) if last else (2**63 if colon else int(first))
    if found[0] > found[1]:
        raise UsageError(f"--offsets {text!r}: the last offset must not be below the first")
    return found


@dataclass
class ReplayReport:
    """Result of a replay, in letters."""

    replayed: int = 0
    """Appended to their source topic; in a dry run, the letters that would be."""
    replayed_before: int = 0
    """Skipped: an earlier run replayed them."""
    cut_short: int = 0
    """Skipped: the record was too large for a dead letter, which holds only its beginning."""
    stray: int = 0
    """Skipped: records of the dead-letter topic that are not dead letters."""

    def as_dict(self) -> dict[str, int]:
        """The counts, for ``--json``."""
        return asdict(self)


def replay_notes(log: EventLog, topic: str) -> dict[Place, ReplayNote]:
    """The latest note about each letter."""
    notes: dict[Place, ReplayNote] = {}
    for entry in held_entries(log, topic):
        if any(name == NOTE_HEADER for name, _ in entry.headers):
            note = msgspec.json.decode(entry.value or b"", type=ReplayNote)
            notes[note.topic, note.partition, note.offset] = note
    return notes


def replay_dead_letters(
    log: EventLog,
    topic: str,
    selection: Selection,
    *,
    limit: int = 0,
    dry_run: bool = False,
    progress: Callable[[DeadLetter, ReplayReport], None] = lambda letter, report: None,
) -> ReplayReport:
    """Append the original bytes of the selected letters to their topic, partition and key.

    Replays at most ``limit`` letters (0: all). Only one replay may run on a log at a time.

    Raises:
        LogError: a topic does not exist, or the log rejects the records; a later run resumes.
    """
    report = ReplayReport()
    notes = replay_notes(log, topic)
    begun = _replayed_without_done(log, [note for note in notes.values() if note.state == "begun"])

    def pending() -> Iterable[DeadLetter]:
        for letter in list_dead_letters(log, topic):
            note = notes.get(letter.place)
            if not selection.takes(letter):
                continue
            if letter.topic == topic:
                report.stray += 1
            elif letter.cut_short:
                report.cut_short += 1
            elif (note is not None and note.state == "done") or letter.place in begun:
                report.replayed_before += 1
            else:
                yield letter

    letters = iter(islice(pending(), limit or None))
    while chunk := list(islice(letters, _CHUNK)):
        if not dry_run:
            _append(log, topic, chunk)
        for letter in chunk:
            report.replayed += 1
            progress(letter, report)
    if begun and not dry_run:
        log.append(topic, [_note("done", note) for note in begun.values()])
    return report


def _append(log: EventLog, topic: str, letters: list[DeadLetter]) -> None:
    """Append one chunk: ``begun`` notes, the records, ``done`` notes."""
    ends = {name: log.end_offsets(name) for name in sorted({letter.topic for letter in letters})}
    notes = [
        ReplayNote(
            state="begun",
            topic=letter.topic,
            partition=letter.partition,
            offset=letter.offset,
            end=ends[letter.topic].get(letter.partition, 0),
        )
        for letter in letters
    ]
    log.append(topic, [_note("begun", note) for note in notes])
    records: dict[str, list[Record]] = defaultdict(list)
    for letter in letters:
        records[letter.topic].append(
            Record(
                letter.key,
                letter.value,
                max(letter.timestamp_ms, 0),
                letter.partition,
                ((REPLAYED_HEADER, place_key(letter.place)),),
            )
        )
    for name, appended in records.items():
        log.append(name, appended)
    log.append(topic, [_note("done", note) for note in notes])


def _note(state: Literal["begun", "done"], note: ReplayNote) -> Record:
    return Record(
        key=place_key((note.topic, note.partition, note.offset)),
        value=msgspec.json.encode(msgspec.structs.replace(note, state=state)),
        timestamp_ms=0,
        headers=((NOTE_HEADER, state.encode()),),
    )


def _replayed_without_done(log: EventLog, begun: list[ReplayNote]) -> dict[Place, ReplayNote]:
    """The notes whose record is in the source partition although its ``done`` note is missing."""
    starts: dict[str, dict[int, int]] = defaultdict(dict)
    for note in begun:
        start = starts[note.topic].get(note.partition, note.end)
        starts[note.topic][note.partition] = min(start, note.end)
    found: set[bytes] = set()
    for name, offsets in starts.items():
        found.update(filter(None, map(_replayed_from, held_entries(log, name, offsets))))
    places = ((note, (note.topic, note.partition, note.offset)) for note in begun)
    return {place: note for note, place in places if place_key(place) in found}


def _replayed_from(entry: Entry) -> bytes | None:
    return dict(entry.headers).get(REPLAYED_HEADER)
