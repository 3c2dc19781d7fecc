"""Faults of a real Kafka broker: the learned state equals that of a run without faults bit for bit.

The oracle is an undisturbed run over the same log with the same order journal. With ``-s``, a table of the
injected faults is printed at the end.
"""

from __future__ import annotations

import gc
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import uuid
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import pytest

from stream_ctr.config.settings import load_settings
from stream_ctr.errors import OffsetRangeError
from stream_ctr.events import dead_letters
from stream_ctr.events.dead_letters import list_dead_letters
from stream_ctr.events.kafka.client import kafka, servers_of
from stream_ctr.events.kafka.log import KafkaLog
from stream_ctr.events.log import EventLog, Record, TopicPartition
from stream_ctr.events.open import open_log
from stream_ctr.reporting.progress import Reporter
from stream_ctr.training.core import Core, Step
from stream_ctr.training.trainer import Trainer
from tests.support.faulty_streams import write_config, write_stream
from tests.support.free_ports import free_port
from tests.support.kafka_broker import Broker
from tests.training.test_restart import OPERATIONS, assert_equal_bits, final, run_plan

pytestmark = [pytest.mark.kafka, pytest.mark.slow]

SEED = int(os.environ.get("STREAM_CTR_TEST_SEED", "0")) or int.from_bytes(os.urandom(4), "little")
KILLS = int(os.environ.get("STREAM_CTR_TEST_KAFKA_ROUNDS", "6"))
PARTITIONS = 2
IMPRESSIONS = 240

FaultTable = list[tuple[str, int, str]]


@pytest.fixture(scope="module")
def faults() -> Iterator[FaultTable]:
    """The table of injected faults; printed at the end."""
    rows: FaultTable = []
    yield rows
    print(f"\nseed {SEED}: repeat with STREAM_CTR_TEST_SEED={SEED}")
    for fault, rounds, outcome in [("fault", "rounds", "outcome"), *rows]:
        print(f"| {fault} | {rounds} | {outcome} |")


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """One broker for all tests; each test has its own topics and leaves the broker running."""
    if os.environ.get("STREAM_CTR_TEST_KAFKA") != "start":
        pytest.skip("no broker to kill: set STREAM_CTR_TEST_KAFKA=start (needs Java 17 and Maven)")
    broker = Broker(tmp_path_factory.mktemp("faults"))
    try:
        broker.start()
        yield broker
    finally:
        broker.kill()
        gc.collect()


@pytest.fixture(autouse=True)
def closed_sockets() -> None:
    # kafka-python leaves the socket of a refused connection to the garbage collector.
    warnings.filterwarnings("ignore", "unclosed <socket", ResourceWarning)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EventLog]:
    """A stream with duplicate, orphaned, early, late and malformed records, in an embedded log."""
    folder = tmp_path_factory.mktemp("source")
    write_stream(folder, IMPRESSIONS)
    log = open_log(f"sqlite:///{folder}/clicks.db")
    yield log
    log.close()


class Run:
    """Topics of one test on the broker, filled from the source, and trainers that read them."""

    def __init__(self, folder: Path, broker: Broker, source: EventLog) -> None:
        own = uuid.uuid4().hex[:8]
        self.folder, self.broker, self.source = folder, broker, source
        self.topics = {name: f"{name}-{own}" for name in ("impressions", "clicks")}
        self.dead_letters = f"dead-letters-{own}"
        # Long timeouts for preparing a fault, because a broker is slow after a restart.
        self.log = KafkaLog(broker.url, timeout_seconds=30, append_timeout_seconds=60)
        self.entries = 0
        """Entries that were written to both topics."""

    def fill(self, part: int = 0, parts: int = 1) -> None:
        """Write the stream or, with ``parts``, only part number ``part`` of every partition."""
        for name, topic in self.topics.items():
            self.log.create_topic(topic, PARTITIONS)
            for partition, end in self.source.end_offsets(name).items():
                first, last = end * part // parts, end * (part + 1) // parts
                reader = self.source.reader({TopicPartition(name, partition): first})
                entries = reader.poll(last - first, 0.0)
                reader.close()
                assert len(entries) == last - first
                records = [Record(e.key, e.value, e.timestamp_ms, partition) for e in entries]
                self.log.append(topic, records)
                self.entries += len(records)

    def config(self, state: str) -> Path:
        path = write_config(self.folder, state)
        topics = "".join(f'{name} = "{topic}"\n' for name, topic in self.topics.items())
        place = f'url = "{self.broker.url}"\n{topics}dead_letters = "{self.dead_letters}"'
        text = path.read_text("utf-8").replace(f'url = "sqlite:///{self.folder}/clicks.db"', place)
        path.write_text(text, "utf-8")
        return path

    def train(
        self,
        state: str,
        *,
        on_step: Callable[[Trainer, int], None] = lambda trainer, steps: None,
        until_idle: float | None = 0.0,
        stop: threading.Event | None = None,
        skip_lost: bool = False,
    ) -> Core:
        """Run one trainer to the end of the log."""
        settings = load_settings(self.config(state))
        log = KafkaLog(settings.log.url, timeout_seconds=3, append_timeout_seconds=20)
        steps = 0

        def count(step: Step) -> None:
            nonlocal steps
            steps += 1
            on_step(trainer, steps)

        try:
            with Reporter("test", quiet=True) as reporter:
                trainer = Trainer(
                    settings, settings.arm(None), log, reporter, on_step=count, skip_lost=skip_lost
                )
                trainer.run(stop or threading.Event(), until_idle)
                return trainer.core
        finally:
            log.close()

    def stop_after(self, state: str, steps: int) -> Core:
        """Run a trainer and stop it after ``steps`` chunks."""
        stop = threading.Event()

        def count(trainer: Trainer, done: int) -> None:
            if done == steps:
                stop.set()

        return self.train(state, on_step=count, until_idle=None, stop=stop)

    def train_all(self, state: str, on_step: Callable[[Trainer, int], None] = lambda t, n: None) -> None:
        """Run a trainer until it has applied the whole stream, which may be written meanwhile."""
        stop = threading.Event()
        total = sum(sum(self.source.end_offsets(name).values()) for name in self.topics)

        def count(trainer: Trainer, steps: int) -> None:
            on_step(trainer, steps)
            if trainer.core.stage.progress.applied == total:
                stop.set()

        self.train(state, on_step=count, until_idle=None, stop=stop)

    def check(self, disturbed: str, *, ended: bool = True) -> None:
        """Compare with an undisturbed run over the same log and journal.

        Args:
            disturbed: name of the state to compare.
            ended: whether the run reached the end of the log and closed its last windows.
        """
        state = f"undisturbed-{disturbed}"
        (self.folder / state / "main").mkdir(parents=True)
        journal = Path("main") / "journal"
        shutil.copy(self.folder / disturbed / journal, self.folder / state / journal)
        if ended:
            self.train(state)
        else:
            self.train_all(state)
        assert_equal_bits(final(self.folder, disturbed), final(self.folder, state))

    def close(self) -> None:
        self.log.close()


@pytest.fixture
def run(tmp_path: Path, broker: Broker, source: EventLog) -> Iterator[Run]:
    run = Run(tmp_path, broker, source)
    yield run
    run.close()


def disturb(run: Run, fault: Callable[[], None], repair: Callable[[], None]) -> None:
    """Train while the stream is written in three parts, with a fault in the first and one in the second.

    At a random step of each, the trainer writes a checkpoint and the fault is injected. The next part is
    written after the repair, so that no entry of it can have been read before.
    """
    generator = random.Random(SEED)
    part, struck, striking = 1, 0, False
    moment = generator.randrange(1, 5)
    repairing = threading.Thread(target=run.fill, args=(0, 3))
    repairing.start()
    repairing.join()

    def repair_and_write(number: int) -> None:
        repair()
        run.fill(number, 3)

    def on_step(trainer: Trainer, steps: int) -> None:
        nonlocal part, struck, moment, repairing, striking
        if part < 3 and steps >= moment and not repairing.is_alive() and not striking:
            striking = True  # writing a checkpoint completes the queued chunk, which is a step too
            trainer.checkpoint()
            fault()
            struck += 1
            repairing = threading.Thread(target=repair_and_write, args=(part,))
            repairing.start()
            part, moment, striking = part + 1, steps + generator.randrange(1, 5), False

    run.train_all("disturbed", on_step)
    repairing.join()
    assert struck == 2


def test_a_broker_killed_and_started_again_while_the_trainer_reads(run: Run, faults: FaultTable) -> None:
    disturb(run, run.broker.kill, run.broker.start)
    run.check("disturbed", ended=False)
    faults.append(("broker killed -9 and started again mid-stream", 2, "waited; bits equal"))


def test_a_daemon_waits_for_an_unavailable_broker_at_the_start(run: Run, faults: FaultTable) -> None:
    """The daemon as a process: live and not ready while it waits, and stopped by SIGTERM."""
    run.fill()
    config = run.config("late")
    port = free_port()
    text = config.read_text("utf-8").replace("metrics_port = -1", f"metrics_port = {port}")
    config.write_text(text, "utf-8")
    run.broker.kill()
    command = [sys.executable, "-m", "stream_ctr.cli", "train", "--config", str(config)]
    daemon = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert daemon.stderr is not None
    with daemon.stderr as lines:
        read_until(lines, "waiting")
        assert status_of(f"http://127.0.0.1:{port}/health/live") == 200
        assert status_of(f"http://127.0.0.1:{port}/health/ready") == 503
        run.broker.start()
        read_until(lines, "new")
        deadline = time.monotonic() + 120
        while applied_of(port) < run.entries:
            assert time.monotonic() < deadline
            time.sleep(0.2)
        assert status_of(f"http://127.0.0.1:{port}/health/ready") == 200
        daemon.send_signal(signal.SIGTERM)
        lines.read()
    assert daemon.wait(60) == 0
    saved = final(run.folder, "late").manifest.positions
    assert sum(offset for _, _, offset in saved) == run.entries
    faults.append(("broker unavailable at the start", 1, "waited, live and not ready; nothing lost"))


def read_until(lines: IO[str], event: str) -> None:
    for line in lines:
        if json.loads(line)["event"] == event:
            return
    raise AssertionError(f"the daemon ended without reporting {event!r}")


def status_of(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=60) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def applied_of(port: int) -> int:
    """Applied entries according to the daemon's metrics."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
            text = answer.read().decode()
    except OSError:  # between the metrics server of the waiting daemon and that of the trainer
        return 0
    return sum(
        int(float(line.rpartition(" ")[2]))
        for line in text.splitlines()
        if line.startswith("stream_ctr_applied_entries_total")
    )


def test_a_broker_stalled_for_longer_than_the_request_timeout(run: Run, faults: FaultTable) -> None:
    def wake() -> None:
        time.sleep(5.0)
        run.broker.send(signal.SIGCONT)

    disturb(run, lambda: run.broker.send(signal.SIGSTOP), wake)
    run.check("disturbed", ended=False)
    faults.append(("broker stalled for 5 s, requests give up after 3 s", 2, "waited; bits equal"))


def test_a_trainer_killed_at_random_moments(run: Run, faults: FaultTable) -> None:
    run.fill()
    generator = random.Random(SEED)
    plan: list[dict[str, Any]] = []
    for number, count in enumerate(sorted(generator.randrange(1, run.entries) for _ in range(KILLS))):
        inside = {"operation": generator.randrange(1, OPERATIONS)}
        plan.append(
            {"entries": count, **(inside if number % 2 else {"after_us": generator.randrange(20_000)})}
        )
    statuses = run_plan(run.config("disturbed"), [*plan, {}])
    assert statuses == [-9] * KILLS + [0], f"seed {SEED}"
    run.check("disturbed")
    inside_count = sum("operation" in moment for moment in plan)
    faults.append(
        ("trainer killed -9 at random moments", KILLS, f"bits equal; {inside_count} inside a checkpoint")
    )


def test_retention_passes_the_saved_offset(run: Run, faults: FaultTable) -> None:
    run.fill()
    stopped = run.stop_after("state", 5)
    place = TopicPartition(run.topics["impressions"], 0)
    saved = stopped.pipeline.stage.progress.positions()[place]
    run.log.trim(*place, saved + 7)
    for _ in range(2):  # a rejected start changes nothing
        with pytest.raises(OffsetRangeError) as raised:
            run.train("state")
        assert (
            f"continues at offset {saved}, but the log begins at {saved + 7}: "
            f"the 7 entries {saved} to {saved + 6} were deleted by retention" in str(raised.value)
        )
    skipping = run.train("state", skip_lost=True)
    assert skipping.pipeline.outcomes["skipped"] == 7
    assert skipping.pipeline.stage.progress.positions() == {
        TopicPartition(topic, p): end
        for topic in run.topics.values()
        for p, end in run.log.end_offsets(topic).items()
    }
    again = run.train("state")  # not lost any more, and not counted again
    assert again.pipeline.outcomes["skipped"] == 7
    faults.append(("retention passes the saved offset", 2, "refused, 7 lost entries named"))
    faults.append(("the same, started with --skip-lost", 1, "continues, 7 counted as skipped"))


@pytest.mark.parametrize("refilled", [False, True])
def test_a_recreated_topic_is_rejected_even_if_refilled(run: Run, faults: FaultTable, refilled: bool) -> None:
    run.fill()
    run.stop_after("state", 5)
    topic = run.topics["clicks"]
    recreate(run, topic, refilled=refilled)
    with pytest.raises(OffsetRangeError, match=f"topic {topic} of .* was deleted and created again"):
        run.train("state")
    faults.append((f"topic deleted and recreated{', refilled' if refilled else ''}", 1, "refused, ids named"))


def test_a_topic_recreated_and_refilled_during_a_run_ends_it(run: Run, faults: FaultTable) -> None:
    run.fill()
    topic = run.topics["clicks"]
    before = run.log.topic_id(topic)
    struck: list[int] = []

    def on_step(trainer: Trainer, steps: int) -> None:
        if steps == 2:
            trainer.checkpoint()
            recreate(run, topic, refilled=True)
            struck.append(trainer.core.stage.progress.applied)

    with pytest.raises(OffsetRangeError, match=f"'{topic}' was deleted and created again while it was read"):
        run.train("state", on_step=on_step, until_idle=None)
    assert struck
    saved = final(run.folder, "state").manifest
    assert saved.log["topic_ids"][topic] == before
    faults.append(
        (
            "topic deleted, recreated and refilled while a trainer reads",
            1,
            "status 1, ids named; the last checkpoint is of the first topic",
        )
    )


def recreate(run: Run, topic: str, *, refilled: bool) -> None:
    """Delete the topic and create it again, empty or with the same records."""
    own, before = run.topics, run.log.topic_id(topic)
    delete_topic(run, topic)
    deadline = time.monotonic() + 60
    while True:
        try:
            run.log.create_topic(topic, PARTITIONS)
            if run.log.topic_id(topic) != before:
                break
        except Exception:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.1)
    if refilled:
        run.topics = {"clicks": topic}
        run.fill()
        run.topics = own


def delete_topic(run: Run, topic: str) -> None:
    admin = kafka.KafkaAdminClient(bootstrap_servers=servers_of(run.broker.url))
    admin.delete_topics([topic])
    admin.close()


def test_without_its_dead_letter_topic_a_trainer_waits_and_drops_nothing(
    run: Run, faults: FaultTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.fill()
    monkeypatch.setattr(dead_letters, "MAX_WAITING", 1)
    waits, stop = threading.Event(), threading.Event()
    applied: list[int] = []

    def on_step(trainer: Trainer, steps: int) -> None:
        if steps == 1:
            delete_topic(run, run.dead_letters)
        applied.append(trainer.core.stage.progress.applied)
        if applied[-1] == run.entries:
            stop.set()

    def bring_back() -> None:
        before = -1
        while before != len(applied) or before < 1:  # until no step was made for a while
            before = len(applied)
            time.sleep(4.0)
        waits.set()
        run.log.create_topic(run.dead_letters, PARTITIONS)

    helper = threading.Thread(target=bring_back)
    helper.start()
    core = run.train("disturbed", on_step=on_step, until_idle=None, stop=stop)
    helper.join()
    assert waits.is_set()
    rejected = core.pipeline.outcomes["rejected"]
    assert rejected > 1
    letters = list(list_dead_letters(run.log, run.dead_letters))
    # Letters acknowledged before the topic was deleted were deleted with it.
    assert 0 < rejected - len(letters) <= 2 or rejected == len(letters)
    run.check("disturbed", ended=False)
    faults.append(("dead-letter topic gone, then back", 1, f"reading waited; {rejected} letters, bits equal"))


def test_a_stream_written_twice_is_learned_once(run: Run, faults: FaultTable) -> None:
    run.fill()
    once = run.train("state").parts()
    counted = run.train("state").pipeline.outcomes
    for outcome in ("impressions_repeated", "clicks_orphaned", "clicks_after_window", "clicks_repeated"):
        assert counted[outcome] > 0, outcome
    run.fill()
    core = run.train("state")
    assert core.learner.state().equals(once["learner"])
    twice = core.pipeline.outcomes
    assert twice["impressions"] == counted["impressions"]
    assert twice["positives"] == counted["positives"]
    repeated, late = (twice[n] - counted[n] for n in ("impressions_repeated", "impressions_late"))
    assert repeated > 0
    assert late > 0
    run.check("state")
    outcome = f"weights unchanged; {repeated} repeats, {late} late"
    faults.append(("everything written twice; orphans, early, late and double clicks", 1, outcome))
