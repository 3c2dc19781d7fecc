"""The layers of the package: config is lowest, nothing imports the command line, and there is no import
cycle."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "stream_ctr"


def package_of(module: str) -> str:
    """The first-level package or module of ``stream_ctr`` that a module belongs to.

    >>> [package_of(name) for name in ("stream_ctr.learners.torch.step", "stream_ctr.errors", "stream_ctr")]
    ['learners', 'errors', '']
    """
    return module.partition(".")[2].partition(".")[0]


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """Modules of ``stream_ctr`` that a file imports, with the line: at the top, in functions, for types
    alone."""
    for node in ast.walk(ast.parse(path.read_bytes(), str(path))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            names = [f"{node.module}.{name.name}" for name in node.names]  # the name may be a module itself
        elif isinstance(node, ast.Import):
            names = [name.name for name in node.names]
        else:
            continue
        for name in names:
            if name.split(".")[0] == "stream_ctr":
                yield name, node.lineno


def edges(package: Path = PACKAGE) -> dict[tuple[str, str], list[str]]:
    """Which package imports which other one, and at which lines."""
    found: dict[tuple[str, str], list[str]] = {}
    for path in sorted(package.rglob("*.py")):
        relative = path.relative_to(package.parent)
        here = package_of(".".join(relative.with_suffix("").parts).removesuffix(".__init__"))
        for module, line in imports(path):
            there = package_of(module)
            if there != here:
                found.setdefault((here, there), []).append(f"{relative}:{line} imports {module}")
    return found


def cycle(pairs: dict[tuple[str, str], list[str]]) -> list[str]:
    """One cycle of packages, the first repeated at its end; empty if there is none."""
    graph: dict[str, set[str]] = {}
    for here, there in pairs:
        graph.setdefault(here, set()).add(there)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        found: list[str] = error.args[1]
        return found[::-1]
    return []


def test_no_packages_import_each_other_in_a_cycle() -> None:
    pairs = edges()
    assert len(pairs) > 50, "the imports were not found"
    found = cycle(pairs)
    where = [line for pair in pairwise(found) for line in pairs[pair][:3]]
    assert not found, " -> ".join(found) + "\n" + "\n".join(where)


def test_config_imports_errors_only() -> None:
    upward = [at for (here, there), at in edges().items() if here == "config" and there != "errors"]
    lines = [line for at in upward for line in at]
    assert not lines, "\n".join(lines)


def test_nothing_imports_the_command_line() -> None:
    lines = [line for (_, there), at in edges().items() if there == "cli" for line in at]
    assert not lines, "\n".join(lines)


@pytest.mark.parametrize(
    "upward",
    [
        "from stream_ctr.b.two import name",
        "from stream_ctr import b",
        "import stream_ctr.b.two",
        "def late():\n    from stream_ctr.b.two import name",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from stream_ctr.b.two import name",
    ],
)
def test_a_cycle_is_seen_wherever_the_import_stands(tmp_path: Path, upward: str) -> None:
    package = tmp_path / "stream_ctr"
    for name, text in {"a/one.py": "x = 1", "b/two.py": "from stream_ctr.a.one import x as name"}.items():
        (package / name).parent.mkdir(parents=True)
        (package / name).write_text(text)
    assert cycle(edges(package)) == []
    (package / "a" / "one.py").write_text(upward)
    assert sorted(set(cycle(edges(package)))) == ["a", "b"]
