"""Startup time and memory of the server: for a compiled backbone and for a backbone that needs torch.

A start is timed from the command to the first 200 of every worker's /health/ready, including the start of
Python. Sizes come from the kernel. RSS counts the mapped pages of the snapshot and the libraries in every
process; private memory is the cost of one more process.
"""

from __future__ import annotations

import json
import os
import re
import signal
import statistics
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from stream_ctr.bench.machine import describe_machine, load_average, print_machine
from stream_ctr.bench.serve.measure import ARM, SERVE, START_SECONDS, environment, publish
from stream_ctr.config.model import ModelConfig
from stream_ctr.errors import StreamCTRError

MODELS: Final = {
    "dnn + SML, compiled": ModelConfig(),
    "deepfm + SML, torch": ModelConfig(backbone="deepfm"),
}
LEARNED: Final = 50
"""Events to train the models on; few, because torch is slow and the libraries dominate the size."""
MIB: Final = 2**20

Note = Callable[[str], object]


@dataclass
class Started:
    """Starts of one model with one number of workers; one list entry per start or process."""

    model: str
    workers: int
    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)
    """CPU time of each serving process until ready, which is independent of other load on the machine."""
    rss: list[int] = field(default_factory=list)
    """RSS of each serving process, in bytes."""
    private: list[int] = field(default_factory=list)
    """Private memory of each serving process, in bytes."""
    parent: list[int] = field(default_factory=list)
    """RSS of the parent process with several workers, in bytes."""
    torch: bool = False
    """Whether a serving process has loaded torch's library."""


def measure(workers: int, rounds: int, note: Note = lambda text: None) -> list[Started]:
    """Start each model's server with one process and with ``workers`` processes, in turns.

    Raises:
        StreamCTRError: a server ended early, or was not ready in time.
    """
    with tempfile.TemporaryDirectory(prefix="stream-ctr-bench-") as folder:
        states = {name: Path(folder) / str(number) for number, name in enumerate(MODELS)}
        for name, state in states.items():
            note(f"learning {LEARNED} events: {name}")
            publish(state / ARM / "snapshots", LEARNED, MODELS[name])
        found = [Started(name, count) for name in MODELS for count in sorted({1, workers})]
        for number in range(rounds):
            for each in found:
                note(f"round {number + 1} of {rounds}: {each.model}, {each.workers} workers")
                _start(each, states[each.model])
    return found


def _start(each: Started, state: Path) -> None:
    """Start the server once and record its measurements."""
    began = time.perf_counter()
    variables = environment(state, SERVE__WORKERS=str(each.workers))
    process = subprocess.Popen(
        SERVE, env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(1 + each.workers)]
        if not all(" at http" in line for line in lines):
            _, errors = process.communicate(timeout=START_SECONDS)
            raise StreamCTRError(f"the server under test did not start: {errors.strip()[-300:]}")
        for line in lines[1:]:
            _wait_until_ready(line.split()[-1])
        each.seconds.append(time.perf_counter() - began)
        answering = _children(process.pid) if each.workers > 1 else [process.pid]
        for number in answering:
            memory = sizes(number)
            each.rss.append(memory["Rss"])
            each.private.append(memory["Private_Clean"] + memory["Private_Dirty"])
            each.cpu_seconds.append(cpu_seconds(number))
        if each.workers > 1:
            each.parent.append(sizes(process.pid)["Rss"])
        each.torch = any("libtorch" in Path(f"/proc/{number}/maps").read_text() for number in answering)
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=START_SECONDS)


def _wait_until_ready(url: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"{url}/health/ready", timeout=START_SECONDS):
                return
        except urllib.error.URLError:
            time.sleep(0.01)
    raise StreamCTRError(f"the server under test was not ready within {START_SECONDS:g} seconds")


def _children(parent: int) -> list[int]:
    text = Path(f"/proc/{parent}/task/{parent}/children").read_text()
    return [int(number) for number in text.split()]


def sizes(process: int) -> dict[str, int]:
    """Memory of a process in bytes, by the names of /proc/PID/smaps_rollup (Linux).

    >>> sizes(os.getpid())["Rss"] >= sizes(os.getpid())["Private_Dirty"] > 0
    True
    """
    text = Path(f"/proc/{process}/smaps_rollup").read_text()
    return {name: int(kib) * 1024 for name, kib in re.findall(r"^(\w+): +(\d+) kB", text, re.M)}


def cpu_seconds(process: int) -> float:
    """User and system CPU time of a process, in seconds (Linux)."""
    values = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(values[11]) + int(values[12])) / os.sysconf("SC_CLK_TCK")


def as_json(found: list[Started]) -> list[dict[str, Any]]:
    """One row per model and number of workers; values are medians."""
    machine = {**describe_machine(), "load": load_average()}
    return [
        {
            "name": f"start: {each.model}, {each.workers} workers",
            "model": each.model,
            "workers": each.workers,
            "ready_seconds": round(statistics.median(each.seconds), 3),
            "ready_seconds_low": round(min(each.seconds), 3),
            "ready_seconds_high": round(max(each.seconds), 3),
            "cpu_seconds": round(statistics.median(each.cpu_seconds), 2),
            "rss_bytes": int(statistics.median(each.rss)),
            "private_bytes": int(statistics.median(each.private)),
            "parent_rss_bytes": int(statistics.median(each.parent)) if each.parent else None,
            "torch_loaded": each.torch,
            "rounds": len(each.seconds),
            "machine": machine,
        }
        for each in found
    ]


def print_table(found: list[Started]) -> None:
    """Print the results as a table, with the machine and its load below."""
    from rich.table import Table

    from stream_ctr.reporting.console import new_console

    table = Table(title=f"Startup of stream-ctr serve: medians of {len(found[0].seconds)} rounds")
    table.add_column("model")
    for column in (
        "workers",
        "ready after s",
        "min to max",
        "worker CPU s",
        "RSS MiB",
        "private MiB",
        "parent MiB",
    ):
        table.add_column(column, justify="right")
    table.add_column("torch")
    for row in as_json(found):
        parent = row["parent_rss_bytes"]
        table.add_row(
            row["model"],
            str(row["workers"]),
            f"{row['ready_seconds']:.2f}",
            f"{row['ready_seconds_low']:.2f} to {row['ready_seconds_high']:.2f}",
            f"{row['cpu_seconds']:.2f}",
            f"{row['rss_bytes'] / MIB:.0f}",
            f"{row['private_bytes'] / MIB:.0f}",
            "" if parent is None else f"{parent / MIB:.0f}",
            "loaded" if row["torch_loaded"] else "not loaded",
        )
    console = new_console(140)
    console.print(table)
    print_machine(console)


def run(workers: int, rounds: int, machine_readable: bool) -> None:
    """Measure the starts and print the report."""
    from rich.console import Console

    with Console(stderr=True).status("starting") as status:
        found = measure(workers, rounds, status.update)
    if machine_readable:
        print(json.dumps(as_json(found), indent=2))
    else:
        print_table(found)
