"""Cases specific to the embedded log: its file, other files, kills, and locks."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from stream_ctr.errors import LogError, UsageError
from stream_ctr.events.log import Record, TopicPartition
from stream_ctr.events.sqlite.file import path_of
from stream_ctr.events.sqlite.log import SqliteLog


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/events.db"


@pytest.fixture
def log(url: str) -> Iterator[SqliteLog]:
    log = SqliteLog(url, create=True)
    log.create_topic("events", 1)
    yield log
    log.close()


def test_an_address_is_a_relative_or_an_absolute_path() -> None:
    assert path_of("sqlite:///state/events.db") == Path("state/events.db")
    assert path_of("sqlite:////var/events.db") == Path("/var/events.db")


@pytest.mark.parametrize("url", ["sqlite:", "sqlite://events.db", "sqlite:///", "sqlite:///state/"])
def test_another_form_of_address_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match=r"write sqlite:///relative/path or sqlite:////absolute/path$"):
        SqliteLog(url, create=True)


def test_a_missing_file_is_an_error_and_stays_missing(url: str) -> None:
    with pytest.raises(LogError, match=f"^{url}: the log does not exist; check the path"):
        SqliteLog(url)
    assert not path_of(url).exists()


def test_creating_a_log_makes_folders_and_keeps_names_literally(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/new folder/a?b#c%20d.db"
    SqliteLog(url, create=True).close()
    assert (tmp_path / "new folder" / "a?b#c%20d.db").exists()
    SqliteLog(url).close()


def test_a_relative_path_survives_a_change_of_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    log = SqliteLog("sqlite:///events.db", create=True)
    log.create_topic("events", 1)
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    log.append("events", [Record(b"k", b"v", 0)])
    reader = log.reader({TopicPartition("events", 0): 0})
    assert len(reader.poll(10, 1.0)) == 1
    reader.close()
    log.close()


@pytest.mark.parametrize("content", [b"", b"not a database, but long enough to be taken for one" * 20])
def test_a_file_of_another_kind_is_refused_and_left_alone(url: str, content: bytes) -> None:
    path = path_of(url)
    path.write_bytes(content)
    with pytest.raises(LogError, match=r"not an event log|file is not a database"):
        SqliteLog(url)
    assert path.read_bytes() == content


def test_a_database_of_another_program_is_refused_and_left_alone(url: str) -> None:
    path = path_of(url)
    foreign = sqlite3.connect(path)
    foreign.execute("CREATE TABLE topics (name)")
    foreign.close()
    content = path.read_bytes()
    with pytest.raises(LogError, match="the file is not an event log of Stream CTR; give another path"):
        SqliteLog(url, create=True)
    assert path.read_bytes() == content


def test_a_newer_format_is_refused(url: str) -> None:
    SqliteLog(url, create=True).close()
    newer = sqlite3.connect(path_of(url))
    newer.execute("PRAGMA user_version = 2")
    newer.close()
    with pytest.raises(LogError, match="the file has format 2; this version of Stream CTR reads 1"):
        SqliteLog(url)


def test_a_damaged_file_is_an_error(url: str, log: SqliteLog) -> None:
    log.append("events", [Record(b"k", bytes(1000), 0) for _ in range(100)])
    log.close()
    path = path_of(url)
    content = bytearray(path.read_bytes())
    content[4096 * 2 :] = os.urandom(len(content) - 4096 * 2)
    path.write_bytes(content)
    with pytest.raises(LogError, match=r"malformed|not a database"), closing(SqliteLog(url)) as damaged:
        damaged.append("events", [Record(b"k", b"v", 0)])


def test_a_replaced_file_is_detected(url: str, log: SqliteLog) -> None:
    reader = log.reader({TopicPartition("events", 0): 0})
    path_of(url).rename(path_of(url).with_suffix(".old"))
    other = SqliteLog(url, create=True)
    assert other.log_id() != log.log_id()
    with pytest.raises(LogError, match="removed or replaced while it was open"):
        log.append("events", [Record(b"k", b"v", 0)])
    with pytest.raises(LogError, match="removed or replaced while it was open"):
        reader.poll(1, 0.0)
    other.close()
    reader.close()


def test_a_lock_that_is_never_released_is_an_error_in_time(url: str, log: SqliteLog) -> None:
    impatient = SqliteLog(url, busy_timeout_seconds=0.05)
    holder = sqlite3.connect(path_of(url), isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(LogError, match="other processes kept the file locked for too long; try again"):
        impatient.append("events", [Record(b"k", b"v", 0)])
    holder.execute("ROLLBACK")
    holder.close()
    impatient.append("events", [Record(b"k", b"v", 0)])
    assert impatient.end_offsets("events") == {0: 1}
    impatient.close()


def test_a_full_disk_loses_the_append_and_nothing_else(url: str, log: SqliteLog) -> None:
    log.append("events", [Record(b"k", b"before", 0)])
    log._file.execute(f"PRAGMA max_page_count = {log._file.execute('PRAGMA page_count')[0][0] + 2}")
    with pytest.raises(LogError, match="full; check the file, its folder and the free space"):
        log.append("events", [Record(b"k", bytes(5000), 0) for _ in range(10)])
    assert log.end_offsets("events") == {0: 1}
    log._file.execute("PRAGMA max_page_count = 1000000")
    log.append("events", [Record(b"k", b"after", 0)])
    reader = log.reader({TopicPartition("events", 0): 0})
    assert [(entry.offset, entry.value) for entry in reader.poll(10, 1.0)] == [(0, b"before"), (1, b"after")]
    reader.close()


def test_commits_are_flushed_to_the_disk(log: SqliteLog) -> None:
    """Killing the process cannot reveal a missing flush, because the page cache survives it."""
    assert log._file.execute("PRAGMA synchronous") == [(2,)]
    assert log._file.execute("PRAGMA journal_mode") == [("wal",)]


def test_threads_share_one_log(log: SqliteLog) -> None:
    def append(name: int) -> None:
        for i in range(50):
            log.append("events", [Record(b"%d" % name, b"%d" % i, 0)])
            assert log.end_offsets("events")[0] <= 200

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(append, range(4)))
    reader = log.reader({TopicPartition("events", 0): 0})
    entries = reader.poll(1000, 1.0)
    assert [entry.offset for entry in entries] == list(range(200))
    for name in range(4):
        assert [entry.value for entry in entries if entry.key == b"%d" % name] == [
            b"%d" % i for i in range(50)
        ]
    reader.close()


def test_a_trim_of_many_steps_frees_space_for_reuse(url: str, log: SqliteLog) -> None:
    records = [Record(b"k", bytes(200), 0)] * 25_000
    log.append("events", records)
    log.trim("events", 0, 25_000)
    assert log.start_offsets("events") == {0: 25_000}
    assert log._file.execute("SELECT count(*) FROM entries") == [(0,)]
    pages = log._file.execute("PRAGMA page_count")
    log.append("events", records)
    assert log._file.execute("PRAGMA page_count") <= [(int(pages[0][0] * 1.05),)]


_CREATOR = """
import sys
from stream_ctr.events.sqlite.log import SqliteLog
log = SqliteLog(sys.argv[1], create=True)
log.create_topic("events", 3)
print(log.log_id(), log.topic_id("events"))
log.close()
"""


def test_processes_that_create_a_log_at_once_agree(url: str) -> None:
    command = [sys.executable, "-c", _CREATOR, url]
    creators = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(6)]
    answers = {creator.communicate(timeout=120)[0] for creator in creators}
    assert {creator.returncode for creator in creators} == {0}
    assert len(answers) == 1


_APPENDER = """
import sys
from stream_ctr.events.log import Record
from stream_ctr.events.sqlite.log import SqliteLog
log = SqliteLog(sys.argv[1])
i = log.end_offsets("events")[0]
while True:
    log.append("events", [Record(b"k", b"%d" % j, j) for j in range(i, i + 7)])
    i += 7
    print(i, flush=True)
"""


def test_what_was_acknowledged_survives_a_kill(url: str, log: SqliteLog) -> None:
    seed = random.randrange(10**6)
    chance = random.Random(seed)
    for _ in range(5):
        writer = subprocess.Popen([sys.executable, "-c", _APPENDER, url], stdout=subprocess.PIPE, text=True)
        assert writer.stdout is not None
        with writer.stdout as output:
            acknowledged = int(output.readline())
            time.sleep(chance.random() / 10)
            writer.send_signal(signal.SIGKILL)
            for line in output:
                if line.endswith("\n"):
                    acknowledged = int(line)
        writer.wait()
        end = log.end_offsets("events")[0]
        assert end >= acknowledged, f"seed {seed}"
        assert end % 7 == 0, f"an append is all or nothing; seed {seed}"
    reader = log.reader({TopicPartition("events", 0): 0})
    entries = reader.poll(end + 1, 1.0)
    assert [(entry.offset, entry.value) for entry in entries] == [(i, b"%d" % i) for i in range(end)]
    reader.close()
