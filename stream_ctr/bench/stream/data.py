"""A log full of impressions and clicks, for the daemon's bench."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from stream_ctr.bench.step.data import FIELDS, zipf_examples
from stream_ctr.config.features import FieldConfig
from stream_ctr.config.log import LogConfig
from stream_ctr.datasets.base import Example, open_dataset
from stream_ctr.events.log import EventLog, Record
from stream_ctr.events.records import RECORD_VERSION, Click, Impression

PARTITIONS: Final = 3
BATCH: Final = 1000
"""Records per append."""
CLICK_MS: Final = 1000
"""Delay from an impression to its click."""


def stream_examples(path: str | None, events: int) -> tuple[tuple[FieldConfig, ...], list[Example], str]:
    """Fields, examples and their source: rows of the Criteo file, or Zipf rows.

    Raises:
        DataError: the file cannot be read or is not a Criteo file.
    """
    if path is None:
        fields = tuple(FieldConfig(f"field_{j}") for j in range(FIELDS))
        return fields, list(zipf_examples(events)), "Zipf rows"
    dataset = open_dataset("criteo", path)
    return dataset.fields, list(dataset.read(path, events)), f"Criteo rows of {path}"


def fill_log(log: EventLog, examples: Sequence[Example]) -> LogConfig:
    """Append the examples as impressions and clicks to new topics.

    Raises:
        LogError: an append failed.
    """
    unique = uuid.uuid4().hex[:12]
    names = [f"bench-{unique}-{name}" for name in ("impressions", "clicks", "dead-letters")]
    for name in names:
        log.create_topic(name, PARTITIONS)
    append_all(log, names[0], (_impression(example) for example in examples))
    clicks = sorted((e.time_ms + CLICK_MS, e.event_id) for e in examples if e.label)
    append_all(log, names[1], (_click(ts_ms, event_id) for ts_ms, event_id in clicks))
    shown, clicked, rejected = names
    return LogConfig(log.url, impressions=shown, clicks=clicked, dead_letters=rejected, partitions=PARTITIONS)


def append_all(log: EventLog, topic: str, records: Iterable[Record]) -> None:
    """Append records in batches of BATCH."""
    waiting: list[Record] = []
    for record in records:
        waiting.append(record)
        if len(waiting) == BATCH:
            log.append(topic, waiting)
            waiting = []
    if waiting:
        log.append(topic, waiting)


def _impression(example: Example) -> Record:
    record = Impression(
        v=RECORD_VERSION, event_id=example.event_id, ts_ms=example.time_ms, features=example.features
    )
    return Record(example.event_id.encode(), msgspec.json.encode(record), example.time_ms)


def _click(ts_ms: int, event_id: str) -> Record:
    record = Click(v=RECORD_VERSION, event_id=event_id, ts_ms=ts_ms)
    return Record(event_id.encode(), msgspec.json.encode(record), ts_ms)
