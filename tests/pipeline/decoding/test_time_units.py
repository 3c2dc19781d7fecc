"""Times in another unit than milliseconds: what is refused, what is a warning, and what is accepted."""

from __future__ import annotations

import pytest

from stream_ctr.config.features import FieldConfig
from stream_ctr.events.log import Entry
from stream_ctr.features.scan.scanner import RecordScanner
from stream_ctr.pipeline.decoding.batches import BatchDecoder
from stream_ctr.pipeline.decoding.labelled import LabelledDecoder
from stream_ctr.pipeline.decoding.records import RecordDecoder

NOW_MS = 1_764_000_000_000
YEAR_MS = 365 * 86_400_000


def entry(topic: str, ts_ms: int, timestamp_ms: int) -> Entry:
    impression = f'{{"v":1,"event_id":"a","ts_ms":{ts_ms},"features":{{"ad":"x"}}}}'
    values = {
        "impressions": impression,
        "clicks": f'{{"v":1,"event_id":"a","ts_ms":{ts_ms}}}',
        "labelled": f'{{"v":1,"ts_ms":{ts_ms},"label":1,"impression":{impression.replace(str(ts_ms), "5")}}}',
    }
    return Entry(topic, 0, 0, timestamp_ms, b"a", values[topic].encode())


def reason_of(item: Entry) -> str:
    """Why the entry is refused, by every decoder that reads its topic; empty where it is not."""
    if item.topic == "labelled":
        return LabelledDecoder().entry(item)[1]
    fast = BatchDecoder(RecordDecoder(), RecordScanner((FieldConfig("ad"),)))
    ((_, reason, _),) = fast.decode([item])
    assert reason == RecordDecoder().entry(item)[1]
    return reason


@pytest.mark.parametrize("topic", ["impressions", "clicks", "labelled"])
@pytest.mark.parametrize(
    ("ts_ms", "timestamp_ms", "reason"),
    [
        (NOW_MS, NOW_MS, ""),
        (NOW_MS // 1000, NOW_MS, "ts_ms = 1764000000 looks like seconds; write milliseconds"),
        (NOW_MS // 1000, NOW_MS + YEAR_MS, "ts_ms = 1764000000 looks like seconds; write milliseconds"),
        # Older events written today, and a log without timestamps, or with those of the records: not certain.
        (NOW_MS // 1000, NOW_MS + 3 * YEAR_MS, ""),
        (NOW_MS // 1000, NOW_MS // 1000, ""),
        (NOW_MS // 1000, -1, ""),
        # Times that count from 0, as those of a dataset without any.
        (0, NOW_MS, ""),
        (7 * 86_400_000, NOW_MS, ""),
        (999_999_999, NOW_MS, ""),
        (
            NOW_MS * 1000,
            NOW_MS,
            "ts_ms must be between 0 and 253402300799999, got 1764000000000000; it looks like "
            "microseconds, write milliseconds",
        ),
        (
            NOW_MS * 1_000_000,
            NOW_MS,
            "ts_ms must be between 0 and 253402300799999, got 1764000000000000000; it looks like "
            "nanoseconds, write milliseconds",
        ),
        (10**17, NOW_MS, "ts_ms must be between 0 and 253402300799999, got 100000000000000000"),
    ],
)
def test_a_time_in_another_unit_is_named(topic: str, ts_ms: int, timestamp_ms: int, reason: str) -> None:
    assert reason_of(entry(topic, ts_ms, timestamp_ms)) == reason
