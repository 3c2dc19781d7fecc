"""Where compiled kernels are kept: private, and never shared by different sources."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from stream_ctr import kernel_cache
from stream_ctr.kernels import kernel

PROGRAM = """
from stream_ctr.features import hashing
import numba
kernels = [f for f in vars(hashing).values() if isinstance(f, numba.core.registry.CPUDispatcher)]
cached = [f for f in kernels if type(f._cache).__name__ == "FunctionCache"]
assert cached
print(cached[0]._cache.cache_path)
"""


def cache_path(home: Path) -> Path:
    """Where a new process would keep a kernel."""
    environment = {**os.environ, "XDG_CACHE_HOME": str(home)}
    environment.pop("NUMBA_CACHE_DIR", None)
    ran = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return Path(ran.stdout.strip())


def fresh_key() -> str:
    kernel_cache.key.cache_clear()
    return kernel_cache.key()


@pytest.fixture(autouse=True)
def _own_key() -> Iterator[None]:
    yield
    kernel_cache.key.cache_clear()


def test_kernels_are_kept_in_the_users_own_folder(tmp_path: Path) -> None:
    found = cache_path(tmp_path)
    folder = found.parent
    assert folder.parent == tmp_path / "stream-ctr" / "kernels"
    assert folder.name == kernel_cache.key()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_folder_that_others_may_write_is_not_used(tmp_path: Path) -> None:
    folder = tmp_path / "stream-ctr" / "kernels" / kernel_cache.key()
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    assert not cache_path(tmp_path).is_relative_to(tmp_path)


def test_where_there_can_be_no_folder_numba_finds_its_own(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert not cache_path(blocked).is_relative_to(tmp_path)


USE = """
import numpy as np
from tests.test_kernel_cache import twice
assert twice(np.arange(3.0)).tolist() == [0.0, 2.0, 4.0]
print(sum(twice.stats.cache_hits.values()), sum(twice.stats.cache_misses.values()))
"""


@kernel
def twice(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """A kernel for these tests."""
    return values * 2.0


def used(home: Path, code: str = USE) -> str:
    """Hits and misses of a new process that needs one kernel."""
    environment = {**os.environ, "XDG_CACHE_HOME": str(home)}
    environment.pop("NUMBA_CACHE_DIR", None)
    ran = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.strip()


def test_files_that_are_damaged_are_made_again(tmp_path: Path) -> None:
    assert used(tmp_path) == "0 1"
    for ending in ("*.nbi", "*.nbc"):
        (path,) = tmp_path.rglob(f"*twice*{ending[1:]}")
        path.write_bytes(b"")
        assert used(tmp_path) == "0 1"
    assert used(tmp_path) == "1 0"


def test_a_cache_without_room_costs_only_time(tmp_path: Path) -> None:
    no_room = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))"
    assert used(tmp_path, no_room + USE) == "0 1"


def test_other_sources_have_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = {"a.py": "one kernel", "b.py": "no word of it", "deep/c.py": "another kernel"}
    for name, text in sources.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(kernel_cache, "PACKAGE", tmp_path)
    first = fresh_key()
    (tmp_path / "b.py").write_text("still no word of it")
    assert fresh_key() == first
    (tmp_path / "deep" / "c.py").write_text("another kernel, changed")
    changed = fresh_key()
    assert changed != first
    (tmp_path / "deep" / "c.py").rename(tmp_path / "deep" / "d.py")
    assert fresh_key() not in (first, changed)
