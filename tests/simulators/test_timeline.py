"""Impressions and clicks in the order in which they happen."""

from __future__ import annotations

import itertools

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulators.log_writer.timeline import parse_delay, shifted, timeline
from stream_ctr.datasets.base import Example
from stream_ctr.errors import UsageError
from stream_ctr.events.records import RECORD_VERSION, Click, Impression


def _example(number: int, time_ms: int, delay_ms: int | None = None, label: int = 1) -> Example:
    return Example(f"e{number}", time_ms, "u", {"a": "b"}, label, 0.5, delay_ms, 0.25)


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 60), st.booleans())))
def test_sorted_impressions_give_a_sorted_timeline_with_each_click_once(
    steps: list[tuple[int, int, bool]],
) -> None:
    examples, now_ms = [], 0
    for number, (step, delay, clicked) in enumerate(steps):
        now_ms += step
        examples.append(_example(number, now_ms, delay, int(clicked)))
    happenings = list(timeline(examples, lambda event_id: 1))
    keys = [(h.time_ms, h.example is not None) for h in happenings]
    assert keys == sorted(keys)
    assert [h.example for h in happenings if h.example is not None] == examples
    clicks = sorted((h.event_id, h.time_ms) for h in happenings if h.example is None)
    assert clicks == sorted(
        (e.event_id, e.time_ms + max(1, e.click_delay_ms or 0)) for e in examples if e.label
    )


def test_unsorted_impressions_keep_their_order() -> None:
    examples = [_example(0, 100, 10), _example(1, 50, 5), _example(2, 120)]
    happenings = [(h.event_id, h.time_ms, h.example is None) for h in timeline(examples, lambda event_id: 7)]
    assert happenings == [
        ("e0", 100, False),
        ("e1", 50, False),
        ("e1", 55, True),
        ("e0", 110, True),
        ("e2", 120, False),
        ("e2", 127, True),
    ]


def test_an_unbounded_stream_is_processed_incrementally() -> None:
    endless = (_example(number, number * 1000) for number in itertools.count())
    happenings = list(itertools.islice(timeline(endless, parse_delay("1.5")), 7))
    assert [(h.event_id, h.example is None) for h in happenings] == [
        ("e0", False),
        ("e1", False),
        ("e0", True),
        ("e2", False),
        ("e1", True),
        ("e3", False),
        ("e2", True),
    ]


def test_records_are_what_the_contract_says() -> None:
    impression, click = timeline([_example(3, 10, 5)], lambda event_id: 1)
    assert msgspec.json.decode(impression.value(), type=Impression) == Impression(
        v=RECORD_VERSION, event_id="e3", ts_ms=10, features={"a": "b"}, user="u", bid=0.5, truth=0.25
    )
    assert msgspec.json.decode(click.value(), type=Click) == Click(v=RECORD_VERSION, event_id="e3", ts_ms=15)


def test_shifting_moves_all_times_equally() -> None:
    moved = list(shifted([_example(0, 100), _example(1, 250), _example(2, 90)], 1000))
    assert [example.time_ms for example in moved] == [1000, 1150, 990]


def test_delays() -> None:
    assert parse_delay("2.5")("any") == 2500
    assert parse_delay("0.0001")("any") == 1
    drawn = parse_delay("exponential:4")
    delays = [drawn(f"e{number}") for number in range(4000)]
    assert sum(delays) / len(delays) == pytest.approx(4000, rel=0.06)
    assert len(set(delays)) > 3000
    assert delays == [parse_delay("exponential:4")(f"e{number}") for number in range(4000)]


@pytest.mark.parametrize("text", ["", "soon", "0", "-1", "nan", "inf", "normal:3", "exponential:", ":3"])
def test_invalid_delays_are_rejected(text: str) -> None:
    with pytest.raises(UsageError, match="--click-delay"):
        parse_delay(text)
