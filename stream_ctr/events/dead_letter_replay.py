"""Replaying dead letters: their original bytes go back to where they came from.

A letter is replayed once. Around each append two notes are written to the dead-letter topic: ``begun``, with
where the source partition ended, before it, and ``done`` after its acknowledgement. A run that was cut
off in between leaves ``begun`` alone; the next one looks in the source partition from that end on for the
header that a replayed record carries, and appends only what is not there.
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
"""Header of a replayed record: topic, partition and offset that it was first read at, with slashes."""

_CHUNK = 200


class ReplayNote(msgspec.Struct, kw_only=True, frozen=True):
    """How far the replay of one letter came; ``end`` is where its source partition ended before."""

    v: int = 1
    state: Literal["begun", "done"]
    topic: str
    partition: int
    offset: int
    end: int


@dataclass(frozen=True, slots=True)
class Selection:
    """Which dead letters are meant.

    >>> Selection(topic="clicks", offsets=(10, 20)).takes(
    ...     DeadLetter(reason="not JSON", topic="clicks", partition=0, offset=20, timestamp_ms=0))
    True
    """

    reason: str = ""
    """Text that the reason contains, whatever the case."""
    topic: str = ""
    """Topic that the unusable record came from."""
    partition: int | None = None
    """Its partition."""
    offsets: tuple[int, int] | None = None
    """First and last of its offsets."""

    def takes(self, letter: DeadLetter) -> bool:
        """Whether a letter is meant."""
        return (
            self.reason.lower() in letter.reason.lower()
            and self.topic in ("", letter.topic)
            and self.partition in (None, letter.partition)
            and (self.offsets is None or self.offsets[0] <= letter.offset <= self.offsets[1])
        )


def offset_range(text: str) -> tuple[int, int]:
    """``A:B`` with either end left out, or one offset.

    Raises:
        UsageError: it is something else.

    >>> offset_range("3:7"), offset_range("5"), offset_range(":7")
    ((3, 7), (5, 5), (0, 7))
    """
    first, colon, last = text.partition(":")
    if (
        text == ":"
        or not all((part.isascii() and part.isdigit()) or not part for part in (first, last))
        or not text
    ):
        raise UsageError(f"--offsets {text!r} is no range; write FIRST:LAST, FIRST:, :LAST or one offset")
    found = int(first or 0), int(last) if last else (2**63 if colon else int(first))
    if found[0] > found[1]:
        raise UsageError(f"--offsets {text!r} ends before it begins")
    return found


@dataclass
class ReplayReport:
    """What a replay came to, in letters."""

    replayed: int = 0
    """Appended to the topic they came from; in a dry run, those that would be."""
    replayed_before: int = 0
    """Left out: replayed by an earlier run."""
    cut_short: int = 0
    """Left out: too large for a dead letter, so that only the beginning is kept."""
    stray: int = 0
    """Left out: records of the dead-letter topic that are no dead letters."""

    def as_dict(self) -> dict[str, int]:
        """For ``--json``."""
        return asdict(self)


def replay_notes(log: EventLog, topic: str) -> dict[Place, ReplayNote]:
    """The latest note about each letter that was ever replayed."""
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

    At most ``limit`` (0: all) are replayed. Only one replay may run on a log at a time.

    Raises:
        LogError: a topic is not there, or the log does not take the records; a later run goes on.
    """
    report = ReplayReport()
    notes = replay_notes(log, topic)
    begun = _found_again(log, [note for note in notes.values() if note.state == "begun"])

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
    """One chunk: notes that it begins, the records, notes that it is done."""
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


def _found_again(log: EventLog, begun: list[ReplayNote]) -> dict[Place, ReplayNote]:
    """Those whose record is in its source partition although no note says that it was done."""
    starts: dict[str, dict[int, int]] = defaultdict(dict)
    for note in begun:
        start = starts[note.topic].get(note.partition, note.end)
        starts[note.topic][note.partition] = min(start, note.end)
    there: set[bytes] = set()
    for name, offsets in starts.items():
        there.update(filter(None, map(_replayed_from, held_entries(log, name, offsets))))
    places = ((note, (note.topic, note.partition, note.offset)) for note in begun)
    return {place: note for note, place in places if place_key(place) in there}


def _replayed_from(entry: Entry) -> bytes | None:
    return dict(entry.headers).get(REPLAYED_HEADER)
