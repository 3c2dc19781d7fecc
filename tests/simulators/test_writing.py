"""Replay and simulate over the embedded log: order, times, killing, resuming, stopping."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import msgspec
import pytest

from simulators.log_writer.resume import Position
from simulators.log_writer.timeline import timeline
from simulators.log_writer.writer import Pace, Topics, Writer
from simulators.world.settings import WorldConfig
from simulators.world.world import World
from stream_ctr.errors import DataError, LogError, UsageError
from stream_ctr.events.log import Record, TopicPartition
from stream_ctr.events.open import open_log
from stream_ctr.events.partitioner import partition_of
from stream_ctr.events.records import Click, Impression
from tests.serving.ranking.test_impression_log import eventually
from tests.support.dataset_files import criteo_line, write
from tests.support.simulated_logs import SMALL, contents, copy_prefix, run, url_of

EVENTS = 3000


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The log of a simulation that was never interrupted."""
    url = url_of(tmp_path_factory.mktemp("whole") / "log.db")
    assert run("simulate", "--log", url, "--events", str(EVENTS), *SMALL) == 0
    return url


def test_the_log_holds_the_world_in_order(whole: str) -> None:
    config = WorldConfig(users=500, ads=100, sites=40)
    examples = {example.event_id: example for example in World(config).examples(0, EVENTS)}
    found = contents(whole)
    shown = {place: entries for place, entries in found.items() if place.topic == "impressions"}
    assert sum(len(entries) for entries in shown.values()) == EVENTS
    clicked = set()
    for place, entries in found.items():
        times = []
        for entry in entries:
            assert entry.key is not None
            assert partition_of(entry.key, 3) == place.partition
            example = examples[entry.key.decode()]
            if place.topic == "impressions":
                record: Impression | Click = msgspec.json.decode(entry.value or b"", type=Impression)
                assert isinstance(record, Impression)
                assert (record.features, record.truth, record.bid, record.user, record.ts_ms) == (
                    example.features,
                    example.truth,
                    example.bid,
                    example.user,
                    example.time_ms,
                )
            else:
                record = msgspec.json.decode(entry.value or b"", type=Click)
                assert record.ts_ms == example.time_ms + (example.click_delay_ms or 0)
                clicked.add(record.event_id)
            assert record.event_id.encode() == entry.key
            assert entry.timestamp_ms == record.ts_ms
            times.append(record.ts_ms)
        assert times == sorted(times)
    assert clicked == {event_id for event_id, example in examples.items() if example.label}


@pytest.mark.parametrize("seed", range(6))
def test_a_killed_simulation_resumes_to_the_same_log(seed: int, whole: str, tmp_path: Path) -> None:
    """Whatever part of the last batch each partition holds, the resumed log equals an uninterrupted one."""
    chance = random.Random(seed)
    wanted = contents(whole)
    part = chance.random()
    counts = {
        place: max(0, min(len(entries), int(part * len(entries)) + chance.randint(-40, 40)))
        for place, entries in wanted.items()
    }
    url = url_of(tmp_path / "log.db")
    copy_prefix(whole, url, counts, 3)
    assert run("simulate", "--log", url, "--events", str(EVENTS), "--resume", *SMALL) == 0
    assert contents(url) == wanted


def test_a_long_simulation_resumes_from_the_middle(
    whole: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Resuming does not start at event 0: early events are not generated again."""
    monkeypatch.setattr("simulators.log_writer.writer.MAX_SKEW", 200)
    asked: list[int] = []
    examples = World.examples

    def spy(self: World, start: int, stop: int | None) -> object:
        asked.append(start)
        return examples(self, start, stop)

    monkeypatch.setattr(World, "examples", spy)
    wanted = contents(whole)
    url = url_of(tmp_path / "log.db")
    copy_prefix(whole, url, {place: int(0.8 * len(found)) for place, found in wanted.items()}, 3)
    assert run("simulate", "--log", url, "--events", str(EVENTS), "--resume", *SMALL) == 0
    assert 1000 < asked[0] < 0.8 * EVENTS - 200
    assert contents(url) == wanted


def test_resuming_a_complete_run_writes_nothing(
    whole: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    before = contents(whole)
    assert run("simulate", "--log", whole, "--events", str(EVENTS), "--resume", "--json", *SMALL) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["impressions"], result["clicks"]) == (0, 0)
    assert result["already_there"] == sum(len(entries) for entries in before.values())
    assert contents(whole) == before


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (("--seed", "2"), "not an event of the world with seed 2; resume with the seed of the first run"),
        (("--option", "click_rate=0.3"), "cannot resume: .*, expected 'world-1-.*'"),
        (("--start-ms", "5"), "cannot resume: .* its content differs"),
        (("--events", "100"), "cannot resume: topic .* ends with 'world-1-"),
    ],
)
def test_resuming_another_run_is_rejected_and_writes_nothing(
    other: tuple[str, ...], message: str, whole: str
) -> None:
    before = contents(whole)
    arguments = ("--log", whole, "--events", str(EVENTS + 500), "--resume", *SMALL, *other)
    with pytest.raises(LogError, match=message):
        run("simulate", *arguments)
    assert contents(whole) == before


def test_a_different_number_of_partitions_is_rejected(whole: str) -> None:
    with pytest.raises(LogError, match="3 partitions, not 4"):
        run("simulate", "--log", whole, "--events", "10", "--partitions", "4", *SMALL)


def test_kill_9_and_resume_gives_the_log_of_one_run(tmp_path: Path) -> None:
    """A real process, paced so that it is killed in the middle, then resumed to the end."""
    url, wanted = url_of(tmp_path / "killed.db"), url_of(tmp_path / "whole.db")
    common = ["--start-ms", "1700000000000", *SMALL]
    code = (
        "import sys; from tests.support.simulated_logs import run; sys.exit(run('simulate', *sys.argv[1:]))"
    )
    process = subprocess.Popen([sys.executable, "-c", code, "--log", url, *common, "--rate", "400"])
    try:
        eventually(lambda: process.poll() is not None or _impressions(url) > 100)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == -signal.SIGKILL
    events = _impressions(url) + 500
    assert events > 600
    # The same event times, as fast as possible.
    common += ["--option", "events_per_second=400", "--events", str(events)]
    assert run("simulate", "--log", wanted, *common) == 0
    assert run("simulate", "--log", url, *common, "--resume") == 0
    assert contents(url) == contents(wanted)


def _impressions(url: str) -> int:
    if not Path(url.removeprefix("sqlite:///")).exists():
        return 0
    try:
        return sum(len(entries) for entries in contents(url, ("impressions",)).values())
    except LogError:  # the process has made the file, but not yet its topic
        return 0


def test_a_signal_stops_cleanly_and_the_run_can_resume(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = url_of(tmp_path / "log.db")
    arguments = ("--log", url, "--rate", "1000", "--json", *SMALL)
    for number, how in enumerate((signal.SIGINT, signal.SIGTERM)):
        over = threading.Event()
        timer = threading.Thread(target=_signal_after, args=(url, 50 + 1000 * number, how, over))
        timer.start()
        try:
            assert run("simulate", *arguments, *(("--resume",) if number else ())) == 0
        finally:
            over.set()
            timer.join()
        result = json.loads(capsys.readouterr().out)
        assert result["stopped"]
        assert result["impressions"] > 0
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    numbers, starts = set(), set()
    for place, entries in contents(url).items():
        if place.topic == "impressions":
            for entry in entries:
                number = int((entry.key or b"").rpartition(b"-")[2])
                numbers.add(number)
                starts.add(entry.timestamp_ms - number)
    assert numbers == set(range(len(numbers)))
    assert len(starts) == 1  # the resumed run found the start of the first one
    assert abs(starts.pop() / 1000 - time.time()) < 60


def _signal_after(url: str, impressions: int, how: signal.Signals, over: threading.Event) -> None:
    """Signal this process when the log holds that many impressions, unless the run ends first."""
    while _impressions(url) < impressions:
        if over.wait(0.02):
            return
    os.kill(os.getpid(), how)


def test_a_replay_is_the_dataset_and_resumes(tmp_path: Path) -> None:
    labels = "01100101110010110101" * 20
    path = write(
        tmp_path / "train.txt", "".join(criteo_line(label, {1: str(n)}) for n, label in enumerate(labels))
    )
    data = ("criteo", str(path), "--option", "rows=400", "--option", "span_seconds=400")
    whole, url = url_of(tmp_path / "whole.db"), url_of(tmp_path / "log.db")
    assert run("replay", *data, "--log", whole, "--click-delay", "exponential:5", "--partitions", "2") == 0
    wanted = contents(whole)
    clicks = [e for place, found in wanted.items() if place.topic == "clicks" for e in found]
    assert len(clicks) == labels.count("1")
    counts = {place: len(found) // 3 + place.partition for place, found in wanted.items()}
    copy_prefix(whole, url, counts, 2)
    again = ("--click-delay", "exponential:5", "--partitions", "2", "--resume")
    assert run("replay", *data, "--log", url, *again) == 0
    assert contents(url) == wanted
    with pytest.raises(LogError, match="cannot resume"):
        run("replay", *data, "--log", url, "--partitions", "2", "--resume", "--click-delay", "2")


def test_rows_before_a_bad_line_are_written(tmp_path: Path) -> None:
    path = write(tmp_path / "train.txt", criteo_line("1") * 7 + "rubbish\n")
    url = url_of(tmp_path / "log.db")
    with pytest.raises(DataError, match="line 8"):
        run("replay", "criteo", str(path), "--log", url)
    assert _impressions(url) == 7
    write(path, criteo_line("1") * 9)
    assert run("replay", "criteo", str(path), "--log", url, "--resume") == 0
    assert _impressions(url) == 9


def test_topics_limit_and_start_of_a_replay(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "train.txt", criteo_line("1") * 9)
    url = url_of(tmp_path / "log.db")
    options = ("--impressions", "shown", "--clicks", "clicked", "--partitions", "1", "--start-ms", "777")
    assert run("replay", "criteo", str(path), "--log", url, "--limit", "4", "--json", *options) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["impressions"], result["clicks"], result["log"]) == (4, 4, url)
    found = contents(url, ("shown", "clicked"))
    assert [len(entries) for entries in found.values()] == [4, 4]
    assert found[TopicPartition("shown", 0)][0].timestamp_ms == 777
    assert found[TopicPartition("clicked", 0)][0].timestamp_ms == 1777


def test_unsorted_data_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    schema = write(tmp_path / "s.toml", 'label = "y"\ntime = "t"\nfields = [{ name = "x" }]')
    path = write(tmp_path / "data.csv", "y,t,x\n0,50,a\n0,40,b\n0,60,c\n0,10,d\n")
    url = url_of(tmp_path / "log.db")
    option = ("--option", f"schema={schema}")
    assert run("replay", "delimited", str(path), "--log", url, "--json", *option) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["out_of_order"] == 2
    assert "not sorted by time" in captured.err


def test_appending_to_a_nonempty_topic_is_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "train.txt", criteo_line())
    for _ in range(2):
        assert run("replay", "criteo", str(path), "--log", url_of(tmp_path / "log.db")) == 0
    assert "use --resume to continue" in capsys.readouterr().err
    assert _impressions(url_of(tmp_path / "log.db")) == 2


def test_a_trimmed_log_is_resumed_by_its_offsets(whole: str, tmp_path: Path) -> None:
    wanted = contents(whole)
    url = url_of(tmp_path / "log.db")
    counts = {place: len(found) // 2 for place, found in wanted.items()}
    copy_prefix(whole, url, counts, 3)
    log = open_log(url)
    for place, count in counts.items():
        log.trim(place.topic, place.partition, count - place.partition)
    log.close()
    assert run("simulate", "--log", url, "--events", str(EVENTS), "--resume", *SMALL) == 0
    found = contents(url)
    assert all(found[place] == wanted[place][counts[place] - place.partition :] for place in wanted)


def test_a_log_of_another_writer_is_not_appended_to(tmp_path: Path) -> None:
    url = url_of(tmp_path / "log.db")
    log = open_log(url, create=True)
    topics = Topics("impressions", "clicks", 3)
    topics.create(log)
    log.append("impressions", [Record(b"other", b"{}", 1)])
    writer = Writer(log, topics, position=Position(log, ("impressions", "clicks")))
    examples = World(WorldConfig(users=500, ads=100, sites=40)).examples(0, 50)
    with pytest.raises(LogError, match=r"'other', expected 'world-1-\d+'"):
        writer.write(timeline(examples, lambda event_id: 1))
    assert sum(log.end_offsets("impressions").values()) == 1
    log.close()


def test_pace_is_the_rate_and_a_live_writer_catches_up() -> None:
    now = [100.0]
    paced = Pace(10.0, live=False, clock=lambda: now[0])
    waits = [paced.wait_seconds(0)]
    now[0] += 0.25
    waits += [paced.wait_seconds(0) for _ in range(4)]
    assert waits == pytest.approx([0.0, -0.15, -0.05, 0.05, 0.15])
    behind = Pace(10.0, live=True, clock=lambda: 5.0, wall=lambda: 1030.0)
    assert [behind.wait_seconds(1_000_000 + 100 * n) for n in (0, 1)] == pytest.approx([-30.0, -29.9])
    assert Pace(None, live=True).wait_seconds(0) == 0


@pytest.mark.parametrize(
    ("command", "arguments", "message"),
    [
        ("simulate", ("--rate", "0"), "--rate 0"),
        ("simulate", ("--rate", "nan"), "--rate nan"),
        ("simulate", ("--events", "0"), "--events 0"),
        ("simulate", ("--partitions", "0"), "--partitions 0"),
        ("simulate", ("--clicks", "impressions"), "choose two topics"),
        ("simulate", ("--option", "user=3"), "did you mean 'users'"),
        ("simulate", ("--seed", "-4"), "seed = -4"),
        ("replay", ("criteo",), "criteo needs the path"),
        ("replay", ("criteo", "absent"), "no such file or folder: absent"),
        ("replay", ("world", "--limit", "0"), "--limit 0"),
        ("replay", ("world", "--start-ms", "-1"), "--start-ms -1"),
        ("replay", ("world", "--click-delay", "x"), "--click-delay 'x'"),
    ],
)
def test_invalid_usage_is_rejected_before_a_log_is_created(
    command: str, arguments: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=message):
        run(command, "--log", url_of(tmp_path / "log.db"), *arguments)
    assert not (tmp_path / "log.db").exists()
