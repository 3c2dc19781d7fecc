"""Dead letters are replayed to their source, once, on both logs."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from stream_ctr.cli import main
from stream_ctr.errors import LogError, UsageError
from stream_ctr.events.dead_letter_replay import (
    REPLAYED_HEADER,
    ReplayReport,
    Selection,
    offset_range,
    replay_dead_letters,
)
from stream_ctr.events.dead_letters import (
    MAX_KEPT_BYTES,
    DeadLetter,
    DeadLetters,
    held_entries,
    list_dead_letters,
)
from stream_ctr.events.log import Entry, EventLog, Record
from stream_ctr.events.open import open_log

BAD = (b"{", b"\xff\x00", b"null", b"")


@pytest.fixture(params=["sqlite", pytest.param("kafka", marks=pytest.mark.kafka)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/events.db"
    return str(request.getfixturevalue("kafka_url"))


@pytest.fixture
def log(url: str) -> Iterator[EventLog]:
    log = open_log(url, create=True)
    yield log
    log.close()


class Topics:
    """Topic names that are unique to this test."""

    def __init__(self) -> None:
        own = uuid.uuid4()
        self.clicks, self.impressions, self.dead = f"clicks-{own}", f"impressions-{own}", f"dead-{own}"


@pytest.fixture
def topics(log: EventLog) -> Topics:
    """Two topics with bad records, and dead letters of all of them, the first ones repeated."""
    names = Topics()
    for name in (names.clicks, names.impressions):
        log.create_topic(name, 2)
        log.append(name, [Record(b"k%d" % i, value, 100 + i, i % 2) for i, value in enumerate(BAD)])
    log.create_topic(names.dead, 2)
    for count in (2, 4):
        letters = DeadLetters(log, names.dead)
        for name in (names.clicks, names.impressions):
            for entry in sorted(held_entries(log, name), key=lambda entry: entry.timestamp_ms)[:count]:
                letters.add(entry, "not JSON" if name == names.clicks else "unknown field 'x'")
        letters.flush()
    return names


def appended(log: EventLog, topic: str) -> list[Entry]:
    """The entries after the bad records, without their places in the log."""
    found = [entry for entry in held_entries(log, topic) if entry.offset >= 2]
    return sorted(found, key=lambda entry: (entry.timestamp_ms, entry.partition))


def test_the_original_bytes_go_back_once(log: EventLog, topics: Topics) -> None:
    dry = replay_dead_letters(log, topics.dead, Selection(), dry_run=True)
    assert dry == ReplayReport(replayed=8)
    assert appended(log, topics.clicks) == []
    assert replay_dead_letters(log, topics.dead, Selection()) == ReplayReport(replayed=8)
    for name in (topics.clicks, topics.impressions):
        assert [(e.partition, e.timestamp_ms, e.key, e.value, e.headers) for e in appended(log, name)] == [
            (i % 2, 100 + i, b"k%d" % i, value, ((REPLAYED_HEADER, f"{name}/{i % 2}/{i // 2}".encode()),))
            for i, value in enumerate(BAD)
        ]
    assert replay_dead_letters(log, topics.dead, Selection()) == ReplayReport(replayed_before=8)
    assert len(appended(log, topics.clicks)) == 4
    assert len(list(list_dead_letters(log, topics.dead))) == 8


def test_only_what_is_selected_is_replayed(log: EventLog, topics: Topics) -> None:
    def counted(selection: Selection, limit: int = 0) -> int:
        return replay_dead_letters(log, topics.dead, selection, limit=limit, dry_run=True).replayed

    assert counted(Selection(reason="UNKNOWN FIELD")) == 4
    assert counted(Selection(topic=topics.clicks, partition=1)) == 2
    assert counted(Selection(offsets=(1, 7))) == 4
    assert counted(Selection(), limit=3) == 3
    assert replay_dead_letters(log, topics.dead, Selection(topic=topics.clicks), limit=3).replayed == 3
    assert replay_dead_letters(log, topics.dead, Selection(topic=topics.clicks)).as_dict() == {
        "replayed": 1,
        "replayed_before": 3,
        "cut_short": 0,
        "stray": 0,
    }


class CutOff:
    """A log that stops the process before or after the n-th append."""

    def __init__(self, log: EventLog, append: int, after: bool) -> None:
        self._log = log
        self._left = append
        self._after = after

    def __getattr__(self, name: str) -> object:
        return getattr(self._log, name)

    def append(self, topic: str, records: list[Record]) -> None:
        self._left -= 1
        if self._left == 0 and not self._after:
            raise KeyboardInterrupt
        self._log.append(topic, records)
        if self._left == 0:
            raise KeyboardInterrupt


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("append", [1, 2, 3, 4])
def test_an_interrupted_replay_is_completed_without_repeats(
    log: EventLog, topics: Topics, append: int, after: bool
) -> None:
    cut = cast(EventLog, CutOff(log, append, after))
    with pytest.raises(KeyboardInterrupt):
        replay_dead_letters(cut, topics.dead, Selection())
    replay_dead_letters(log, topics.dead, Selection())
    assert replay_dead_letters(log, topics.dead, Selection()) == ReplayReport(replayed_before=8)
    for name in (topics.clicks, topics.impressions):
        assert [entry.value for entry in appended(log, name)] == list(BAD)


def test_letters_that_cannot_be_replayed_are_counted(log: EventLog, topics: Topics) -> None:
    letters = DeadLetters(log, topics.dead)
    letters.add(Entry(topics.clicks, 0, 77, 0, b"k", b"v" * (MAX_KEPT_BYTES + 1)), "too large")
    letters.flush()
    log.append(topics.dead, [Record(b"stray", b"?", 9, 1)])
    report = replay_dead_letters(log, topics.dead, Selection())
    assert report == ReplayReport(replayed=8, cut_short=1, stray=1)


def test_a_letter_of_a_missing_topic_is_one_line(log: EventLog, topics: Topics) -> None:
    name = f"gone-{uuid.uuid4()}"
    log.append(topics.dead, [DeadLetter.of(Entry(name, 0, 1, 0, b"k", b"v"), "bad").record()])
    with pytest.raises(LogError, match=f"topic '{name}' does not exist"):
        replay_dead_letters(log, topics.dead, Selection(topic=name))


@pytest.mark.parametrize("text", ["", ":", "a:b", "1:2:3", "-1", "9:3", "²"])
def test_a_wrong_range_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--offsets"):
        offset_range(text)


def test_the_command_lists_and_replays(
    log: EventLog, topics: Topics, url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "F.toml"
    config.write_text(f'[log]\nurl = "{url}"\ndead_letters = "{topics.dead}"\n', "utf-8")

    def run(*arguments: str) -> str:
        assert main(["dead-letters", *arguments, "--config", str(config)]) == 0
        return capsys.readouterr().out

    only = ("--topic", topics.clicks, "--offsets", "1")
    assert run("replay", "--dry-run", *only).splitlines()[-1] == "2 would be replayed"
    assert run("replay", *only) == "2 replayed\n"
    assert run("replay", *only) == "0 replayed; 2 left out: replayed before\n"
    assert json.loads(run("replay", "--json", "--reason", "unknown"))["replayed"] == 4
    rows = [json.loads(line) for line in run("list", "--json").splitlines()]
    assert sum(row["replayed"] for row in rows) == 6
    assert len(rows) == 8
    assert f"{topics.clicks}[0]@1  not JSON  b'null'  (replayed)" in run("list", *only)
    assert run("list", "--partition", "5") == f"no dead letters in {topics.dead} match\n"
    with pytest.raises(SystemExit):
        main(["dead-letters", "list", "--dry-run", "--config", str(config)])
