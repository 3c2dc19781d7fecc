"""Compiled kernels on disk: private, undamaged, and the only form of a kernel that runs."""

from __future__ import annotations

import ast
import logging
import os
import stat
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
from numba.core import serialize
from numpy.typing import NDArray

from stream_ctr.kernels import cache as kernel_cache
from stream_ctr.kernels import decorators
from stream_ctr.kernels.compiler import KernelFiles
from stream_ctr.kernels.decorators import fast_kernel, fast_part, kernel

Floats = NDArray[np.float64]


@kernel
def twice(values: Floats) -> Floats:
    """A kernel for these tests."""
    return values * 2.0


@fast_part
def polynomial(x: float) -> float:
    """Too long to be inlined."""
    total = 0.0
    for k in range(9):
        for j in range(k):
            total += (x + k) / (j + 2.0) if total < j else x * total * 0.25
            total = total * 0.5 + np.sqrt(abs(x + j)) + np.exp(-abs(x) * k) - np.log1p(abs(total))
            total -= np.sin(total) * np.cos(x * j) + np.tanh(x / (k + 1.0)) * np.arctan(total)
    return total


@fast_kernel
def polynomials(values: Floats) -> Floats:
    """A kernel that calls a part, several times."""
    out = np.empty_like(values)
    for i in range(values.size):
        out[i] = polynomial(values[i]) + polynomial(values[i] * 0.5) * polynomial(-values[i])
    return out


@fast_kernel
def total(values: Floats) -> float:
    """A kernel that calls a kernel."""
    return float(polynomials(values).sum()) + polynomial(values[0])


def scaled_by(factor: float) -> Any:
    """A separate kernel for each factor."""

    @kernel
    def scale(values: Floats) -> Floats:
        return values * factor

    return scale


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty cache in this process."""
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    remembered: tuple[Any, ...] = (kernel_cache.folder, kernel_cache._warn_not_kept)
    for function in remembered:
        function.cache_clear()
    folder = kernel_cache.folder()
    assert folder is not None
    yield folder
    for function in remembered:
        function.cache_clear()


def start(home: Path, code: str) -> subprocess.Popen[str]:
    """A new process whose kernels are under ``home``."""
    environment = {**os.environ, "XDG_CACHE_HOME": str(home)}
    environment.pop("NUMBA_CACHE_DIR", None)
    return subprocess.Popen(
        [sys.executable, "-c", code],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> tuple[str, str]:
    output, errors = process.communicate()
    assert process.returncode == 0, errors
    return output.strip(), errors


CALL: Final = """
import numpy as np
from tests.kernels.test_cache import twice
assert twice(np.arange(3.0)).tolist() == [0.0, 2.0, 4.0]
print(sum(twice.stats.cache_hits.values()), sum(twice.stats.cache_misses.values()))
"""
"""Prints hits and misses of one kernel."""
BITS: Final = """
import numpy as np
from tests.kernels.test_cache import {imported}
values = np.linspace(-3.0, 9.0, 31)
print({results})
"""
TOTAL: Final = BITS.format(
    imported="total, polynomials", results="total(values).hex(), polynomials(values).tolist()"
)
TOTAL_LATER: Final = BITS.format(
    imported="total, polynomials", results="*reversed((polynomials(values).tolist(), total(values).hex()))"
)
NO_ROOM: Final = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))\n"


def test_kernels_are_cached_in_the_users_own_folder(tmp_path: Path) -> None:
    assert finish(start(tmp_path, CALL))[0] == "0 1"
    (folder,) = (tmp_path / "stream-ctr" / "kernels").iterdir()
    assert folder.name == kernel_cache.key()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    (file,) = folder.iterdir()
    assert file.name.startswith("tests.kernels.test_cache.twice-")
    assert finish(start(tmp_path, CALL))[0] == "1 0"


def test_a_folder_that_others_may_write_is_not_used(cache: Path) -> None:
    cache.chmod(0o777)
    kernel_cache.folder.cache_clear()
    assert kernel_cache.folder() != cache


def test_without_any_folder_a_warning_is_logged_and_kernels_run(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    monkeypatch.setattr(kernel_cache, "PACKAGE", blocked)
    kernel_cache.folder.cache_clear()
    with caplog.at_level(logging.WARNING):
        assert scaled_by(3.0)(np.ones(2)).tolist() == [3.0, 3.0]
        assert scaled_by(4.0)(np.ones(2)).tolist() == [4.0, 4.0]
    (message,) = caplog.messages
    assert str(blocked) in message
    assert "set XDG_CACHE_HOME" in message


@pytest.mark.parametrize(
    "damage", [lambda whole: b"", lambda whole: whole[:-9], lambda whole: bytes(len(whole))]
)
def test_damaged_files_are_replaced(cache: Path, damage: Any) -> None:
    def hits_and_misses() -> tuple[int, int]:
        scale = scaled_by(3.0)
        assert scale(np.ones(2)).tolist() == [3.0, 3.0]
        return sum(scale.stats.cache_hits.values()), sum(scale.stats.cache_misses.values())

    assert hits_and_misses() == (0, 1)
    (path,) = cache.iterdir()
    path.write_bytes(damage(path.read_bytes()))
    assert hits_and_misses() == (0, 1)
    assert hits_and_misses() == (1, 0)


def test_a_full_disk_costs_only_time(tmp_path: Path) -> None:
    output, errors = finish(start(tmp_path, NO_ROOM + CALL))
    assert output == "0 1"
    (line,) = errors.splitlines()
    assert "compiled kernels cannot be cached" in line
    assert str(tmp_path) in line
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_all_processes_compute_equal_bits(tmp_path: Path) -> None:
    compiled = finish(start(tmp_path, TOTAL))[0]
    assert compiled == finish(start(tmp_path, TOTAL))[0]
    assert compiled == finish(start(tmp_path, TOTAL_LATER))[0]  # loaded in another order
    assert compiled == finish(start(tmp_path / "empty", NO_ROOM + TOTAL))[0]


def test_processes_that_compile_at_the_same_time_share_the_files(tmp_path: Path) -> None:
    processes = [start(tmp_path, TOTAL) for _ in range(3)]
    assert len({finish(process)[0] for process in processes}) == 1
    names = [path.name.partition("-")[0] for path in tmp_path.rglob("*") if path.is_file()]
    assert sorted(names) == ["tests.kernels.test_cache.polynomials", "tests.kernels.test_cache.total"]


def test_the_first_process_to_write_a_file_wins(cache: Path) -> None:
    assert kernel_cache.keep("name", b"first") == b"first"
    assert kernel_cache.keep("name", b"second") == b"first"
    (cache / "name").write_bytes(b"damaged")
    assert kernel_cache.keep("name", b"third") == b"third"
    assert [path.name for path in cache.iterdir()] == ["name"]


def test_a_file_system_without_hard_links_is_supported(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "link", refuse)
    assert kernel_cache.keep("name", b"first") == b"first"
    assert kernel_cache.keep("name", b"second") == b"first"


def test_a_process_runs_the_kernel_from_the_file(cache: Path) -> None:
    """A file written by another process replaces the kernel that this process has just compiled."""
    scale, other = scaled_by(3.0), scaled_by(5.0)
    other(np.ones(2))
    (path,) = cache.iterdir()
    content = path.read_bytes()
    files = scale._cache
    name = files._name((scale_type := other.nopython_signatures[0].args), None)
    compile_core = scale._compiler._compile_core

    def compile_while_another_process_writes(*arguments: Any) -> Any:
        (cache / name).write_bytes(content)
        return compile_core(*arguments)

    scale._compiler._compile_core = compile_while_another_process_writes
    assert scale(np.ones(2)).tolist() == [5.0, 5.0]
    assert scale.stats.cache_misses == {scale_type: 1}


def test_each_closure_has_its_file(cache: Path) -> None:
    assert [scaled_by(factor)(np.ones(1))[0] for factor in (2.0, 7.0, 2.0)] == [2.0, 7.0, 2.0]
    assert len(list(cache.iterdir())) == 2


def test_a_recompiled_kernel_is_written_again(cache: Path) -> None:
    scale = scaled_by(2.0)
    scale(np.ones(1))
    (before,) = cache.iterdir()
    os.utime(before, (0, 0))
    scale.recompile()
    assert scale(np.ones(1))[0] == 2.0
    (after,) = cache.iterdir()
    assert after.name == before.name
    assert after.stat().st_mtime > 0


def test_a_kernel_with_an_address_of_this_process_is_refused(cache: Path) -> None:
    large = np.zeros(1 << 21, np.uint8)

    @kernel
    def first(at: int) -> int:
        return int(large[at])

    with pytest.raises(TypeError, match=r"kernel .*first uses an address of this process"):
        first(0)


def global_functions(elf: bytes) -> set[str]:
    """Names of an object file's functions that are visible to other files (ELF64, System V ABI)."""
    assert elf[:5] == b"\x7fELF\x02"
    (sections_at,) = struct.unpack_from("<Q", elf, 40)
    size, count = struct.unpack_from("<HH", elf, 58)
    sections = [struct.unpack_from("<IIQQQQIIQQ", elf, sections_at + i * size) for i in range(count)]
    found = set()
    for _, kind, _, _, at, length, link, _, _, entry in sections:
        if kind != 2:  # SHT_SYMTAB
            continue
        for place in range(at, at + length, entry):
            name, info, _, section, _, _ = struct.unpack_from("<IBBHQQ", elf, place)
            if info & 15 == 2 and info >> 4 and section:  # STT_FUNC, not STB_LOCAL, defined here
                begin = sections[link][4] + name
                found.add(elf[begin : elf.index(b"\0", begin)].decode())
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="reads ELF")
def test_an_object_file_shares_no_function_but_the_kernel(cache: Path) -> None:
    """Otherwise the linker could replace a part by a function of the same name from another kernel."""
    value: Any = total
    fresh: Any = fast_kernel(value.py_func)
    fresh(np.ones(3))
    for path in cache.iterdir():
        loads: Any = serialize.loads
        (_, _, (elf, _)), description = loads(path.read_bytes()[16:])[:2]
        name = description.mangled_name
        assert b"polynomial" in elf
        assert global_functions(elf) == {name, description.llvm_cpython_wrapper_name, f"cfunc.{name}"}


MACHINERY = ("cache", "compiler", "decorators", "sources")


def test_every_kernel_of_the_package_is_declared_here() -> None:
    """Numba's own decorators would run the code that they compile."""
    own = {Path(decorators.__file__).with_name(f"{name}.py") for name in MACHINERY}
    for path in sorted(kernel_cache.PACKAGE.rglob("*.py")):
        text = path.read_text()
        if "numba" not in text or path in own:
            continue
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Import):
                assert not [alias.name for alias in node.names if alias.name.startswith("numba")], path
            elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("numba"):
                assert {alias.name for alias in node.names} <= {"types", "overload", "intrinsic"}, path
    declared: tuple[Any, ...] = (twice, polynomials)
    for compiled in declared:
        assert isinstance(compiled._cache, KernelFiles)


def test_kernels_are_plain_functions_if_numba_is_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMBA_DISABLE_JIT", "1")
    code = "from tests.kernels.test_cache import *; print(type(twice).__name__, twice(np.ones(1))[0])"
    assert finish(start(tmp_path, code))[0] == "function 2.0"
    assert not list(tmp_path.iterdir())
