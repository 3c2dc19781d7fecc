"""The joiner alone: impressions per second, and bytes per open impression in memory and on disk."""

from __future__ import annotations

import tempfile
import time
import tracemalloc
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from stream_ctr.config.join import JoinConfig
from stream_ctr.pipeline.joining.joiner import Joiner
from stream_ctr.pipeline.joining.segments import SegmentFolder

PAYLOAD_BYTES: Final = 39 * 8 + 8
"""Keys of 39 slots, the served probability and the true click probability."""
OPEN: Final = 50_000
"""Number of open impressions."""
CLICK_EVERY: Final = 5
SPILLED_PART: Final = 10
"""With spilling, the memory budget is one tenth of the size of all records."""


@dataclass(frozen=True)
class JoinRun:
    """Measurements of one storage of the records."""

    memory: str
    budget_bytes: int | None
    impressions_per_second: float
    """Throughput with a click on every fifth impression."""
    open_impressions: int
    python_bytes_per_open: float
    """Python memory per open impression, measured by tracemalloc."""
    counted_bytes_per_open: float
    """Memory per open impression as counted against the budget."""
    segment_bytes_per_open: float


def measure_joiner(impressions: int) -> list[JoinRun]:
    """Measure with all records in memory, then with nine tenths of them on disk in a temporary folder."""
    resident = _run("memory", impressions, None)
    budget = int(resident.counted_bytes_per_open * resident.open_impressions / SPILLED_PART)
    return [resident, _run("segments", impressions, budget)]


def _run(name: str, impressions: int, budget: int | None) -> JoinRun:
    with tempfile.TemporaryDirectory() as folder:
        traced = _joiner(budget, Path(folder) / "traced")
        tracemalloc.start()
        _feed(traced, OPEN)
        python_bytes, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        opened = traced.open_impressions
        on_disk = sum(segment.bytes for segment in traced.segments())
        joiner = _joiner(budget, Path(folder) / "timed")
        start = time.perf_counter()
        _feed(joiner, impressions)
        seconds = time.perf_counter() - start
        return JoinRun(
            memory=name,
            budget_bytes=budget,
            impressions_per_second=impressions / seconds,
            open_impressions=opened,
            python_bytes_per_open=python_bytes / opened,
            counted_bytes_per_open=traced.memory_bytes / opened,
            segment_bytes_per_open=on_disk / opened,
        )


def _joiner(budget: int | None, folder: Path) -> Joiner:
    config = JoinConfig(window_seconds=OPEN / 1000.0, horizon_seconds=2 * OPEN / 1000.0)
    if budget is None:
        return Joiner(config)
    return Joiner(replace(config, memory_bytes=budget), SegmentFolder(folder))


def _feed(joiner: Joiner, impressions: int) -> None:
    """Feed one impression per millisecond; every fifth is clicked after half of the window."""
    payload = bytes(PAYLOAD_BYTES)
    for number in range(impressions):
        joiner.advance(number)
        event_id = f"event-{number:012d}"
        if joiner.admits(event_id, number):
            # Each record has its own bytes object, as in a stream.
            joiner.hold(event_id, number, bytes(bytearray(payload)))
        clicked = number - OPEN // 2
        if clicked >= 0 and clicked % CLICK_EVERY == 0:
            joiner.click(f"event-{clicked:012d}", number)
