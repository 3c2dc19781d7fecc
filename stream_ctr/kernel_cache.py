"""Where compiled kernels are kept between runs, so that a restart does not compile them again.

The folder is private to the user and named after everything that decides what the machine code is: the
version of this package, of Python and of Numba, the processor, and a digest of all sources with kernels.
An upgrade or an edit therefore never meets files of other sources: Numba's own check looks at one source
file at a time, and only after it has read the file.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import os
import platform
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numba
from llvmlite import binding

PACKAGE = Path(__file__).parent
MARK = b"kernel"
"""Sources that hold, build or feed kernels have this word in them."""


@contextmanager
def cache_folder() -> Iterator[None]:
    """While it lasts, Numba gives new functions this folder; where there is none, its own choice stands.

    Where NUMBA_CACHE_DIR is set, the folder is inside that one.
    """
    config: Any = numba.config
    before = config.CACHE_DIR
    config.CACHE_DIR = os.path.join(before, key()) if before else _folder()
    try:
        yield
    finally:
        config.CACHE_DIR = before


def forgive(kernel: Any) -> None:
    """Let no trouble with the kept files reach whoever calls the kernel.

    What cannot be read, such as a file that a crash of the machine left empty, is compiled again; what
    cannot be kept, for want of room, is compiled by the next process as well.
    """
    cache = kernel._cache
    load, save = cache.load_overload, cache.save_overload

    def load_if_whole(*arguments: Any) -> Any:
        try:
            return load(*arguments)
        except Exception:  # unpickling what was damaged may raise anything
            with suppress(OSError):
                cache.flush()
            return None

    def save_if_possible(*arguments: Any) -> None:
        with suppress(OSError):
            save(*arguments)

    cache.load_overload, cache.save_overload = load_if_whole, save_if_possible


@functools.cache
def _folder() -> str:
    """The folder, made and private; empty where it cannot be."""
    try:
        root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        if not root.is_absolute():
            return ""
        folder = root / "stream-ctr" / "kernels" / key()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.stat()
    except (OSError, RuntimeError):  # no home, no room, no permission
        return ""
    private = not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    own = not hasattr(os, "getuid") or found.st_uid == os.getuid()
    return str(folder) if own and private else ""


@functools.cache
def key() -> str:
    """Version, Python, and a digest of what else decides the machine code."""
    digest = hashlib.blake2b(digest_size=8)
    for text in (numba.__version__, platform.machine(), binding.get_host_cpu_name(), _features()):
        digest.update(text.encode() + b"\0")
    for path in sorted(PACKAGE.rglob("*.py")):
        source = path.read_bytes()
        if MARK in source:
            digest.update(str(path.relative_to(PACKAGE)).encode() + b"\0" + source + b"\0")
    python = f"py{sys.version_info.major}{sys.version_info.minor}"
    return f"{importlib.metadata.version('stream-ctr')}-{python}-{digest.hexdigest()}"


def _features() -> str:
    try:
        return str(binding.get_host_cpu_features().flatten())
    except RuntimeError:
        return ""
