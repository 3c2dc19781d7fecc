"""Background threads: they do not block learning, and their errors surface."""

from __future__ import annotations

import copy
import errno
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from stream_ctr.batch import Batch
from stream_ctr.config.settings import load_settings
from stream_ctr.daemon.background import Background
from stream_ctr.daemon.checkpoint import CheckpointStore
from stream_ctr.daemon.resume import input_topics
from stream_ctr.datasets.base import resolve_fields
from stream_ctr.errors import StateError
from stream_ctr.events.open import open_log
from stream_ctr.features.scan.scanner import RecordScanner
from stream_ctr.learners.base import FreezesWeights, LearnResult, Weighted
from stream_ctr.pipeline.ordering.journal import Journal
from stream_ctr.pipeline.ordering.order import Order
from stream_ctr.pipeline.stream import Applied
from stream_ctr.reporting.progress import Reporter
from stream_ctr.state import frozen
from stream_ctr.state.durable_files import Files
from stream_ctr.state.frozen import FrozenState
from stream_ctr.state.state import State
from stream_ctr.training.core import Core, Step
from stream_ctr.training.learner_thread import FrozenWeights, LearnerThread
from stream_ctr.training.trainer import Trainer
from tests.support.faulty_files import WatchedFiles
from tests.support.faulty_streams import write_config, write_stream


class RecordingReporter(Reporter):
    """A reporter that records event names."""

    def __init__(self) -> None:
        super().__init__("test", quiet=True)
        self.events: list[str] = []

    def say(self, event: str, **values: Any) -> None:
        self.events.append(event)


@contextmanager
def trainer(
    config: Path, files: Files | None = None, **options: Any
) -> Iterator[tuple[Trainer, RecordingReporter]]:
    settings = load_settings(config)
    log = open_log(settings.log.url)
    try:
        reported = RecordingReporter()
        with reported:
            yield Trainer(settings, settings.arm(None), log, reported, files=files, **options), reported
    finally:
        log.close()


def learner_state(folder: Path) -> Any:
    loaded = CheckpointStore(folder / "main" / "checkpoints", 9).load()
    assert loaded is not None
    return loaded.parts["learner"]


def replaced(config: Path, old: str, new: str) -> Path:
    text = config.read_text("utf-8")
    assert old in text
    config.write_text(text.replace(old, new), "utf-8")
    return config


def test_the_error_of_a_task_is_raised_when_its_result_is_taken() -> None:
    background: Background[int] = Background("test")
    assert (background.busy, background.done, background.take()) == (False, False, None)
    background.start(lambda: 1 // 0)
    with pytest.raises(RuntimeError, match="was not taken"):
        background.start(lambda: 1)
    with pytest.raises(ZeroDivisionError):
        background.take()
    assert not background.busy
    background.start(lambda: 3)
    assert background.take() == 3
    background.close()


class SlowDisk(WatchedFiles):
    """Once ``slow``, a file sync blocks until the loop has learned more chunks."""

    def __init__(self) -> None:
        self.slow = False
        self.learned_on = threading.Event()
        self.in_time: list[bool] = []

    def step(self, operation: str, path: Path) -> None:
        if self.slow and operation == "sync_file" and "/main/checkpoints" in str(path) and not self.in_time:
            self.in_time.append(self.learned_on.wait(60.0))


def test_learning_continues_while_a_checkpoint_is_written(tmp_path: Path) -> None:
    write_stream(tmp_path, 200)
    files, steps = SlowDisk(), 0

    def on_step(step: Step) -> None:
        nonlocal steps
        steps += 1
        if steps == 8:
            files.learned_on.set()

    with trainer(write_config(tmp_path, "whole")) as (daemon, _):
        daemon.run(threading.Event(), until_idle=0.0)
    config = replaced(write_config(tmp_path, "slow"), "checkpoint_seconds = 1e9", "checkpoint_seconds = 0")
    with trainer(config, files, on_step=on_step) as (daemon, _):
        files.slow = True
        daemon.run(threading.Event(), until_idle=0.0)
    assert files.in_time == [True]
    assert learner_state(tmp_path / "slow").equals(learner_state(tmp_path / "whole"))


class SlowPieces(WatchedFiles):
    """Once ``slow``, each of a checkpoint's first pieces waits until another chunk is learned or all are."""

    def __init__(self) -> None:
        self.slow = False
        self.ended = False
        self.waited = self.released = 0
        self.asked, self.learned_on = threading.Event(), threading.Event()

    def step(self, operation: str, path: Path) -> None:
        if self.slow and operation == "write_piece" and self.waited < 8 and not self.ended:
            self.waited += 1
            self.asked.set()
            assert self.learned_on.wait(60.0)
            self.learned_on.clear()

    def learned(self) -> None:
        """A chunk was learned: release one piece."""
        if self.slow and self.released < 8:
            self.released += 1
            assert self.asked.wait(60.0)
            self.asked.clear()
            self.learned_on.set()

    def over(self) -> None:
        """All chunks are learned: release the writer."""
        self.ended = True
        self.learned_on.set()


def test_a_checkpoint_has_no_updates_made_while_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkpoint is the state of one position, bit for bit, however long writing takes."""
    monkeypatch.setattr(frozen, "PIECE_BYTES", 256)
    write_stream(tmp_path, 300)
    files = SlowPieces()
    taken: list[dict[str, State]] = []
    config = replaced(write_config(tmp_path, "slow"), "checkpoint_seconds = 1e9", "checkpoint_seconds = 0")
    with trainer(config, files, on_step=lambda step: files.learned()) as (daemon, _):
        freeze = daemon.core.freeze

        def recorded() -> dict[str, FrozenState]:
            taken.append(copy.deepcopy(daemon.core.parts()))
            if daemon.core.stage.progress.applied > 80 and not files.waited:
                files.slow = True
            return freeze()

        def last() -> None:
            files.over()
            checkpoint()

        checkpoint = daemon.checkpoint
        monkeypatch.setattr(daemon.core, "freeze", recorded)
        monkeypatch.setattr(daemon, "checkpoint", last)
        daemon.run(threading.Event(), until_idle=0.0)
    assert files.released > 0
    store = CheckpointStore(tmp_path / "slow" / "main" / "checkpoints", 1000)
    versions = store.versions()[1:]  # the first was written before anything was recorded
    assert len(versions) == len(taken) > 2
    for version, parts in zip(versions, taken, strict=True):
        saved = store.read(version)[1]
        assert saved.keys() == parts.keys()
        for name, state in parts.items():
            assert saved[name].equals(state), (version, name)
    assert not taken[1]["learner"].equals(taken[-1]["learner"])


def test_a_checkpoint_from_the_step_callback_has_every_applied_chunk(tmp_path: Path) -> None:
    """The callback may run while the next chunk is queued; that chunk must be in the checkpoint too."""
    write_stream(tmp_path, 200)
    with trainer(write_config(tmp_path, "whole")) as (daemon, _):
        daemon.run(threading.Event(), until_idle=0.0)
    config, steps = write_config(tmp_path, "stopped"), 0

    def on_step(step: Step) -> None:
        nonlocal steps
        steps += 1
        if steps == 5:
            daemon.checkpoint()
            raise StateError("injected")

    with trainer(config, on_step=on_step) as (daemon, _), pytest.raises(StateError, match="injected"):
        daemon.run(threading.Event(), until_idle=0.0)
    with trainer(config) as (daemon, _):
        assert daemon.core.learned > 0
        daemon.run(threading.Event(), until_idle=0.0)
    assert learner_state(tmp_path / "stopped").equals(learner_state(tmp_path / "whole"))


def test_tasks_queued_after_a_failure_do_not_run() -> None:
    background: Background[int] = Background("test", max_pending=4)
    done: list[int] = []
    go_on = threading.Event()

    def fail() -> int:
        assert go_on.wait(60.0)
        raise ValueError("injected")

    def work() -> int:
        done.append(1)
        return 1

    for task in (fail, work, work):
        background.start(task)
    go_on.set()
    with pytest.raises(ValueError, match="injected"):
        background.take()
    assert (done, len(background), background.take()) == ([], 0, None)
    background.start(work)
    assert (background.take(), done) == (1, [1])
    background.close()


class BadDisk(WatchedFiles):
    """Once ``bad``, every n-th operation on checkpoints fails."""

    def __init__(self, every: int) -> None:
        self.every = every
        self.count = 0
        self.bad = False

    def step(self, operation: str, path: Path) -> None:
        if self.bad and "/main/checkpoints" in str(path):
            self.count += 1
            if self.count % self.every == 0:
                raise OSError(errno.EIO, os.strerror(errno.EIO))


def test_failed_checkpoints_are_reported_and_learning_continues(tmp_path: Path) -> None:
    write_stream(tmp_path, 120)
    with trainer(write_config(tmp_path, "whole")) as (daemon, _):
        daemon.run(threading.Event(), until_idle=0.0)
    config = replaced(write_config(tmp_path, "bad"), "checkpoint_seconds = 1e9", "checkpoint_seconds = 0")
    files = BadDisk(every=7)  # every checkpoint has more operations
    with trainer(config, files) as (daemon, reported):
        files.bad = True
        with pytest.raises(OSError, match="Input/output error"):
            daemon.run(threading.Event(), until_idle=0.0)
    assert reported.events.count("checkpoint-failed") > 1
    with trainer(config) as (daemon, _):  # resumes the checkpoint written at the start
        daemon.run(threading.Event(), until_idle=0.0)
    assert learner_state(tmp_path / "bad").equals(learner_state(tmp_path / "whole"))


def test_a_failed_snapshot_is_reported_and_learning_continues(tmp_path: Path) -> None:
    write_stream(tmp_path, 60)
    config = replaced(write_config(tmp_path, "state"), "snapshot_seconds = 0", "snapshot_seconds = 0.01")
    (tmp_path / "state" / "main").mkdir(parents=True)
    (tmp_path / "state" / "main" / "snapshots").write_text("in the way")
    with trainer(config) as (daemon, reported):
        assert daemon.run(threading.Event(), until_idle=0.0).events > 40
    assert "snapshot-failed" in reported.events


def batches_of(config: Path, core: Core) -> list[Applied]:
    """The log's events as the daemon's loop hands them to the learner."""
    settings = load_settings(config)
    log = open_log(settings.log.url)
    fields = resolve_fields(settings.features)
    order = Order(
        input_topics(settings),
        core.pipeline.stage.progress.order_state(),
        Journal(),
        scanner=RecordScanner(fields),
    )
    reader = log.reader(core.pipeline.stage.progress.positions())
    while entries := reader.poll(1000, 0.0):
        order.add(entries)
    reader.close()
    log.close()
    ordered = order.finish()
    return [core.pipeline.apply(ordered[start : start + 24]) for start in range(0, len(ordered), 24)]


def core_of(config: Path) -> Core:
    settings = load_settings(config)
    return Core(settings, settings.arm(None), resolve_fields(settings.features), 2)


def test_frozen_weights_are_those_of_their_place_in_the_queue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_stream(tmp_path, 200)
    config = write_config(tmp_path, "state")
    core, alone = core_of(config), core_of(config)
    batches = batches_of(config, core)
    assert len(batches) > 8
    expected: list[tuple[int, State]] = []
    for applied in batches:
        alone.measure(applied, alone.learner.learn(applied.batch))
        assert isinstance(alone.learner, Weighted)
        expected.append((alone.learned, alone.learner.weights()))
    learner, go_on, frozen_at = core.learner, threading.Event(), list[tuple[int, FrozenState]]()
    assert isinstance(learner, FreezesWeights)
    learn = learner.learn

    def slow(batch: Batch) -> LearnResult:
        assert go_on.wait(20.0)
        return learn(batch)

    monkeypatch.setattr(learner, "learn", slow)
    thread = LearnerThread(core)

    def take(*, wait: bool = False) -> None:
        for step in thread.completed(wait=wait):
            if isinstance(step, FrozenWeights):
                frozen_at.append((core.learned, step.state))

    for number, applied in enumerate(batches):
        thread.give(applied)
        thread.freeze_weights()
        take()
        if number == 0:
            assert not frozen_at  # neither call waited for the learner
            go_on.set()
    take(wait=True)
    thread.close()
    assert [learned for learned, _ in frozen_at] == [learned for learned, _ in expected]
    for (_, state), (_, weights) in zip(frozen_at, expected, strict=True):
        with state:  # read only now that all of it is learned
            assert state.thaw().equals(weights)
    assert not expected[0][1].equals(expected[-1][1])


def test_weights_frozen_after_a_failure_are_discarded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_stream(tmp_path, 60)
    core = core_of(write_config(tmp_path, "state"))
    batches = batches_of(tmp_path / "state.toml", core)
    go_on = threading.Event()

    def failing(batch: Batch) -> LearnResult:
        assert go_on.wait(20.0)
        raise StateError("injected")

    monkeypatch.setattr(core.learner, "learn", failing)
    thread = LearnerThread(core)
    thread.give(batches[0])
    thread.freeze_weights()
    go_on.set()
    completed = thread.completed(wait=True)
    with pytest.raises(StateError, match="injected"):
        next(completed)
    assert not thread.busy
    assert list(thread.completed(wait=True)) == []
    thread.close()


def test_after_an_error_of_the_learner_the_next_start_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_stream(tmp_path, 120)
    with trainer(write_config(tmp_path, "whole")) as (daemon, _):
        daemon.run(threading.Event(), until_idle=0.0)
    config = write_config(tmp_path, "failing")
    with trainer(config) as (daemon, _):
        learn, calls = daemon.core.learner.learn, 0

        def failing(batch: Batch) -> LearnResult:
            nonlocal calls
            calls += 1
            if calls == 4:
                raise StateError("injected")
            return learn(batch)

        monkeypatch.setattr(daemon.core.learner, "learn", failing)
        with pytest.raises(StateError, match="injected"):
            daemon.run(threading.Event(), until_idle=0.0)
    with trainer(config) as (daemon, _):
        daemon.run(threading.Event(), until_idle=0.0)
    assert learner_state(tmp_path / "failing").equals(learner_state(tmp_path / "whole"))


def test_a_returned_state_is_a_copy(tmp_path: Path) -> None:
    """A checkpoint is written while the loop continues, so the state must not change."""
    write_stream(tmp_path, 200)
    taken: list[tuple[dict[str, State], dict[str, State]]] = []

    def on_step(step: Step) -> None:
        if daemon.core.stage.progress.applied > 80 and not taken:
            parts = daemon.core.parts()
            taken.append((parts, copy.deepcopy(parts)))

    with trainer(write_config(tmp_path, "state"), on_step=on_step) as (daemon, _):
        daemon.run(threading.Event(), until_idle=0.0)
        ((parts, before),) = taken
        assert not daemon.core.parts()["learner"].equals(before["learner"])
    for name, state in before.items():
        assert parts[name].equals(state), name
