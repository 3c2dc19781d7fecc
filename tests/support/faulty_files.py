"""File operations with faults: the k-th operation fails, or unsynced writes are lost."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from stream_ctr.state.durable_files import Files


class WatchedFiles(Files):
    """Calls :meth:`step` before every operation."""

    def step(self, operation: str, path: Path) -> None:
        """Called before ``operation`` (the method's name) on ``path``; raising prevents it."""
        raise NotImplementedError

    def write(self, path: Path, content: bytes | memoryview) -> None:
        self.step("write", path)
        super().write(path, content)

    def write_pieces(self, path: Path, pieces: Iterable[bytes | memoryview]) -> None:
        self.step("write_pieces", path)
        super().write_pieces(path, self._stepped(path, pieces))

    def _stepped(self, path: Path, pieces: Iterable[bytes | memoryview]) -> Iterator[bytes | memoryview]:
        for piece in pieces:
            self.step("write_piece", path)
            yield piece

    def append(self, path: Path, content: bytes, at_bytes: int) -> None:
        self.step("append", path)
        super().append(path, content, at_bytes)

    def sync_file(self, path: Path) -> None:
        self.step("sync_file", path)
        super().sync_file(path)

    def make_folder(self, path: Path) -> None:
        self.step("make_folder", path)
        super().make_folder(path)

    def sync_folder(self, path: Path) -> None:
        self.step("sync_folder", path)
        super().sync_folder(path)

    def rename(self, source: Path, target: Path) -> None:
        self.step("rename", source)
        super().rename(source, target)

    def remove_file(self, path: Path) -> None:
        self.step("remove_file", path)
        super().remove_file(path)

    def remove_folder(self, path: Path) -> None:
        self.step("remove_folder", path)
        super().remove_folder(path)


class FailingFiles(WatchedFiles):
    """Counts the operations; number ``fail_at`` raises an OSError with ``code`` instead."""

    def __init__(self, fail_at: int, code: int = errno.EIO) -> None:
        self.fail_at = fail_at
        self.code = code
        self.count = 0

    def step(self, operation: str, path: Path) -> None:
        self.count += 1
        if self.count == self.fail_at:
            raise OSError(self.code, "injected")


@dataclass
class _Node:
    """A file or folder: its present state, and its state on disk after a power failure."""

    content: bytes = b""
    synced: bytes = b""
    entries: dict[str, _Node] = field(default_factory=dict)
    synced_entries: dict[str, _Node] = field(default_factory=dict)
    folder: bool = False


class ForgetfulFiles(FailingFiles):
    """Also tracks the content of a disk that holds only synced writes."""

    def __init__(self, root: Path, fail_at: int = 0) -> None:
        super().__init__(fail_at)
        self.root = root
        self.node = _Node(folder=True)

    def _at(self, path: Path) -> _Node:
        node = self.node
        for part in path.relative_to(self.root).parts:
            node = node.entries[part]
        return node

    def write(self, path: Path, content: bytes | memoryview) -> None:
        super().write(path, content)
        self._at(path.parent).entries.setdefault(path.name, _Node()).content = bytes(content)

    def write_pieces(self, path: Path, pieces: Iterable[bytes | memoryview]) -> None:
        super().write_pieces(path, pieces)
        self._at(path.parent).entries.setdefault(path.name, _Node()).content = path.read_bytes()

    def sync_file(self, path: Path) -> None:
        super().sync_file(path)
        node = self._at(path)
        node.synced = node.content

    def make_folder(self, path: Path) -> None:
        super().make_folder(path)
        self._at(path.parent).entries[path.name] = _Node(folder=True)

    def sync_folder(self, path: Path) -> None:
        super().sync_folder(path)
        node = self._at(path)
        node.synced_entries = dict(node.entries)

    def rename(self, source: Path, target: Path) -> None:
        super().rename(source, target)
        self._at(target.parent).entries[target.name] = self._at(source.parent).entries.pop(source.name)

    def remove_folder(self, path: Path) -> None:
        super().remove_folder(path)
        del self._at(path.parent).entries[path.name]

    def remove_file(self, path: Path) -> None:
        super().remove_file(path)
        del self._at(path.parent).entries[path.name]

    def rebuild(self, target: Path) -> Path:
        """Write the content of the disk after a power failure to ``target``."""
        _rebuild(self.node, target)
        return target


def _rebuild(node: _Node, target: Path) -> None:
    target.mkdir()
    for name, child in node.synced_entries.items():
        if child.folder:
            _rebuild(child, target / name)
        else:
            (target / name).write_bytes(child.synced)
