"""A log that changes under a trainer, joining process or watcher: recreated, compacted, extended."""

from __future__ import annotations

import io
import json
import sqlite3
import threading
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stream_ctr.config.settings import load_settings
from stream_ctr.daemon import intake
from stream_ctr.daemon.checkpoint import CheckpointStore, Loaded
from stream_ctr.errors import LogError, OffsetRangeError, PartitionsAddedError, StateError
from stream_ctr.events.dead_letters import list_dead_letters
from stream_ctr.events.log import Entry, EventLog, Record, TopicPartition
from stream_ctr.events.open import open_log
from stream_ctr.events.sqlite.log import SqliteReader
from stream_ctr.experiments.watcher.daemon import Watcher
from stream_ctr.joining.daemon import JoinDaemon
from stream_ctr.offline.warm_start import WarmStart
from stream_ctr.reporting.progress import Reporter
from stream_ctr.training.trainer import Trainer
from tests.support.faulty_streams import extend_stream, write_config, write_stream

KINDS = {"train": "main", "join": "join", "watch": "experiment"}
SETTLED = '[watch]\nport = -1\n[learner]\nkind = "river"\nriver = "river-lr"\n'
LONG_SECONDS = 30.0
"""Longer than any run of these tests: a change must be noticed before."""
Daemon = Trainer | JoinDaemon | Watcher


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A stream of 60 impressions, and a configuration for it."""
    write_stream(tmp_path, 60)
    return write_config(tmp_path, "state", SETTLED)


def run(
    kind: str,
    config: Path,
    on_step: Callable[[int], None] = lambda steps: None,
    *,
    until_idle: float | None = 0.0,
    warm: WarmStart | None = None,
) -> tuple[Daemon, list[dict[str, Any]]]:
    """Run a daemon to the end of the log; returns it and the lines that it reported."""
    settings, reported = load_settings(config), io.StringIO()
    log = open_log(settings.log.url)
    steps = 0

    def stepped(*_: object) -> None:
        nonlocal steps
        steps += 1
        on_step(steps)

    try:
        with Reporter("test", stream=reported, line_seconds=1e9) as reporter:
            daemon: Daemon
            if kind == "train":
                arm = settings.arm(None)
                daemon = Trainer(settings, arm, log, reporter, on_step=stepped, warm=warm)
            elif kind == "watch":
                daemon = Watcher(settings, log, reporter, on_step=stepped)
            else:
                daemon = JoinDaemon(settings, log, reporter, on_step=stepped)
            daemon.run(threading.Event(), until_idle)
    finally:
        log.close()
    return daemon, [json.loads(line) for line in reported.getvalue().splitlines()]


def newest(kind: str, config: Path) -> Loaded:
    loaded = CheckpointStore(config.parent / "state" / KINDS[kind] / "checkpoints", 1).load()
    assert loaded is not None
    return loaded


def change(config: Path, *statements: tuple[str, tuple[object, ...]]) -> None:
    """Change the log's file with SQL that the product never runs."""
    connection = sqlite3.connect(config.parent / "clicks.db", timeout=30)
    with connection:
        for sql, values in statements:
            connection.execute(sql, values)
    connection.close()


def add_partition(config: Path, *topics: str) -> None:
    """Add a third partition to the topics."""
    sql = (
        "INSERT INTO partitions (topic, partition, start_offset, end_offset) "
        "SELECT id, 2, 0, 0 FROM topics WHERE name = ?"
    )
    change(config, *((sql, (topic,)) for topic in topics))


@pytest.mark.parametrize("kind", KINDS)
def test_a_compacted_last_record_gives_only_a_warning(kind: str, config: Path) -> None:
    run(kind, config)
    place = next(
        (t, p, offset) for t, p, offset in newest(kind, config).manifest.positions if t == "impressions"
    )
    log = open_log(load_settings(config).log.url)
    extend_stream(log, 60, 90)
    log.close()
    compacted = (
        "DELETE FROM entries WHERE id = (SELECT partitions.id << 40 | ? FROM partitions JOIN topics "
        "ON topics.id = partitions.topic WHERE name = ? AND partition = ?)"
    )
    change(config, (compacted, (place[2] - 1, place[0], place[1])))
    before = newest(kind, config).manifest.emitted
    daemon, reported = run(kind, config)
    warnings = [line["warning"] for line in reported if "warning" in line]
    assert len(warnings) == 1
    assert f"impressions[{place[1]}]: entry {place[2] - 1}, the last one" in warnings[0]
    assert "compaction removed it. Reading continues after it" in warnings[0]
    assert daemon.core.stage.progress.applied > before + 30


@pytest.mark.parametrize("kind", KINDS)
def test_a_topic_recreated_during_a_run_ends_it_and_does_not_enter_a_checkpoint(
    kind: str, config: Path
) -> None:
    text = config.read_text("utf-8").replace("checkpoint_seconds = 1e9", "checkpoint_seconds = 0")
    config.write_text(text.replace("chunk = 16", "chunk = 4"), "utf-8")
    log = open_log(load_settings(config).log.url)
    before = log.topic_id("clicks")
    log.close()
    applied_at_change: list[int] = []

    def recreate(steps: int) -> None:
        if steps == 2:
            change(config, ("UPDATE topics SET uuid = ? WHERE name = 'clicks'", (str(uuid.uuid4()),)))
            change(config, ("UPDATE entries SET value = ?", (b"of the other topic",)))
            applied_at_change.append(steps)

    with pytest.raises(OffsetRangeError, match=r"topic 'clicks' was deleted and created again while it was"):
        run(kind, config, recreate, until_idle=LONG_SECONDS)
    assert applied_at_change
    saved = newest(kind, config).manifest
    assert saved.log["topic_ids"]["clicks"] == before
    with pytest.raises(OffsetRangeError, match="was deleted and created again since"):
        run(kind, config)
    assert newest(kind, config).manifest.version == saved.version


@pytest.mark.parametrize("kind", KINDS)
def test_a_log_file_overwritten_in_place_ends_the_run(kind: str, config: Path) -> None:
    with pytest.raises(OffsetRangeError, match=r"the log was replaced while it was read \(id"):
        run(
            kind,
            config,
            lambda steps: change(config, ("UPDATE log SET id = ?", ("another",))),
            until_idle=LONG_SECONDS,
        )


@pytest.mark.parametrize("kind", KINDS)
def test_added_partitions_end_the_run_after_a_checkpoint(kind: str, config: Path) -> None:
    run(kind, config)
    first = newest(kind, config).manifest.version
    log = open_log(load_settings(config).log.url)
    extend_stream(log, 60, 120)
    log.close()
    with pytest.raises(
        PartitionsAddedError,
        match=r"topic 'impressions' now has 3 partitions instead of 2, .* The state is saved\. Give every",
    ):
        run(
            kind,
            config,
            lambda steps: add_partition(config, "impressions") if steps == 1 else None,
            until_idle=LONG_SECONDS,
        )
    saved = newest(kind, config).manifest
    assert saved.version > first
    with pytest.raises(Exception, match="impressions has 3, clicks has 2; add partitions to the smaller one"):
        run(kind, config)
    add_partition(config, "clicks")
    if kind == "join":
        refused: type[Exception] = LogError
        reason = "topic 'labelled' has 2 partitions, the input topics have 3; the numbers must be equal. Set"
    else:
        refused = StateError
        reason = "was written for 2 partitions of each topic, the log has 3.* --start-from "
    with pytest.raises(refused, match=reason):
        run(kind, config)


def test_a_recreated_labelled_topic_ends_the_joining_process(config: Path) -> None:
    text = config.read_text("utf-8").replace("checkpoint_seconds = 1e9", "checkpoint_seconds = 0")
    config.write_text(text, "utf-8")

    def recreate(steps: int) -> None:
        change(config, ("UPDATE topics SET uuid = 'another' WHERE name = 'labelled'", ()))

    with pytest.raises(
        StateError, match="topic 'labelled' was deleted and created again while it was written"
    ):
        run("join", config, recreate)


def test_the_weights_survive_added_partitions(config: Path) -> None:
    """The remedy that the error message names."""
    config.write_text(config.read_text("utf-8").replace(SETTLED, ""), "utf-8")
    learned, _ = run("train", config)
    add_partition(config, "impressions", "clicks")
    fresh = write_config(config.parent, "fresh")
    daemon, _ = run("train", fresh, warm=WarmStart(config.parent / "state" / "main", "last"))
    assert isinstance(daemon, Trainer)
    assert isinstance(learned, Trainer)
    assert daemon.core.learner.state().equals(learned.core.learner.state())
    log = open_log(load_settings(fresh).log.url)
    extend_stream(log, 60, 120)
    log.close()
    again, _ = run("train", fresh)
    assert isinstance(again, Trainer)
    assert again.core.learned > 30


def test_read_ahead_is_bounded_in_bytes(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One partition has large records far ahead of the others, for which the order waits."""
    log = open_log(load_settings(config).log.url)
    large = b'{"v":1,"event_id":"%d","ts_ms":1700000060000,"features":{"ad":"' + b"x" * 50_000 + b'"}}'
    log.append("impressions", [Record(b"large", large % i, 1_700_000_060_000, 0) for i in range(200)])
    log.close()
    undisturbed, _ = run("train", config)
    monkeypatch.setattr(intake, "POLL_BYTES", 200_000)
    monkeypatch.setattr(intake, "BUFFERED_BYTES", 400_000)
    held: list[int] = []
    polled: list[int] = []
    beyond = intake.HeldBytes.bytes_beyond
    poll = SqliteReader.poll

    def measured(self: intake.HeldBytes, applied: dict[TopicPartition, int]) -> int:
        held.append(beyond(self, applied))
        return held[-1]

    def polling(self: SqliteReader, *arguments: Any) -> list[Entry]:
        entries = poll(self, *arguments)
        polled.append(sum(len(entry.value or b"") for entry in entries))
        return entries

    monkeypatch.setattr(intake.HeldBytes, "bytes_beyond", measured)
    monkeypatch.setattr(SqliteReader, "poll", polling)
    monkeypatch.setattr("stream_ctr.events.sqlite.log._PIECE_ROWS", 1)
    monkeypatch.setattr("stream_ctr.events.sqlite.log._LEAST_PIECE_ROWS", 1)
    bounded, _ = run("train", write_config(config.parent, "bounded", SETTLED))
    assert max(polled) <= 250_000 + 50_100
    assert 400_000 < max(held) <= 400_000 + 4 * 300_000
    assert bounded.core.pipeline.outcomes == undisturbed.core.pipeline.outcomes
    assert bounded.core.pipeline.outcomes["impressions"] > 250


def test_records_too_large_to_read_become_dead_letters_without_their_value(config: Path) -> None:
    log: EventLog = open_log(load_settings(config).log.url)
    log.append("impressions", [Record(b"large", bytes(3_000_000), 1_700_000_000_000, 1) for _ in range(20)])
    log.close()
    daemon, _ = run("train", config)
    log = open_log(load_settings(config).log.url)
    letters = [letter for letter in list_dead_letters(log, "dead-letters") if letter.cut_short]
    log.close()
    assert [letter.size_bytes for letter in letters] == [3_000_005] * 20
    assert {letter.value for letter in letters} == {None}
    reason = "the record has 3000005 bytes, more than the limit of 1114112; it was not read"
    assert letters[0].reason == reason
    assert daemon.core.pipeline.outcomes["impressions"] > 50
    run("train", config)  # a restart does not compare a value that was not read
