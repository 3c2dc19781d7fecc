"""Files of compiled kernels: their folder, and how several processes share them.

The folder is private to the user. Its name holds the versions of this package and of the compiler, and the
processor, so machine code is never loaded by another compiler version or processor.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import logging
import os
import platform
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import llvmlite
import numba
import numpy as np
from llvmlite import binding

PACKAGE: Final = Path(__file__).parents[1]
_DIGEST_BYTES: Final = 16
_logger: Final = logging.getLogger("stream_ctr.kernels")


@functools.cache
def folder() -> Path | None:
    """The folder for compiled kernels, created private; None, with a warning, if it cannot be created.

    It is inside NUMBA_CACHE_DIR if that is set. Otherwise it is inside XDG_CACHE_HOME or ~/.cache or, if that
    is not possible, next to the package's bytecode.
    """
    problems = []
    for root in _roots():
        try:
            place = root / key()
            place.mkdir(mode=0o700, parents=True, exist_ok=True)
            found = place.stat()
        except OSError as problem:
            problems.append(f"{root}: {problem.strerror}")
            continue
        if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            problems.append(f"{place}: other users may write to it")
        elif hasattr(os, "getuid") and found.st_uid != os.getuid():
            problems.append(f"{place}: it belongs to another user")
        else:
            return place
    _warn_not_kept("; ".join(problems))
    return None


def read(name: str) -> bytes | None:
    """The content of a file; None if it is missing or damaged."""
    place = folder()
    if place is None:
        return None
    try:
        whole = (place / name).read_bytes()
    except OSError:
        return None
    digest, content = whole[:_DIGEST_BYTES], whole[_DIGEST_BYTES:]
    return content if digest == _digest(content) else None


def keep(name: str, content: bytes) -> bytes:
    """Write a file and read it back; returns the content that all later processes will read.

    If another process wrote the file first, that is its content. A damaged file is replaced. If the file
    cannot be written, ``content`` itself is returned, with a warning.
    """
    place = folder()
    if place is None:
        return content
    try:
        _publish(place / name, _digest(content) + content)
    except OSError as problem:
        _warn_not_kept(f"{place}: {problem.strerror}")
    return read(name) or content


def remove(beginning: str) -> None:
    """Delete all files whose names start with ``beginning``."""
    place = folder()
    if place is None:
        return
    for path in place.iterdir():
        if path.name.startswith(beginning):
            with suppress(OSError):
                path.unlink()


def _publish(path: Path, whole: bytes) -> None:
    """Name a file only when it is complete, and only if no undamaged file has that name."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".new-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(whole)
        try:
            os.link(temporary, path)  # fails if another process was first
        except OSError:  # also on a file system without hard links
            if read(path.name) is None:
                os.replace(temporary, path)
    finally:
        with suppress(OSError):
            os.unlink(temporary)


def _digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=_DIGEST_BYTES).digest()


def _roots() -> Iterator[Path]:
    """Candidate parents of the folder for compiled kernels, best first."""
    config: Any = numba.config
    if config.CACHE_DIR:
        yield Path(config.CACHE_DIR).absolute()
        return
    with suppress(RuntimeError):  # no home folder
        root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        if root.is_absolute():
            yield root / "stream-ctr" / "kernels"
    yield PACKAGE / "__pycache__" / "kernels"


@functools.cache
def key() -> str:
    """Versions, and a digest of everything else that determines the machine code of a source."""
    config: Any = numba.config
    digest = hashlib.blake2b(digest_size=8)
    for part in (
        *(numba.__version__, llvmlite.__version__, np.__version__, platform.machine()),
        *(
            config.CPU_NAME or binding.get_host_cpu_name(),
            config.CPU_FEATURES,
            _features(),
            config.ENABLE_AVX,
        ),
        *(config.OPT, config.LOOP_VECTORIZE, config.SLP_VECTORIZE, config.USING_SVML),
        *(config.BOUNDSCHECK, config.DEBUGINFO_DEFAULT),
    ):
        digest.update(str(part).encode() + b"\0")
    python = f"py{sys.version_info.major}{sys.version_info.minor}"
    return f"{importlib.metadata.version('stream-ctr')}-{python}-{digest.hexdigest()}"


def _features() -> str:
    try:
        return str(binding.get_host_cpu_features().flatten())
    except RuntimeError:
        return ""


@functools.cache
def _warn_not_kept(problem: str) -> None:
    _logger.warning(
        "compiled kernels cannot be cached (%s): every start compiles them again, which takes a minute; free "
        "disk space, or set XDG_CACHE_HOME to a folder that this user can write to",
        problem,
    )
