"""The file operations on which durability depends, behind one replaceable class.

Everything that must survive a crash (checkpoints, journal, snapshots) is written through a
:class:`Files`. Tests replace it to record the operations, fail the k-th, stop the process in the middle of
one, or rebuild the folder of a machine that lost its unsynced writes.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterable
from pathlib import Path


class Files:
    """Durable file operations on the real file system."""

    def write(self, path: Path, content: bytes | memoryview) -> None:
        """Create or replace a file; it is not durable yet."""
        path.write_bytes(content)

    def write_pieces(self, path: Path, pieces: Iterable[bytes | memoryview]) -> None:
        """Create or replace a file from consecutive pieces; it is not durable yet."""
        with path.open("wb") as file:
            for piece in pieces:
                file.write(piece)

    def append(self, path: Path, content: bytes, at_bytes: int) -> None:
        """Truncate a file to ``at_bytes``, then append; the result is not durable yet."""
        with path.open("r+b", buffering=0) as file:
            file.truncate(at_bytes)
            file.seek(at_bytes)
            if file.write(content) != len(content):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    def sync_file(self, path: Path) -> None:
        """Make a file's content durable; its name becomes durable when its folder is synced."""
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
        """Rename a file or folder, atomically replacing a file of that name."""
        source.rename(target)

    def remove_file(self, path: Path) -> None:
        """Remove a file."""
        path.unlink()

    def remove_folder(self, path: Path) -> None:
        """Remove a folder and its content."""
        shutil.rmtree(path)
