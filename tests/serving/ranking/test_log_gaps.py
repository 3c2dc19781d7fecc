"""Log gaps are recorded once each, with their losses."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from stream_ctr.experiments.shared_files import read_gaps
from stream_ctr.serving.metrics import ServeMetrics
from stream_ctr.serving.ranking.impression_log import ImpressionLog
from stream_ctr.serving.ranking.log_gaps import QUIET_SECONDS, LogGaps
from tests.serving.ranking.test_impression_log import eventually, metric, outage, record


class Clock:
    """Unix time that a test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def gaps(tmp_path: Path, clock: Clock) -> LogGaps:
    return LogGaps(tmp_path, ServeMetrics().routing, clock)


def spans(folder: Path) -> list[tuple[int, int | None, int, str]]:
    return [(gap.start_ms, gap.end_ms, gap.dropped, gap.reason) for gap in read_gaps(folder)]


def test_a_gap_opens_at_the_first_failure_and_closes_when_it_is_over(
    tmp_path: Path, gaps: LogGaps, clock: Clock
) -> None:
    gaps.recovered()
    gaps.settle()
    assert spans(tmp_path) == []
    gaps.failed("away")
    assert spans(tmp_path) == [(1_000_000, None, 0, "away")]
    clock.now = 1005.0
    gaps.dropped(3)
    gaps.failed("still away")
    clock.now = 1010.0
    gaps.recovered()
    assert spans(tmp_path)[0][1] is None, "it may be back for a moment only"
    clock.now = 1010.0 + QUIET_SECONDS
    gaps.settle()
    assert spans(tmp_path) == [(1_000_000, 1_010_000, 3, "away")]
    gaps.close()
    assert len((tmp_path / "gaps.jsonl").read_bytes().splitlines()) == 2


def test_a_repeatedly_full_queue_is_one_gap(tmp_path: Path, gaps: LogGaps, clock: Clock) -> None:
    for _ in range(10):
        gaps.dropped(2)
        clock.now += 0.9 * QUIET_SECONDS
        gaps.recovered()
    clock.now += 5
    gaps.recovered()
    gaps.dropped(1)
    clock.now += 1
    gaps.close()
    first, second = spans(tmp_path)
    assert (first[2], second[2]) == (20, 1)
    assert first[3] == "the impression queue was full"
    assert second[1] == int(clock.now * 1000)


def test_writing_to_an_unwritable_folder_is_retried(tmp_path: Path, clock: Clock) -> None:
    folder = tmp_path / "experiment"
    folder.write_text("a file where a folder is needed")
    gaps = LogGaps(folder, ServeMetrics().routing, clock)
    gaps.dropped(4)
    gaps.recovered()
    clock.now += 2 * QUIET_SECONDS
    gaps.settle()
    gaps.dropped(1)
    folder.unlink()
    clock.now += 1
    gaps.recovered()
    clock.now += 2 * QUIET_SECONDS
    gaps.settle()
    assert [(gap.start_ms, gap.dropped) for gap in read_gaps(folder)] == [(1_000_000, 5)]


def test_an_outage_of_the_log_is_a_gap_with_its_losses(tmp_path: Path) -> None:
    log, opener, config = outage(tmp_path)
    metrics = ServeMetrics()
    folder = tmp_path / "experiment"
    impressions = ImpressionLog(config, 10, 2**30, opener, metrics, LogGaps(folder, metrics.routing))
    impressions.start()
    impressions.put(record(0))
    eventually(lambda: metric(metrics, "impressions_logged_total") == 1)
    before = int(time.time() * 1000)
    log.away.set()
    impressions.put(record(1))
    eventually(lambda: len(read_gaps(folder)) == 1)
    for number in range(2, 32):
        impressions.put(record(number))
    log.away.clear()
    eventually(lambda: metric(metrics, "impressions_logged_total") == 12)
    impressions.close()
    (gap,) = read_gaps(folder)
    assert before <= gap.start_ms <= (gap.end_ms or 0) <= time.time() * 1000
    assert (gap.dropped, gap.reason) == (20, "the log is away")
    assert metric(metrics, "log_gaps_total") == 1
