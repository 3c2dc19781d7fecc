"""The daemon's loop and its outbox, over a real log and the joining process's core."""

from __future__ import annotations

import io
import json
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest

from stream_ctr.config.settings import load_settings
from stream_ctr.daemon import loop as loop_module
from stream_ctr.daemon.loop import Chunk, DaemonLoop
from stream_ctr.daemon.outbox import Outbox
from stream_ctr.daemon.resume import find_place
from stream_ctr.daemon.run_outcomes import RunOutcomes
from stream_ctr.daemon.saver import Saver
from stream_ctr.daemon.state_folder import Opening, open_state
from stream_ctr.errors import LogError, PartitionsAddedError
from stream_ctr.events import dead_letters
from stream_ctr.events.dead_letters import DeadLetters, held_entries
from stream_ctr.events.limits import ReadLimits
from stream_ctr.events.log import Entry, EventLog, LogReader, Record, TopicPartition
from stream_ctr.events.open import open_log
from stream_ctr.joining import output as output_module
from stream_ctr.joining.daemon import JoinCore
from stream_ctr.joining.output import JoinOutput
from stream_ctr.joining.pipeline import SequencedRecord
from stream_ctr.reporting.progress import Reporter
from tests.support.faulty_streams import write_config, write_stream

IMPRESSIONS = 80
CHUNK = 16


class CountingReader:
    """A reader that counts polls."""

    def __init__(self, reader: LogReader) -> None:
        self._reader = reader
        self.polls = 0

    def __getattr__(self, name: str) -> object:
        return getattr(self._reader, name)

    def poll(self, *arguments: Any) -> list[Entry]:
        self.polls += 1
        return self._reader.poll(*arguments)


class RejectingLog:
    """A log that rejects appends to some topics."""

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self.rejected_topics: set[str] = set()
        self.readers: list[CountingReader] = []

    def __getattr__(self, name: str) -> object:
        return getattr(self._log, name)

    def append(self, topic: str, records: Sequence[Record]) -> None:
        if topic in self.rejected_topics:
            raise LogError("injected")
        self._log.append(topic, records)

    def reader(self, offsets: dict[TopicPartition, int], limits: ReadLimits | None = None) -> CountingReader:
        self.readers.append(CountingReader(self._log.reader(offsets, limits or ReadLimits())))
        return self.readers[-1]

    @property
    def polls(self) -> int:
        """Polls of all readers."""
        return sum(reader.polls for reader in self.readers)


@dataclass
class Daemon:
    """A minimal daemon: joins, and writes labelled records and dead letters."""

    log: RejectingLog
    opening: Opening[JoinCore]
    output: JoinOutput
    letters: DeadLetters
    loop: DaemonLoop
    saver: Saver
    reported: io.StringIO
    chunks: list[Chunk] = field(default_factory=list)
    """All chunks so far."""

    def run(self, stop: threading.Event, until_idle: float | None) -> Iterator[Chunk]:
        """Apply each chunk, then yield it."""
        with self.loop:
            for chunk in self.loop.chunks(stop, until_idle):
                joined = self.opening.core.pipeline.apply(chunk.ordered)
                self.output.add(joined.records)
                for entry, reason in joined.rejected:
                    self.letters.add(entry, reason)
                self.chunks.append(chunk)
                yield chunk
            self.saver.now()

    @property
    def numbers(self) -> list[int]:
        """Numbers of the entries in all chunks."""
        return [each.number for chunk in self.chunks for each in chunk.ordered]

    def events(self, name: str) -> list[dict[str, Any]]:
        """Reported events of one name."""
        lines = map(json.loads, self.reported.getvalue().splitlines())
        return [line for line in lines if line["event"] == name]


@contextmanager
def daemon_on(folder: Path) -> Iterator[Daemon]:
    settings, reported = load_settings(folder / "state.toml"), io.StringIO()
    real = open_log(settings.log.url)
    rejecting = RejectingLog(real)
    log = cast(EventLog, rejecting)
    place = find_place(log, ("impressions", "clicks"))
    for topic in ("labelled", "dead-letters"):
        log.ensure_topic(topic, place.partitions)
    try:
        with Reporter("test", stream=reported, line_seconds=1e9) as reporter:
            opening = open_state(
                settings,
                folder / "state" / "join",
                log,
                place,
                {},
                lambda segments: JoinCore(settings, place.partitions, segments),
            )
            output, letters = JoinOutput(log, "labelled"), DeadLetters(log, "dead-letters")
            outbox = Outbox(reporter, letters, output)
            saver = Saver(opening, reporter, 1e9, outbox.flush)
            outcomes = RunOutcomes(settings, opening.core.pipeline, reporter)
            loop = DaemonLoop(settings, log, opening, saver, outbox, outcomes)
            yield Daemon(rejecting, opening, output, letters, loop, saver, reported)
    finally:
        real.close()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a log of impressions and clicks, some malformed, and a configuration."""
    monkeypatch.setattr(loop_module, "RETRY_SECONDS", 0.01)
    write_stream(tmp_path, IMPRESSIONS)
    write_config(tmp_path, "state")
    return tmp_path


def labelled_count(folder: Path) -> int:
    log = open_log(f"sqlite:///{folder}/clicks.db")
    try:
        return sum(1 for _ in held_entries(log, "labelled"))
    finally:
        log.close()


def test_chunks_end_when_stop_is_set(folder: Path) -> None:
    stop = threading.Event()
    with daemon_on(folder) as daemon:
        for _ in daemon.run(stop, None):
            if len(daemon.numbers) >= 2 * CHUNK:
                stop.set()
        assert 2 * CHUNK <= len(daemon.numbers) <= 3 * CHUNK
        assert not daemon.loop.ended
        assert daemon.opening.core.stage.open_impressions > 0, "a stop leaves the windows open"
        applied = daemon.opening.core.stage.progress.applied
    with daemon_on(folder) as daemon:
        assert daemon.opening.core.stage.progress.applied == applied


def test_no_chunk_comes_if_stop_is_set_before(folder: Path) -> None:
    stop = threading.Event()
    stop.set()
    with daemon_on(folder) as daemon:
        assert list(daemon.run(stop, 0.0)) == []
        assert not daemon.loop.ended


def test_the_end_of_a_silent_log_closes_the_windows_once(folder: Path) -> None:
    with daemon_on(folder) as daemon:
        for chunk in daemon.run(threading.Event(), 0.0):
            assert chunk.healthy
            assert len(chunk.ordered) <= CHUNK
        assert daemon.numbers == list(range(len(daemon.numbers)))
        marks = [each.number for chunk in daemon.chunks for each in chunk.ordered if each.entry is None]
        assert marks == [daemon.numbers[-1]], "the end mark is the last entry"
        ends = daemon.loop.now().lag(daemon.opening.core.stage.progress.positions())
        assert (ends, daemon.opening.core.stage.open_impressions, daemon.loop.ended) == (0, 0, True)
    with daemon_on(folder) as again:
        list(again.run(threading.Event(), 0.0))
        assert (again.numbers, again.loop.ended) == ([], True), "nothing new: no second end mark"


def test_a_full_writer_that_fails_pauses_reading_until_a_write_succeeds(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output_module, "MAX_WAITING", 1)
    with daemon_on(folder) as daemon:
        daemon.log.rejected_topics.add("labelled")
        paused, polls = 0, 0
        for chunk in daemon.run(threading.Event(), 0.0):
            if chunk.healthy:
                assert paused in (0, 3), "reading resumes only after a successful write"
                polls = daemon.log.polls
                continue
            paused += 1
            assert daemon.output.full
            assert (chunk.ordered, chunk.news) == ([], False)
            assert chunk.ends.keys() == daemon.opening.core.stage.progress.positions().keys()
            assert daemon.log.polls == polls, "nothing was read meanwhile"
            if paused == 3:
                daemon.log.rejected_topics.clear()
        assert paused == 3
        assert daemon.loop.ended
        failures = daemon.events("write-failed")
        assert [(line["topic"], line["reason"]) for line in failures] == [("labelled", "injected")] * 3
        assert failures[0]["waiting"] > 0
        assert labelled_count(folder) == daemon.opening.core.pipeline.outcomes["impressions"]


def test_a_writer_that_fails_but_is_not_full_does_not_pause_reading(folder: Path) -> None:
    with daemon_on(folder) as daemon:
        daemon.log.rejected_topics.add("labelled")
        chunks = daemon.run(threading.Event(), 0.0)
        with pytest.raises(LogError, match="injected"):  # by the last checkpoint
            all(chunk.healthy or pytest.fail("reading has paused") for chunk in chunks)
        assert daemon.loop.ended
        assert daemon.events("write-failed")
        assert daemon.opening.store.versions() == [], "offsets of unwritten records are not saved"
        daemon.log.rejected_topics.clear()
        daemon.saver.now()
        assert labelled_count(folder) == daemon.opening.core.pipeline.outcomes["impressions"]


def test_one_failing_writer_does_not_stop_the_others(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dead_letters, "MAX_WAITING", 1)
    with daemon_on(folder) as daemon:
        daemon.log.rejected_topics.add("dead-letters")
        daemon.letters.add(Entry("clicks", 0, 0, 0, None, b"{"), "not JSON")
        stop = threading.Event()
        for number, chunk in enumerate(daemon.run(stop, None)):
            assert not chunk.healthy, "the letters are full"
            if number == 0:
                daemon.output.add(_records(1))
            else:
                assert daemon.output.waiting == 0, "the labelled record was written"
                daemon.log.rejected_topics.clear()
                stop.set()
        assert daemon.letters.waiting == 0


def _records(count: int) -> list[SequencedRecord]:
    """The first ``count`` labelled records of partition 0."""
    return [
        SequencedRecord(Record(b"k", b'{"sequence":%d}' % number, 1, 0), 0, number) for number in range(count)
    ]


def test_added_partitions_end_the_loop_after_a_checkpoint(folder: Path) -> None:
    with daemon_on(folder) as daemon:
        chunks = daemon.run(threading.Event(), 30.0)
        while len(daemon.numbers) < CHUNK:
            next(chunks)
        applied = daemon.opening.core.stage.progress.applied
        connection = sqlite3.connect(folder / "clicks.db", timeout=30)
        with connection:
            connection.execute(
                "INSERT INTO partitions (topic, partition, start_offset, end_offset) "
                "SELECT id, 2, 0, 0 FROM topics WHERE name = 'impressions'"
            )
        connection.close()
        with pytest.raises(PartitionsAddedError, match="'impressions' now has 3 partitions"):
            list(chunks)
        assert daemon.opening.core.stage.progress.applied >= applied
        store = daemon.opening.store
        manifest = store.manifest(store.versions()[-1])
        assert manifest.emitted == daemon.opening.core.stage.progress.applied
        positions = daemon.opening.core.stage.progress.positions()
        assert {TopicPartition(t, p): offset for t, p, offset in manifest.positions} == positions
        assert (daemon.output.waiting, daemon.letters.waiting) == (0, 0), "written before the checkpoint"
