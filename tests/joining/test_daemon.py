"""The joining process: the trainer's labels, each written once, and trainers that read them."""

from __future__ import annotations

import json
import os
import random
import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import cast

import msgspec
import pytest

from stream_ctr.cli import main
from stream_ctr.config.settings import load_settings
from stream_ctr.errors import ConfigError, LogError, StateError
from stream_ctr.events.dead_letter_replay import Selection, replay_dead_letters
from stream_ctr.events.dead_letters import held_entries, list_dead_letters
from stream_ctr.events.log import EventLog, Record
from stream_ctr.events.open import open_log
from stream_ctr.events.records import LabelledImpression
from stream_ctr.joining.daemon import JoinDaemon
from stream_ctr.joining.output import JoinOutput
from stream_ctr.reporting.progress import Reporter
from stream_ctr.state.state import State
from stream_ctr.training.core import Core
from stream_ctr.training.trainer import Trainer
from tests.support.faulty_streams import write_config, write_stream
from tests.support.kafka_broker import Broker
from tests.training.test_on_kafka import copy

IMPRESSIONS = 150


PLAIN = """\
[log]
url = "sqlite:///{folder}/clicks.db"
[[features.fields]]
name = "ad"
[[features.fields]]
name = "age"
kind = "integer"
[[features.fields]]
name = "price"
[[features.fields]]
name = "tags"
kind = "multi"
max_values = 3
[order]
idle_seconds = 0.2
[join]
input = "{input}"
window_seconds = 20.0
horizon_seconds = 60.0
[model]
embedding = 4
hidden = [8]
[optimizer]
method = "base"
[train]
state = "{folder}/{state}"
chunk = 16
poll_seconds = 0.05
checkpoint_seconds = 1e9
snapshot_seconds = 0
metrics_port = -1
"""
"""A schema without learned buckets, and an optimizer that does not use feature counts."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_stream(tmp_path, IMPRESSIONS)
    return tmp_path


def opened(folder: Path) -> EventLog:
    return open_log(f"sqlite:///{folder}/clicks.db")


def join(
    config: Path,
    log: EventLog,
    on_step: Callable[[JoinDaemon], None] = lambda daemon: None,
    stop: threading.Event | None = None,
) -> JoinDaemon:
    with Reporter("test", quiet=True) as reporter:
        daemon = JoinDaemon(load_settings(config), log, reporter, on_step=lambda: on_step(daemon))
        daemon.run(stop or threading.Event(), None if stop else 0.0)
    return daemon


def learn(config: Path, log: EventLog) -> Core:
    settings = load_settings(config)
    with Reporter("test", quiet=True) as reporter:
        trainer = Trainer(settings, settings.arm(None), log, reporter)
        trainer.run(threading.Event(), until_idle=0.0)
    return trainer.core


def labelled(log: EventLog, topic: str = "labelled") -> list[LabelledImpression]:
    """The topic's records, each sequence number once, by partition and sequence number."""
    found: dict[tuple[int, int], LabelledImpression] = {}
    for entry in held_entries(log, topic):
        record = msgspec.json.decode(entry.value or b"", type=LabelledImpression)
        found.setdefault((entry.partition, record.sequence), record)
    return [found[key] for key in sorted(found)]


def assert_complete(log: EventLog, topic: str = "labelled") -> None:
    """Check that in each partition the sequence numbers are 0, 1, 2, ... and times never decrease."""
    for partition in range(log.partitions(topic)):
        records = [
            msgspec.json.decode(e.value or b"", type=LabelledImpression)
            for e in held_entries(log, topic)
            if e.partition == partition
        ]
        assert [r.sequence for r in records] == list(range(len(records)))
        assert [r.ts_ms for r in records] == sorted(r.ts_ms for r in records)


def test_every_label_equals_the_trainers_and_carries_its_source(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STREAM_CTR_FEATURES__UNKNOWN", "refuse")
    log = opened(folder)
    config = write_config(folder, "state")
    daemon = join(config, log)
    trained = learn(config, log).pipeline.outcomes
    records = labelled(log)
    assert_complete(log)
    outcomes = daemon.core.pipeline.outcomes
    # The trainer's field schema rejects some impressions, which the joiner, having none, does not.
    unusable = sum("field" in letter.reason for letter in list_dead_letters(log, "dead-letters"))
    assert unusable > 0
    assert len(records) == outcomes["positives"] + outcomes["negatives"] == outcomes["impressions"]
    assert outcomes["impressions"] == trained["impressions"] + unusable
    by_place = {entry[:3]: entry for topic in ("impressions",) for entry in held_entries(log, topic)}
    for record in records:
        assert record.source is not None
        entry = by_place[record.source]
        assert json.loads(entry.value or b"") == msgspec.to_builtins(record.impression) | json.loads(
            entry.value or b""
        )
        assert record.ts_ms >= record.impression.ts_ms
    assert sum(record.label for record in records) == outcomes["positives"]
    log.close()


def plain_config(folder: Path, state: str, input_: str) -> Path:
    path = folder / f"{state}.toml"
    path.write_text(PLAIN.format(folder=folder, state=state, input=input_), "utf-8")
    return path


def test_trainers_with_and_without_joining_process_learn_equal_weights(folder: Path) -> None:
    log = opened(folder)
    together = learn(plain_config(folder, "together", "clicks"), log)
    join(plain_config(folder, "apart", "clicks"), log)
    apart = learn(plain_config(folder, "apart", "labelled"), log)
    assert apart.learned == together.learned > 100
    one, other = apart.learner.state(), together.learner.state()
    assert {"rows.weight", "dense.weight"} < one.arrays.keys()
    for name in one.arrays.keys() - {"rows.touched"}:  # when a row was last seen: at the impression, or later
        assert State({name: one.arrays[name]}).equals(State({name: other.arrays[name]})), name
    assert apart.pipeline.outcomes["positives"] == together.pipeline.outcomes["positives"]
    log.close()


RUNS = 6


class Killed(BaseException):
    """Ends the process without saving or writing anything."""


@pytest.mark.parametrize("checkpoints", [False, True])
def test_a_joiner_killed_at_random_moments_leaves_no_gap_and_no_duplicate(
    folder: Path, checkpoints: bool
) -> None:
    seed = int.from_bytes(os.urandom(4), "little")
    print(f"seed {seed}")
    generator = random.Random(seed)
    log = opened(folder)
    config = write_config(folder, "killed")
    kills = written = 0
    for _ in range(RUNS):
        left = generator.randrange(1, 9)

        def kill(daemon: JoinDaemon) -> None:
            nonlocal left, written
            left -= 1
            daemon.output.flush()
            written += daemon.output.written
            if left == 0:
                raise Killed
            if checkpoints and left == 2:
                daemon.checkpoint()

        try:
            join(config, log, kill)
        except Killed:
            kills += 1
    assert kills
    last = join(config, log)
    assert_complete(log)
    # A run that reached the end of the log saved its position, so the last run finds no earlier records.
    if not checkpoints and kills == RUNS:
        assert (last.output.there_before > 0) == (written > 0)
    # The undisturbed run: same log, same journal, another output.
    other = folder / "undisturbed"
    (other / "join").mkdir(parents=True)
    shutil.copy(folder / "killed" / "join" / "journal", other / "join" / "journal")
    config = write_config(folder, "undisturbed")
    text = config.read_text("utf-8").replace("[log]\n", '[log]\nlabelled = "elsewhere"\n', 1)
    config.write_text(text, "utf-8")
    join(config, log)
    assert labelled(log) == labelled(log, "elsewhere")
    log.close()


def test_records_beyond_the_memory_budget_are_on_disk_and_labels_are_the_same(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = opened(folder)
    join(write_config(folder, "roomy"), log)
    monkeypatch.setenv("STREAM_CTR_LOG__LABELLED", "elsewhere")
    (folder / "narrow" / "join").mkdir(parents=True)
    shutil.copy(folder / "roomy" / "join" / "journal", folder / "narrow" / "join" / "journal")
    settings = load_settings(write_config(folder, "narrow"))
    narrow = replace(settings.join, memory_bytes=16_384)

    def save() -> None:
        daemon.checkpoint()
        assert daemon.core.pipeline.stage.joiner.memory_bytes <= 16_384

    with Reporter("test", quiet=True) as reporter:
        own = settings.model_copy(update={"join": narrow})
        daemon = JoinDaemon(own, log, reporter, on_step=save)
        daemon.run(threading.Event(), until_idle=0.0)
    assert daemon.core.pipeline.stage.joiner.segments()
    assert labelled(log) == labelled(log, "elsewhere")
    log.close()


def test_a_policy_with_early_labels_is_rejected(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = opened(folder)
    monkeypatch.setenv("STREAM_CTR_JOIN__POLICY", "fast")
    with pytest.raises(ConfigError, match=r"join.policy = 'fast' needs labels before they are final"):
        join(write_config(folder, "state"), log)
    log.close()


class LosingLog:
    """A log in which every third append to the labelled topic is partial or unacknowledged."""

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self.lost = 0
        self._appends = 0

    def __getattr__(self, name: str) -> object:
        return getattr(self._log, name)

    def append(self, topic: str, records: list[Record]) -> None:
        self._appends += topic == "labelled"
        if topic != "labelled" or self._appends % 3:
            self._log.append(topic, records)
            return
        self.lost += 1
        self._log.append(topic, records[: len(records) * (self.lost % 3) // 2])
        raise LogError("no broker answered in time")


def test_an_unacknowledged_append_is_completed_without_duplicates(folder: Path) -> None:
    log = opened(folder)
    losing = LosingLog(log)
    join(write_config(folder, "state"), cast(EventLog, losing))
    assert losing.lost > 2
    assert_complete(log)
    log.close()


def test_a_reader_drops_duplicates_and_counts_missing_records(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = opened(folder)
    join(write_config(folder, "state"), log)
    entries = [entry for entry in held_entries(log, "labelled") if entry.partition == 0]
    log.append("labelled", [Record(e.key, e.value, e.timestamp_ms, 0) for e in entries[-7:]])
    ahead = json.loads(entries[-1].value or b"")
    ahead["sequence"] += 4
    log.append("labelled", [Record(None, json.dumps(ahead).encode(), ahead["ts_ms"], 0)])
    monkeypatch.setenv("STREAM_CTR_JOIN__INPUT", "labelled")
    outcomes = learn(write_config(folder, "trained"), log).pipeline.outcomes
    assert (outcomes["labelled_repeated"], outcomes["labelled_missing"]) == (7, 3)
    again = learn(write_config(folder, "trained"), log).pipeline.outcomes
    assert again == outcomes
    log.close()


def test_a_replayed_label_is_learned_and_ignored_by_the_joiner(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The labels were rejected because the schema lacked a field; with the field they are learned."""
    monkeypatch.setenv("STREAM_CTR_FEATURES__UNKNOWN", "refuse")
    log = opened(folder)
    daemon = join(write_config(folder, "state"), log)
    monkeypatch.setenv("STREAM_CTR_JOIN__INPUT", "labelled")
    first = learn(write_config(folder, "trained"), log)
    rejected = first.pipeline.outcomes["rejected"]
    assert rejected > 0
    report = replay_dead_letters(log, "dead-letters", Selection(topic="labelled"))
    assert report.replayed == rejected
    config = write_config(folder, "wider")
    text = config.read_text("utf-8").replace("[order]", '[[features.fields]]\nname = "unknown"\n[order]', 1)
    config.write_text(text, "utf-8")
    wider = learn(config, log)
    assert wider.pipeline.outcomes["labelled_repeated"] == 0
    assert wider.learned == first.learned + 2 * rejected  # it reads the first time, too
    again = JoinOutput(log, "labelled")
    assert again.last == dict(enumerate(n - 1 for n in daemon.core.pipeline.sequences))
    log.close()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"label": 2}, "label must be 0 or 1, got 2"),
        ({"v": 9}, "v = 9 is not supported"),
        ({"ts_ms": -1}, "ts_ms must be between 0 and"),
        ({"extra": 1}, "unknown field `extra`"),
        ({"impression": {"v": 1}}, "required field"),
        ({"impression": {"v": 1, "event_id": "", "ts_ms": 1, "features": {}}}, "event_id is empty"),
        ({"impression": {"v": 1, "event_id": "a", "ts_ms": 1, "features": {"ad": {}}}}, "field 'ad'"),
    ],
)
def test_a_malformed_labelled_record_is_a_dead_letter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, object], reason: str
) -> None:
    shown = {"v": 1, "event_id": "a", "ts_ms": 1, "features": {"ad": "x"}}
    good = {"v": 1, "ts_ms": 5, "label": 0, "impression": shown}
    log = open_log(f"sqlite:///{tmp_path}/clicks.db", create=True)
    log.create_topic("labelled", 1)
    values = [json.dumps({**good, **change}).encode(), b"{", b"null", json.dumps(good).encode()]
    log.append("labelled", [Record(None, value, 5, 0) for value in values])
    monkeypatch.setenv("STREAM_CTR_JOIN__INPUT", "labelled")
    core = learn(write_config(tmp_path, "state"), log)
    assert (core.learned, core.pipeline.outcomes["rejected"]) == (1, 3)
    assert reason in next(list_dead_letters(log, "dead-letters")).reason
    log.close()


def test_a_topic_written_by_another_process_is_rejected(folder: Path) -> None:
    log = opened(folder)
    join(write_config(folder, "first"), log)
    with pytest.raises(
        StateError, match=r"second/join has no state, but topic 'labelled' already has labelled"
    ):
        join(write_config(folder, "second"), log)
    log.append("labelled", [Record(b"k", b"something else", 1, 1)])
    with pytest.raises(LogError, match="last record in topic 'labelled' partition 1 was not written by"):
        join(write_config(folder, "first"), log)
    log.close()


def test_train_reads_the_output_of_join(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = str(write_config(folder, "state"))
    assert main(["join", "--config", config, "--until-idle", "0", "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["written"] == figures["outcomes"]["positives"] + figures["outcomes"]["negatives"] > 0
    monkeypatch.setenv("STREAM_CTR_JOIN__INPUT", "labelled")
    assert main(["train", "--config", config, "--until-idle", "0", "--json"]) == 0
    learned = json.loads(capsys.readouterr().out)
    assert learned["learned"] + learned["outcomes"]["rejected"] == figures["written"]
    assert main(["join", "--config", config, "--until-idle", "-1"]) == 2


@pytest.mark.kafka
@pytest.mark.slow
def test_on_kafka_a_joiner_survives_kills_of_itself_and_of_the_broker(folder: Path, broker: Broker) -> None:
    source = opened(folder)
    target = open_log(broker.url)
    copy(source, target)
    config = write_config(folder, "state")
    text = config.read_text("utf-8").replace(f"sqlite:///{folder}/clicks.db", broker.url)
    config.write_text(text, "utf-8")
    steps = 0

    def kill(daemon: JoinDaemon) -> None:
        nonlocal steps
        steps += 1
        daemon.output.flush()
        if steps == 4:
            daemon.checkpoint()
        if steps == 6:
            broker.kill()
            broker.start()
        if steps == 9:
            raise Killed

    with pytest.raises(Killed):
        join(config, target, kill)
    join(config, target)
    assert_complete(target)
    embedded = write_config(folder, "embedded")
    (folder / "embedded" / "join").mkdir(parents=True)
    shutil.copy(folder / "state" / "join" / "journal", folder / "embedded" / "join" / "journal")
    join(embedded, source)
    assert labelled(target) == labelled(source)
    target.close()
    source.close()
