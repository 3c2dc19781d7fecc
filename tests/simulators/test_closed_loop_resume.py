"""The resume point of an interrupted closed loop: missing visits and pending clicks."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from simulators.closed_loop.resume import MAX_CONNECTIONS, ResumePoint, find_resume_point
from simulators.closed_loop.visits import Visits
from simulators.log_writer.writer import Topics
from simulators.world.settings import WorldConfig
from simulators.world.world import World
from stream_ctr.errors import LogError
from stream_ctr.events.log import EventLog, Record
from stream_ctr.events.open import open_log
from stream_ctr.events.records import RECORD_VERSION, Click, Impression
from tests.support.simulated_logs import url_of

CONFIG = WorldConfig(users=50, ads=30, sites=10, delay_seconds=20.0, longest_delay_seconds=60.0)
VISITS = Visits(World(CONFIG), 2)
TOPICS = Topics("impressions", "clicks", 3)


@pytest.fixture(params=[7, 1000])
def log(
    tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[EventLog]:
    """An empty log, read backwards in many small steps and in one large step."""
    monkeypatch.setattr("simulators.closed_loop.resume._FIRST_STEP", request.param)
    opened = open_log(url_of(tmp_path / "log.db"), create=True)
    TOPICS.create(opened)
    yield opened
    opened.close()


def show(log: EventLog, numbers: list[int]) -> None:
    records = []
    for number in numbers:
        visit = VISITS.visit(number)
        impression = Impression(
            v=RECORD_VERSION, event_id=visit.event_id, ts_ms=visit.time_ms, features={}, truth=visit.truth[1]
        )
        records.append(Record(visit.event_id.encode(), msgspec.json.encode(impression), visit.time_ms))
    log.append("impressions", records)


def click_of(number: int) -> int | None:
    """Time of the click on the visit if candidate 1 is shown."""
    visit = VISITS.visit(number)
    return visit.time_ms + visit.delay_ms if visit.clicks(1) else None


def click(log: EventLog, numbers: list[int]) -> None:
    records = []
    for number in numbers:
        event_id, time_ms = f"{VISITS.prefix}{number}", click_of(number) or 0
        content = msgspec.json.encode(Click(v=RECORD_VERSION, event_id=event_id, ts_ms=time_ms))
        records.append(Record(event_id.encode(), content, time_ms))
    log.append("clicks", records)


@pytest.mark.parametrize("last", [40, 700, 1500])
def test_exactly_the_missing_visits_and_clicks_are_found(log: EventLog, last: int) -> None:
    chance = random.Random(last)
    missing = sorted(chance.sample(range(max(0, last - 8), last), 3))
    order = [number for number in range(last + 1) if number not in missing]
    for place in range(0, len(order) - 8, 8):  # several connections: the order is not exact
        part = order[place : place + 8]
        chance.shuffle(part)
        order[place : place + 8] = part
    show(log, order)
    now_ms = VISITS.visit(last).time_ms
    due = {number: at for number in order if (at := click_of(number)) is not None}
    written = sorted((at, number) for number, at in due.items() if at <= now_ms)
    click(log, [number for _, number in written])
    found = find_resume_point(log, TOPICS, VISITS)
    pending = sorted((at, number) for number, at in due.items() if at > now_ms)
    assert pending
    assert found == ResumePoint(last + 1, missing, pending, now_ms)


def test_a_visit_with_a_click_in_the_log_is_not_missing(log: EventLog) -> None:
    """The server may not have written its impression yet."""
    clicked = next(number for number in range(50) if click_of(number) is not None)
    show(log, [number for number in range(60) if number != clicked])
    click(log, [clicked])
    assert clicked not in find_resume_point(log, TOPICS, VISITS).missing


def test_only_the_end_of_a_long_log_is_read(log: EventLog) -> None:
    """A visit abandoned long ago is not sent again."""
    show(log, [number for number in range(1000) if number != 3])
    assert find_resume_point(log, TOPICS, VISITS).missing == []
    show(log, [1002])
    assert find_resume_point(log, TOPICS, VISITS).missing == [1000, 1001]
    assert MAX_CONNECTIONS < 900


def test_a_late_click_is_not_written_again(log: EventLog) -> None:
    show(log, list(range(200)))
    clicks = sorted((at, number) for number in range(200) if (at := click_of(number)) is not None)
    click(log, [number for _, number in reversed(clicks)])  # out of order by more than any tick
    assert find_resume_point(log, TOPICS, VISITS).pending == []


def test_a_log_of_other_writers_starts_a_new_run(log: EventLog) -> None:
    assert find_resume_point(log, TOPICS, VISITS) == ResumePoint()
    show(log, list(range(20)))
    other = Visits(World(replace(CONFIG, seed=2)), 2)
    assert find_resume_point(log, TOPICS, other) == ResumePoint()


def test_a_log_without_its_visits_after_retention_is_rejected(log: EventLog) -> None:
    show(log, list(range(20)))
    for partition, end in log.end_offsets("impressions").items():
        log.trim("impressions", partition, end)
    with pytest.raises(LogError, match=r"retention has deleted all visits .* without --resume"):
        find_resume_point(log, TOPICS, VISITS)


def test_an_invalid_impression_is_reported_in_one_line(log: EventLog) -> None:
    event_id = f"{VISITS.prefix}0".encode()
    log.append("impressions", [Record(event_id, b"{", 1)])
    with pytest.raises(LogError, match=r"cannot resume: topic 'impressions' partition . offset 0"):
        find_resume_point(log, TOPICS, VISITS)
