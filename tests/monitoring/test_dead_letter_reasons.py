"""Classes of dead-letter reasons: every fault that the decoder reports has a class of its own."""

from __future__ import annotations

import json
from typing import Any

import pytest

from stream_ctr.events.log import Entry
from stream_ctr.monitoring.dead_letter_reasons import reason_class
from stream_ctr.pipeline.decoding.records import RecordDecoder

GOOD: dict[str, Any] = {"v": 1, "event_id": "a", "ts_ms": 1, "features": {"ad": "x"}}


def impression(**changes: Any) -> bytes:
    return json.dumps({**GOOD, **changes}).encode()


CASES: dict[str, tuple[bytes | None, str]] = {
    "no value": (None, "null"),
    "no JSON": (b"{", "not JSON"),
    "bytes that are not UTF-8": (b'{"v":1,"event_id":"\xff"}', "encoding"),
    "two keys": (impression()[:-1] + b',"v":1}', "duplicate key"),
    "deep nesting": (b'{"features":{"ad":' + b"[" * 100_000, "nesting"),
    "another version": (impression(v=9), "version"),
    "no event id": (impression(event_id=""), "event id"),
    "a negative time": (impression(ts_ms=-1), "time"),
    "an unknown key": (impression(surprise=1), "unknown field"),
    "a missing key": (b'{"v":1,"event_id":"a","ts_ms":1}', "missing key"),
    "a text as time": (impression(ts_ms="x"), "time"),
    "a list as event id": (impression(event_id=[1]), "wrong type"),
    "a probability of 2": (impression(p={"main": 2.0}), "probability"),
    "a truth of 2": (impression(truth=2.0), "probability"),
    "a propensity of 0": (impression(propensity=0.0), "probability"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_malformed_record_has_a_class(case: str) -> None:
    value, expected = CASES[case]
    _, reason = RecordDecoder("impressions").entry(Entry("impressions", 0, 0, 0, None, value))
    assert reason_class(reason) == expected, reason


def test_a_click_with_an_amount_out_of_range_has_a_class() -> None:
    value = b'{"v":1,"event_id":"a","ts_ms":1,"value":1e15}'
    _, reason = RecordDecoder("impressions").entry(Entry("clicks", 0, 0, 0, None, value))
    assert reason_class(reason) == "amount", reason
