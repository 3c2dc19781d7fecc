"""Context of a measurement: machine, package versions, commit, and the memory of this process."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

PACKAGES = ("stream-ctr", "numpy", "numba", "torch", "river")

_PROCESS = Path("/proc/self")


def describe_machine() -> dict[str, str]:
    """Processor, cores, system, Python, packages and, in a git checkout, the commit, as text by name."""
    described = {
        "processor": _processor(),
        "cores": str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }
    for package in PACKAGES:
        try:
            described[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            described[package] = "not installed"
    described["commit"] = _commit()
    return described


def load_average() -> str:
    """Load average of the last minute; above the number of cores, measurements are noisy."""
    try:
        return f"{os.getloadavg()[0]:.1f}"
    except OSError:
        return "unknown"


def print_machine(console: Console) -> None:
    """Print machine and load as the line below a table."""
    described = {**describe_machine(), "load": load_average()}
    console.print("; ".join(f"{key} {value}" for key, value in described.items()), highlight=False)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or "unknown"
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown"


def _commit() -> str:
    folder = Path(__file__).parents[2]
    if not (folder / ".git").exists():
        return "no checkout"
    git = ["git", "-C", str(folder)]
    try:
        commit = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
        changed = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True)
    except OSError:
        return "unknown"
    if commit.returncode != 0:
        return "unknown"
    return commit.stdout.strip() + (" with changes" if changed.stdout.strip() else "")


def resident_bytes() -> int | None:
    """Current resident memory of the process; None if the system does not report it."""
    try:
        pages = int((_PROCESS / "statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")


def forget_peak() -> bool:
    """Reset the peak of :func:`peak_bytes`; False if the system does not support it."""
    try:
        (_PROCESS / "clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


def peak_bytes() -> int | None:
    """Peak resident memory since :func:`forget_peak`; None if the system does not report it."""
    try:
        lines = (_PROCESS / "status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    kilobytes = [line.split()[1] for line in lines if line.startswith("VmHWM")]
    return int(kilobytes[0]) * 1024 if kilobytes else None
