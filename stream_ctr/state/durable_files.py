"""The few file operations that durability rests on, behind one seam.

Everything that must survive a crash (checkpoints, journal, snapshots) is written through a
:class:`Files`, so that tests can record the operations, fail the k-th, stop the process in the middle of
one, or rebuild a folder as a machine that lost its unsynced writes would show it.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterable
from pathlib import Path


class Files:
    """Durable file operations of the real file system."""

    def write(self, path: Path, content: bytes | memoryview) -> None:
        """Create or replace a file; nothing of it is durable yet."""
        path.write_bytes(content)

    def write_pieces(self, path: Path, pieces: Iterable[bytes | memoryview]) -> None:
        """Create or replace a file by these pieces, one after the other; nothing of it is durable yet."""
        with path.open("wb") as file:
            for piece in pieces:
                file.write(piece)

    def append(self, path: Path, content: bytes, at_bytes: int) -> None:
        """Write at a position of a file and cut what lay beyond it; nothing of it is durable yet."""
        with path.open("r+b", buffering=0) as file:
            file.truncate(at_bytes)
            file.seek(at_bytes)
            if file.write(content) != len(content):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    def sync_file(self, path: Path) -> None:
        """Make a file's content durable (its name is not, before its folder is synced)."""
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def make_folder(self, path: Path) -> None:
        """Create a folder; its parents must exist."""
        path.mkdir()

    def sync_folder(self, path: Path) -> None:
        """Make the names in a folder durable."""
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def rename(self, source: Path, target: Path) -> None:
        """Give a file or folder its final name, replacing a file of that name atomically."""
        source.rename(target)

    def remove_file(self, path: Path) -> None:
        """Remove a file."""
        path.unlink()

    def remove_folder(self, path: Path) -> None:
        """Remove a folder and what is in it."""
        shutil.rmtree(path)
