"""Digests of the sources that determine a kernel's machine code.

Numba compiles the functions that a kernel calls, and the constants that it uses, into the kernel. It reaches
them through imports, so the machine code depends on the kernel's own source and on every source that this one
imports, directly or indirectly. Other sources are left out, because a change in them should not cost a
minute of compilation.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_IMPORT: Final = re.compile(
    rb"^[ \t]*(?:from[ \t]+([\w.]+)[ \t]+import[ \t]+(\([^)]*\)|[^\n]*)|import[ \t]+([^\n]+))", re.MULTILINE
)
"""An import statement at the start of a line. Parsing the sources would take a hundred times as long."""


class Sources:
    """Digests of a package's sources together with the sources that they import. Reads each file once.

    >>> sources = Sources(Path(__file__).parents[1])
    >>> found = sources.closure(sources.package / "kernels" / "decorators.py")
    >>> sorted(path.name for path in found)
    ['__init__.py', '__init__.py', 'cache.py', 'compiler.py', 'decorators.py', 'sources.py']
    """

    def __init__(self, package: Path) -> None:
        """``package`` is the folder of a top-level package."""
        self.package = package
        self._read: dict[Path, tuple[bytes, set[Path]]] = {}
        self._found: dict[str, set[Path]] = {}

    def digest(self, source: Path) -> bytes:
        """16 bytes that change with the source and with every source of the package that it can reach.

        Raises OSError if a file cannot be read.
        """
        total = hashlib.blake2b(digest_size=16)
        for path in sorted(self.closure(source)):
            name = path.relative_to(self.package) if path.is_relative_to(self.package) else path.name
            total.update(f"{name}\0".encode() + self._of(path)[0])
        return total.digest()

    def closure(self, source: Path) -> set[Path]:
        """The source, and all sources of the package that it imports, directly or indirectly."""
        found, waiting = {source}, [source]
        while waiting:
            new = self._of(waiting.pop())[1] - found
            found |= new
            waiting += new
        return found

    def _of(self, path: Path) -> tuple[bytes, set[Path]]:
        """The digest of a file's content, and the sources of the package that its imports name."""
        known = self._read.get(path)
        if known is None:
            content = path.read_bytes()
            named = {file for module in _imported(content) for file in self._files(module)}
            known = self._read[path] = hashlib.blake2b(content, digest_size=16).digest(), named
        return known

    def _files(self, module: str) -> set[Path]:
        """The source files of a dotted name, if it is a module of the package, and of its parent packages."""
        if module not in self._found:
            outer, _, name = module.rpartition(".")
            files = set(self._files(outer)) if outer else set()
            if outer or name == self.package.name:
                place = self.package.parent.joinpath(*module.split("."))
                files.update(
                    file for file in (place.with_suffix(".py"), place / "__init__.py") if file.is_file()
                )
            self._found[module] = files
        return self._found[module]


def _imported(content: bytes) -> Iterator[str]:
    """Dotted names that may be modules: all imported modules, and all names imported from a module."""
    for origin, names, modules in _IMPORT.findall(content):
        if origin:
            yield origin.decode()
            yield from (f"{origin.decode()}.{name.decode()}" for name in re.findall(rb"\w+", names))
        else:
            yield from (name.decode() for name in re.findall(rb"[\w.]+", modules))
