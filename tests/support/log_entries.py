"""Records, entries and orders for the tests of the pipeline."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from stream_ctr.events.log import Entry, TopicPartition
from stream_ctr.events.records import RECORD_VERSION, Click, FeatureValue, Impression
from stream_ctr.pipeline.ordering.entry import OrderState
from stream_ctr.pipeline.ordering.journal import Journal
from stream_ctr.pipeline.ordering.order import Order

IMPRESSIONS, CLICKS = "impressions", "clicks"
TOPICS = (IMPRESSIONS, CLICKS)


def impression_value(event_id: str, ts_ms: int, features: Mapping[str, FeatureValue] | None = None) -> bytes:
    record = Impression(
        v=RECORD_VERSION,
        event_id=event_id,
        ts_ms=ts_ms,
        features=dict(features or {}),
        p={"main": 0.25, "other": 0.75},
        truth=0.125,
    )
    return msgspec.json.encode(record)


def click_value(event_id: str, ts_ms: int) -> bytes:
    return msgspec.json.encode(Click(v=RECORD_VERSION, event_id=event_id, ts_ms=ts_ms))


def partitions(count: int) -> list[TopicPartition]:
    return [TopicPartition(topic, number) for topic in TOPICS for number in range(count)]


def log_of(values: Mapping[TopicPartition, Sequence[bytes | None]]) -> dict[TopicPartition, list[Entry]]:
    """One entry per value, with offsets from 0 and without timestamps."""
    return {
        tp: [Entry(tp.topic, tp.partition, offset, -1, None, value) for offset, value in enumerate(items)]
        for tp, items in values.items()
    }


def fresh_state(count: int) -> OrderState:
    names = partitions(count)
    return OrderState(0, 0, 0, dict.fromkeys(names, 0), dict.fromkeys(names, 0))


def fresh_order(count: int, journal: Journal | None = None) -> Order:
    return Order(TOPICS, fresh_state(count), journal or Journal())


def all_entries(log: Mapping[TopicPartition, Iterable[Entry]]) -> list[Entry]:
    return [entry for entries in log.values() for entry in entries]
