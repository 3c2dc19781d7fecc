"""``make test-fast`` leaves out files that exist, and leaves tests in every folder."""

from __future__ import annotations

from pathlib import Path

from tests.support.slow_files import SLOW_FILES

TESTS = Path(__file__).parent


def test_slow_files_exist() -> None:
    assert [name for name in SLOW_FILES if not (TESTS / name).is_file()] == []


def test_every_folder_keeps_fast_tests() -> None:
    slow = {TESTS / name for name in SLOW_FILES}
    folders = [path for path in TESTS.iterdir() if any(path.rglob("test_*.py"))]
    assert folders
    assert [folder.name for folder in folders if set(folder.rglob("test_*.py")) <= slow] == []
