"""The sources on which a kernel's machine code depends."""

from __future__ import annotations

import ast
import re
import shutil
from pathlib import Path

import pytest

from stream_ctr.kernels.cache import PACKAGE
from stream_ctr.kernels.sources import Sources

KERNELS = "learners/compiled/chunk_kernel.py"


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def copy_of_the_package(folder: Path) -> Path:
    package = folder / PACKAGE.name
    shutil.copytree(PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
    return package


def closure_by_parser(package: Path, source: Path) -> set[Path]:
    """The oracle: the same closure from Python's own parser."""
    found, waiting = {source}, [source]
    while waiting:
        names = []
        for node in ast.walk(ast.parse(waiting.pop().read_text())):
            if isinstance(node, ast.Import):
                names += [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0
                assert node.module
                names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        for name in names:
            parts = name.split(".")
            for depth in range(1, len(parts) + 1) if parts[0] == package.name else ():
                stem = package.parent.joinpath(*parts[:depth])
                new = {path for path in (Path(f"{stem}.py"), stem / "__init__.py") if path.is_file()} - found
                found |= new
                waiting += new
    return found


def kernel_sources() -> list[Path]:
    """Sources that declare a cached kernel."""
    declares = re.compile(r"^\s*@(fast_)?kernel$", re.MULTILINE)
    return [path for path in sorted(PACKAGE.rglob("*.py")) if declares.search(path.read_text())]


def test_no_source_that_a_kernel_can_reach_is_left_out() -> None:
    sources = Sources(PACKAGE)
    declaring = kernel_sources()
    assert len(declaring) > 15
    for path in declaring:
        # more may be found, such as an import in a docstring; that costs only time
        assert closure_by_parser(PACKAGE, path) <= sources.closure(path), path


def test_no_source_that_a_kernel_can_reach_imports_by_other_means() -> None:
    sources = Sources(PACKAGE)
    own = set(PACKAGE.glob("kernel*.py"))
    for path in set().union(*(sources.closure(source) for source in kernel_sources())) - own:
        for line in path.read_text().splitlines():
            if re.search(r"\b(__import__|import_module|exec)\(", line):
                assert "stream_ctr" not in line, f"{path}: {line}"


CONSTANTS = (
    ("features/rows/kernels.py", "batch.py", "ABSENT: Final = -1", "ABSENT: Final = -2"),
    (KERNELS, "optim/moments.py", "WEYL: Final = ", "WEYL: Final = 2 + "),
    (KERNELS, "optim/moments.py", "SECOND_TURN: Final = 2", "SECOND_TURN: Final = 3"),
)
"""Of each: a source with kernels, a source it takes a constant from, and an edit of the constant."""


@pytest.mark.parametrize(("kernels", "constants", "before", "after"), CONSTANTS)
def test_an_edited_constant_gives_another_digest(
    tmp_path: Path, kernels: str, constants: str, before: str, after: str
) -> None:
    package = copy_of_the_package(tmp_path)
    first = Sources(package).digest(package / kernels)
    text = (package / constants).read_text()
    assert text.count(before) == 1
    (package / constants).write_text(text.replace(before, after))
    assert Sources(package).digest(package / kernels) != first


def test_a_source_counts_whatever_its_text_contains() -> None:
    assert any("kernel" not in (PACKAGE / constants).read_text() for _, constants, _, _ in CONSTANTS)


def test_nothing_else_changes_the_digest(tmp_path: Path) -> None:
    package = copy_of_the_package(tmp_path)
    first = Sources(package).digest(package / KERNELS)
    assert first == Sources(PACKAGE).digest(PACKAGE / KERNELS)  # wherever the package is installed
    with (package / "serving" / "server.py").open("a") as file:
        file.write("\n# a kernel\n")
    assert Sources(package).digest(package / KERNELS) == first


IMPORTS = (
    "from package.deep.constants import SIZE",
    "from package.deep import constants",
    "from package.deep import other, constants as named",
    "from package.deep import (\n    other,\n    constants,\n)",
    "import package.deep.constants",
    "import os, package.deep.constants as named",
    "def function():\n    from package.deep import constants",
    "if True:\n\timport package.deep.constants",
    "from package.between import SIZE",
    "from package import between",
)


@pytest.mark.parametrize("statement", IMPORTS)
def test_every_form_of_import_counts(tmp_path: Path, statement: str) -> None:
    package = write(
        tmp_path / "package",
        {
            "__init__.py": "",
            "deep/__init__.py": "",
            "deep/constants.py": "SIZE = 3\n",
            "deep/other.py": "",
            "between.py": "from package.deep.constants import SIZE\n",
            "apart.py": "SIZE = 3\n",
            "source.py": f"{statement}\n",
        },
    )
    source = package / "source.py"
    first = Sources(package).digest(source)
    write(package, {"apart.py": "SIZE = 4\n"})
    assert Sources(package).digest(source) == first
    write(package, {"deep/constants.py": "SIZE = 4\n"})
    assert Sources(package).digest(source) != first


def test_the_init_module_of_a_package_counts(tmp_path: Path) -> None:
    package = write(
        tmp_path / "package",
        {
            "__init__.py": "",
            "deep/__init__.py": "",
            "deep/a.py": "from package.deep.b import x",
            "deep/b.py": "",
        },
    )
    first = Sources(package).digest(package / "deep" / "a.py")
    write(package, {"deep/__init__.py": "import package.late"})
    second = Sources(package).digest(package / "deep" / "a.py")
    write(package, {"late.py": "SIZE = 4"})
    third = Sources(package).digest(package / "deep" / "a.py")
    assert len({first, second, third}) == 3


def test_circular_imports_terminate(tmp_path: Path) -> None:
    package = write(tmp_path / "package", {"a.py": "import package.b", "b.py": "import package.a"})
    assert {path.name for path in Sources(package).closure(package / "a.py")} == {"a.py", "b.py"}
