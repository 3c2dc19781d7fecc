"""The state of an interrupted run of the closed loop, derived from the log itself.

The log holds the server's impressions and the simulator's clicks. Whether a visit is clicked follows from
its impression: the click draw is a function of the visit's number, and the impression holds the true click
probability of the shown ad. No other state is needed to resume.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import msgspec

from simulators.closed_loop.visits import Visits
from simulators.log_writer.resume import READ_TIMEOUT_SECONDS
from simulators.log_writer.writer import Topics
from stream_ctr.errors import LogError
from stream_ctr.events.log import Entry, EventLog, TopicPartition

MAX_CONNECTIONS: Final = 256
"""Maximum number of concurrent visits: an answered visit can be this far ahead of an unanswered one."""
LATE_MS: Final = 10_000
"""While visits continue, a click reaches the log at most this long after its time."""
_FIRST_STEP: Final = 1000


class _LoggedImpression(msgspec.Struct):
    """The fields of an impression that are used here."""

    event_id: str
    ts_ms: int
    truth: float | None = None


@dataclass
class ResumePoint:
    """The point from which to resume."""

    next_number: int = 0
    """The first visit after all visits in the log."""
    missing: list[int] = field(default_factory=list)
    """Earlier visits that were in flight and left no impression."""
    pending: list[tuple[int, int]] = field(default_factory=list)
    """Clicks that are not in the log: time in milliseconds, and number of the visit."""
    newest_ms: int = 0
    """Event time of the newest impression."""


def find_resume_point(log: EventLog, topics: Topics, visits: Visits) -> ResumePoint:
    """Read both topics backwards from their ends, as far as records may be missing.

    Records of other writers in the same topics are skipped.

    Raises:
        LogError: the log does not return its entries, or retention has deleted every visit.
    """
    partitions = [TopicPartition(topics.impressions, number) for number in range(topics.partitions)]
    tails = [_read_back(log, place, lambda entry: _number(entry, visits) is not None) for place in partitions]
    own = [(_number(entry, visits), entry) for tail in tails for entry in tail]
    numbers = {number: _decoded(log, entry).ts_ms for number, entry in own if number is not None}
    if not numbers:
        if any(log.start_offsets(topics.impressions).values()):
            raise LogError(
                f"{log.url}: cannot resume: retention has deleted all visits from topic "
                f"{topics.impressions!r}; start a new run without --resume"
            )
        return ResumePoint()
    newest_number, newest_ms = max(numbers), max(numbers.values())
    low_number = newest_number - MAX_CONNECTIONS
    low_ms = newest_ms - round(1000 * visits.world.config.longest_delay_seconds) - LATE_MS

    def settled(entry: Entry) -> bool:
        number = _number(entry, visits)
        return number is not None and number < low_number - MAX_CONNECTIONS and _event_ms(entry) < low_ms

    shown: dict[int, _LoggedImpression] = {}
    for place in partitions:
        for entry in _read_back(log, place, settled):
            number = _number(entry, visits)
            if number is not None:
                shown.setdefault(number, _decoded(log, entry))
    oldest_ms = min(each.ts_ms for each in shown.values())
    clicked = {
        _number(entry, visits)
        for number in range(topics.partitions)
        for entry in _read_back(
            log,
            TopicPartition(topics.clicks, number),
            lambda entry: _event_ms(entry) < oldest_ms - LATE_MS,
        )
    }
    missing = [n for n in range(max(0, low_number), newest_number) if n not in shown and n not in clicked]
    pending = [
        (click_ms, number)
        for number, each in shown.items()
        if each.ts_ms >= low_ms and number not in clicked
        if (click_ms := _click_ms(number, each, visits)) is not None
    ]
    return ResumePoint(newest_number + 1, missing, sorted(pending), newest_ms)


def _click_ms(number: int, shown: _LoggedImpression, visits: Visits) -> int | None:
    """Time of the click on the impression; None if there is none."""
    draw, delay_ms = visits.click_draw(number)
    return shown.ts_ms + delay_ms if shown.truth is not None and draw < shown.truth else None


def _number(entry: Entry, visits: Visits) -> int | None:
    return visits.number_of((entry.key or b"").decode(errors="replace"))


def _event_ms(entry: Entry) -> float:
    """Event time of a record, which differs from its log timestamp; infinity if the record has none."""
    try:
        return msgspec.json.decode(entry.value or b"", type=_LoggedImpression).ts_ms
    except (msgspec.DecodeError, UnicodeDecodeError):
        return math.inf


def _decoded(log: EventLog, entry: Entry) -> _LoggedImpression:
    try:
        return msgspec.json.decode(entry.value or b"", type=_LoggedImpression)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise LogError(
            f"{log.url}: cannot resume: topic {entry.topic!r} partition {entry.partition} offset "
            f"{entry.offset}: {error}"
        ) from None


def _read_back(log: EventLog, place: TopicPartition, enough: Callable[[Entry], bool]) -> list[Entry]:
    """The end of a partition, far enough back that its first entry satisfies ``enough``, or all of it."""
    start = log.start_offsets(place.topic)[place.partition]
    end = log.end_offsets(place.topic)[place.partition]
    step = _FIRST_STEP
    while True:
        begin = max(start, end - step)
        entries = _read(log, place, begin, end)
        if begin == start or (entries and enough(entries[0])):
            return entries
        step *= 4


def _read(log: EventLog, place: TopicPartition, begin: int, end: int) -> list[Entry]:
    if begin >= end:
        return []
    found: list[Entry] = []
    reader = log.reader({place: begin})
    try:
        while reader.positions()[place] < end:
            entries = reader.poll(10_000, READ_TIMEOUT_SECONDS)
            if not entries:
                raise LogError(
                    f"{log.url}: no response within {READ_TIMEOUT_SECONDS:g} s for topic {place.topic!r} "
                    f"partition {place.partition}; retry when the log is reachable"
                )
            found += entries
    finally:
        reader.close()
    return [entry for entry in found if entry.offset < end]
