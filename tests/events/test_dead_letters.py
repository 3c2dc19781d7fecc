"""Dead letters keep the record's bytes, its place and the reason."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from stream_ctr.errors import LogError
from stream_ctr.events.dead_letters import (
    MAX_KEPT_BYTES,
    PREFIX_BYTES,
    DeadLetter,
    DeadLetters,
    list_dead_letters,
)
from stream_ctr.events.limits import Unread
from stream_ctr.events.log import Entry, Record, TopicPartition
from stream_ctr.events.sqlite.log import SqliteLog

BAD = Entry("impressions", 2, 41, 1234, None, b"\xff\x00{")


@pytest.fixture
def log(tmp_path: Path) -> Iterator[SqliteLog]:
    log = SqliteLog(f"sqlite:///{tmp_path}/events.db", create=True)
    log.create_topic("dead", 2)
    yield log
    log.close()


def entries_of(log: SqliteLog) -> list[Entry]:
    reader = log.reader({TopicPartition("dead", 0): 0, TopicPartition("dead", 1): 0})
    entries = reader.poll(1000, 0.0)
    reader.close()
    return entries


def test_a_dead_letter_is_plain_json(log: SqliteLog) -> None:
    letters = DeadLetters(log, "dead")
    letters.add(BAD, "not UTF-8")
    letters.flush()
    (entry,) = entries_of(log)
    assert (entry.key, entry.timestamp_ms) == (b"impressions/2/41", 1234)
    assert entry.value is not None
    assert json.loads(entry.value) == {
        "v": 1,
        "reason": "not UTF-8",
        "topic": "impressions",
        "partition": 2,
        "offset": 41,
        "timestamp_ms": 1234,
        "key": None,
        "value": base64.b64encode(b"\xff\x00{").decode(),
    }
    assert list(list_dead_letters(log, "dead")) == [DeadLetter.of(BAD, "not UTF-8")]


def test_nothing_is_written_before_the_flush_and_nothing_twice_after_it(log: SqliteLog) -> None:
    letters = DeadLetters(log, "dead")
    letters.add(BAD, "bad")
    assert (letters.waiting, entries_of(log)) == (1, [])
    letters.flush()
    letters.flush()
    assert (letters.waiting, len(entries_of(log))) == (0, 1)


def test_letters_wait_until_the_topic_accepts_them(log: SqliteLog) -> None:
    letters = DeadLetters(log, "later")
    letters.add(BAD, "bad")
    for _ in range(2):
        with pytest.raises(LogError, match="topic 'later' does not exist"):
            letters.flush()
    assert letters.waiting == 1
    log.create_topic("later", 1)
    letters.flush()
    assert letters.waiting == 0
    assert [letter.offset for letter in list_dead_letters(log, "later")] == [41]


@pytest.mark.parametrize(("key_bytes", "value_bytes"), [(10, 2**25 - 10), (2**24 + 1, 2**24 - 1)])
def test_a_large_record_is_kept_as_its_beginning_and_size(
    log: SqliteLog, key_bytes: int, value_bytes: int
) -> None:
    letters = DeadLetters(log, "dead")
    letters.add(Entry("clicks", 0, 0, 0, b"k" * key_bytes, b"v" * value_bytes), "too large to parse")
    letters.flush()
    (letter,) = list_dead_letters(log, "dead")
    assert letter.reason == "too large to parse (the first 4096 of 33554432 bytes are kept here)"
    assert letter.key == b"k" * min(key_bytes, PREFIX_BYTES)
    assert letter.value == b"v" * (PREFIX_BYTES - len(letter.key or b""))
    assert (letter.size_bytes, letter.cut_short) == (2**25, True)


def test_the_largest_record_that_is_kept_is_kept_whole(log: SqliteLog) -> None:
    letters = DeadLetters(log, "dead")
    letters.add(Entry("clicks", 0, 0, 0, b"key", b"v" * (MAX_KEPT_BYTES - 3)), "bad")
    letters.flush()
    (letter,) = list_dead_letters(log, "dead")
    assert (letter.reason, letter.value, letter.cut_short) == ("bad", b"v" * (MAX_KEPT_BYTES - 3), False)


def test_a_record_that_was_not_read_is_a_letter_with_its_place_reason_and_size(log: SqliteLog) -> None:
    letters = DeadLetters(log, "dead")
    unread = Unread("the record batch is too large", 41_234)
    letters.add(Entry("clicks", 1, 9, 7, None, None, (), unread), "the value is null")
    letters.flush()
    (letter,) = list_dead_letters(log, "dead")
    assert (letter.place, letter.reason) == (("clicks", 1, 9), "the record batch is too large")
    assert (letter.key, letter.value, letter.size_bytes, letter.cut_short) == (None, None, 41_234, True)


def test_a_large_letter_of_an_earlier_version_is_recognised_as_cut_short() -> None:
    letter = DeadLetter(
        reason="bad (the first 16777216 of 33554432 bytes are kept here)",
        topic="clicks",
        partition=0,
        offset=0,
        timestamp_ms=0,
        value=bytes(2**24),
    )
    assert letter.cut_short


def test_many_large_letters_are_written_in_parts_and_none_twice(
    log: SqliteLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    letters = DeadLetters(log, "later")
    for offset in range(30):
        letters.add(Entry("clicks", 0, offset, 0, None, bytes(600_000)), "bad")
    assert letters.full
    appended: list[int] = []
    append = log.append

    def append_twice_only(topic: str, records: Sequence[Record]) -> None:
        if len(appended) == 2:
            raise LogError("away")
        append(topic, records)
        appended.append(sum(len(record.value or b"") for record in records))

    log.create_topic("later", 1)
    with monkeypatch.context() as patched:
        patched.setattr(log, "append", append_twice_only)
        with pytest.raises(LogError, match="away"):
            letters.flush()
    assert max(appended) < 6_000_000
    assert 0 < letters.waiting < 30
    letters.flush()
    assert (letters.waiting, letters.full) == (0, False)
    assert log.end_offsets("later") == {0: 30}
    assert [letter.offset for letter in list_dead_letters(log, "later")] == list(range(30))


@pytest.mark.parametrize("value", [None, b"", b"{", b'{"v": 1}', b'{"reason": 3}', b"\xff"])
def test_a_stray_record_is_listed_with_its_own_place(log: SqliteLog, value: bytes | None) -> None:
    log.append("dead", [Record(b"stray", value, 9, 1)])
    (letter,) = list_dead_letters(log, "dead")
    assert (letter.topic, letter.partition, letter.offset, letter.key, letter.value) == (
        "dead",
        1,
        0,
        b"stray",
        value,
    )
    assert letter.reason.startswith("not a dead letter: ")


def test_letters_added_while_listing_are_left_for_the_next_time(log: SqliteLog) -> None:
    letters = DeadLetters(log, "dead")
    letters.add(BAD, "first")
    letters.flush()
    listing = list_dead_letters(log, "dead")
    assert next(listing).reason == "first"
    letters.add(BAD._replace(offset=42), "second")
    letters.flush()
    assert list(listing) == []


def test_trimmed_letters_are_not_listed(log: SqliteLog) -> None:
    for offset in range(4):
        log.append("dead", [DeadLetter.of(BAD._replace(offset=offset), "bad").record()._replace(partition=0)])
    log.trim("dead", 0, 3)
    assert [letter.offset for letter in list_dead_letters(log, "dead")] == [3]


def test_a_record_without_a_timestamp_is_kept_as_it_was(log: SqliteLog) -> None:
    """Kafka returns -1 for a record without a timestamp."""
    letters = DeadLetters(log, "dead")
    letters.add(BAD._replace(timestamp_ms=-1), "bad")
    letters.flush()
    assert [letter.timestamp_ms for letter in list_dead_letters(log, "dead")] == [-1]
