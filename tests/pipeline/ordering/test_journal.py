"""The journal: durable before in effect, whole after a crash, never silently wrong."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from stream_ctr.errors import StateError
from stream_ctr.events.log import TopicPartition
from stream_ctr.pipeline.ordering.journal import Base, Decision, FileJournal, Journal
from stream_ctr.state.durable_files import Files

A, B = TopicPartition("impressions", 0), TopicPartition("clicks", 1)
GROUPS = [
    [Decision(0, "idle", A), Decision(0, "idle", B)],
    [Decision(4, "active", B)],
    [Decision(4, "idle", B), Decision(4, "active", A)],
    [Decision(9, "end", None)],
]
DECISIONS = [decision for group in GROUPS for decision in group]


def written(path: Path) -> FileJournal:
    journal = FileJournal(path)
    for group in GROUPS:
        journal.append(group)
    return journal


def test_decisions_are_read_back(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    assert written(path).decisions() == DECISIONS
    assert FileJournal(path).decisions() == DECISIONS
    assert FileJournal(path).base == Base()


def test_base_at_folds_what_came_before(tmp_path: Path) -> None:
    journal = written(tmp_path / "journal")
    assert journal.base_at(0) == Base(0, 0, frozenset())
    assert journal.base_at(1) == Base(1, 2, frozenset({A, B}))
    assert journal.base_at(4) == Base(4, 2, frozenset({A, B}))
    assert journal.base_at(5) == Base(5, 5, frozenset({B}))
    assert journal.base_at(10) == Base(10, 6, frozenset({B}))


@pytest.mark.parametrize("before", [0, 1, 4, 5, 10])
def test_trimming_changes_nothing_from_there_on(tmp_path: Path, before: int) -> None:
    path = tmp_path / "journal"
    journal, whole = written(path), written(tmp_path / "whole")
    journal.trim(before)
    for each in (journal, FileJournal(path)):
        assert each.decisions() == [d for d in DECISIONS if d.at >= before]
        assert [each.base_at(n) for n in range(before, 12)] == [whole.base_at(n) for n in range(before, 12)]
    journal.append([Decision(12, "idle", A)])
    assert FileJournal(path).base_at(13) == Base(13, 7, frozenset({A, B}))


def test_trimmed_journal_refuses_older_checkpoints(tmp_path: Path) -> None:
    journal = written(tmp_path / "journal")
    journal.trim(5)
    with pytest.raises(
        StateError, match="begins at emission count 5, which is later than the checkpoint's 4"
    ):
        journal.base_at(4)


def test_cut_last_line_was_never_in_effect(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    written(path)
    content = path.read_bytes()
    start = content[:-1].rfind(b"\n") + 1
    for size in range(start, len(content)):
        path.write_bytes(content[:size])
        journal = FileJournal(path)
        assert journal.decisions() == DECISIONS[:-1]
        journal.append([Decision(7, "idle", A)])
        assert FileJournal(path).decisions() == [*DECISIONS[:-1], Decision(7, "idle", A)]


def test_damaged_last_line_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    written(path)
    content = path.read_bytes()
    for tail in (content[:-4] + b"0\n", content[: content[:-1].rfind(b"\n") + 1] + bytes(40)):
        path.write_bytes(tail)
        assert FileJournal(path).decisions() == DECISIONS[:-1]


def test_any_flipped_bit_before_the_last_line_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    written(path)
    content = path.read_bytes()
    for place in range(content[:-1].rfind(b"\n") + 1):
        damaged = bytearray(content)
        damaged[place] ^= 4
        path.write_bytes(damaged)
        with pytest.raises(StateError, match="is damaged"):
            FileJournal(path)


@pytest.mark.parametrize("content", [b"", b"x", b"not a journal\n", b'{"format":1} 00000000\n'])
def test_what_is_no_journal_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "journal"
    path.write_bytes(content)
    with pytest.raises(StateError, match=str(path)):
        FileJournal(path)


class FailingFiles(Files):
    """The k-th operation from arming on fails; an append that fails has written half of its bytes."""

    def __init__(self) -> None:
        self.until_failure = -1
        self.lasting = False

    def _step(self) -> None:
        self.until_failure -= 1
        if self.until_failure == 0 or (self.lasting and self.until_failure < 0):
            raise OSError(errno.EIO, "Input/output error")

    def write(self, path: Path, content: bytes | memoryview) -> None:
        self._step()
        super().write(path, content)

    def append(self, path: Path, content: bytes, at_bytes: int) -> None:
        try:
            self._step()
        except OSError:
            super().append(path, content[: len(content) // 2], at_bytes)
            raise
        super().append(path, content, at_bytes)

    def sync_file(self, path: Path) -> None:
        self._step()
        super().sync_file(path)

    def rename(self, source: Path, target: Path) -> None:
        self._step()
        super().rename(source, target)

    def sync_folder(self, path: Path) -> None:
        self._step()
        super().sync_folder(path)


@pytest.mark.parametrize("k", [1, 2])
def test_failed_append_is_not_made_and_can_be_settled(tmp_path: Path, k: int) -> None:
    path, files = tmp_path / "journal", FailingFiles()
    journal = FileJournal(path, files)
    journal.append(GROUPS[0])
    files.until_failure = k
    with pytest.raises(StateError, match="cannot write it: Input/output error"):
        journal.append(GROUPS[1])
    assert journal.decisions() == GROUPS[0]
    journal.settle()
    assert FileJournal(path).decisions() == GROUPS[0]
    journal.append(GROUPS[3])
    assert FileJournal(path).decisions() == [*GROUPS[0], *GROUPS[3]]


def test_what_a_failed_append_left_blocks_until_it_is_undone(tmp_path: Path) -> None:
    """A line whose sync failed may be in the file, and would be found by the next start."""
    path, files = tmp_path / "journal", FailingFiles()
    journal = FileJournal(path, files)
    files.until_failure, files.lasting = 2, True
    with pytest.raises(StateError):
        journal.append(GROUPS[0])
    assert FileJournal(path).decisions() == GROUPS[0]
    with pytest.raises(StateError):
        journal.settle()
    files.until_failure, files.lasting = -1, False
    journal.settle()
    assert FileJournal(path).decisions() == []


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_failed_trim_loses_nothing(tmp_path: Path, k: int) -> None:
    path, files = tmp_path / "journal", FailingFiles()
    journal = FileJournal(path, files)
    for group in GROUPS:
        journal.append(group)
    files.until_failure = k
    with pytest.raises(StateError, match="cannot write it"):
        journal.trim(5)
    later = [Decision(20, "idle", A)]
    journal.append(later)
    for each in (journal, FileJournal(path)):
        assert each.base_at(21) == Base(21, 7, frozenset({A, B}))
    journal.trim(5)
    assert FileJournal(path).decisions() == [*GROUPS[3], *later]


class LosingFiles(Files):
    """Remembers what a machine would show that lost everything not yet synced."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.synced: dict[int, bytes] = {}
        self.names: dict[str, int] = {}
        self.fail_folder_sync = False

    def sync_file(self, path: Path) -> None:
        super().sync_file(path)
        self.synced[path.stat().st_ino] = path.read_bytes()

    def sync_folder(self, path: Path) -> None:
        if self.fail_folder_sync:
            self.fail_folder_sync = False
            raise OSError(errno.EIO, "Input/output error")
        super().sync_folder(path)
        self.names = {item.name: item.stat().st_ino for item in path.iterdir()}

    def survivor(self, name: str) -> bytes:
        return self.synced[self.names[name]]


def test_decisions_survive_the_loss_of_unsynced_writes(tmp_path: Path) -> None:
    folder, lost = tmp_path / "state", tmp_path / "lost"
    folder.mkdir()
    files = LosingFiles(folder)
    journal = FileJournal(folder / "journal", files)

    def survives() -> FileJournal:
        lost.write_bytes(files.survivor("journal"))
        return FileJournal(lost)

    for group in GROUPS:
        journal.append(group)
        assert survives().decisions() == journal.decisions()
    journal.trim(5)
    assert survives().decisions() == journal.decisions()
    files.fail_folder_sync = True
    with pytest.raises(StateError):
        journal.trim(9)
    journal.append([Decision(30, "idle", A)])
    assert survives().base_at(31) == journal.base_at(31)


def test_journal_in_memory_keeps_the_same_contract() -> None:
    journal = Journal()
    for group in GROUPS:
        journal.append(group)
    journal.trim(5)
    assert journal.decisions() == GROUPS[3]
    assert journal.base_at(10) == Base(10, 6, frozenset({B}))


def test_unreadable_place_is_a_state_error(tmp_path: Path) -> None:
    with pytest.raises(StateError, match="cannot write it"):
        FileJournal(tmp_path / "no such folder" / "journal")
    with pytest.raises(StateError, match="cannot open it"):
        FileJournal(tmp_path)
