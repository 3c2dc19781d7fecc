"""The keys of a request equal those of its merged events, whatever context and candidates share."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_ctr.errors import RecordError
from stream_ctr.features.keys.encoder import KeyEncoder
from stream_ctr.state.state import State
from tests.features.keys.test_encoder import EVENTS, FIELDS, Event


def learned_encoder() -> KeyEncoder:
    """An encoder whose price buckets depend on the values observed before."""
    encoder = KeyEncoder(FIELDS)
    encoder.keys_many([{"price": float(number % 17)} for number in range(200)])
    return encoder


@settings(deadline=None)
@given(EVENTS, st.lists(EVENTS, max_size=6))
def test_the_keys_of_a_request_are_those_of_its_merged_events(
    context: Event, candidates: list[Event]
) -> None:
    encoder = learned_encoder()
    before = encoder.state()
    merged = encoder.peek_keys_many([{**context, **own} for own in candidates])
    assert encoder.peek_request_keys(context, candidates).tolist() == merged.tolist()
    assert State.equals(encoder.state(), before)


def test_a_candidate_removes_a_value_of_its_context() -> None:
    encoder = learned_encoder()
    keys = encoder.peek_request_keys({"site": "news", "city": "Oslo"}, [{"site": None}, {}, {"site": "a"}])
    alone = [{"city": "Oslo"}, {"site": "news", "city": "Oslo"}, {"site": "a", "city": "Oslo"}]
    assert keys.tolist() == [encoder.peek_keys(event).tolist() for event in alone]


@pytest.mark.parametrize(
    ("context", "candidates"),
    [
        ({"sight": "x"}, [{}]),
        ({}, [{"site": "x"}, {"sight": "x"}]),
        ({"visits": "many"}, [{"site": "x"}]),
        ({"visits": "many"}, [{"site": "x"}, {"visits": 3}]),
        ({"site": "x"}, [{"visits": 1.5}]),
        ({"site": "\ud800"}, [{}]),
        ({}, [{"city": "\ud800"}, {"city": "x"}]),
    ],
)
def test_a_request_outside_the_schema_is_rejected_like_its_merged_event(
    context: Event, candidates: list[Event]
) -> None:
    encoder = KeyEncoder(FIELDS)
    with pytest.raises(RecordError) as merged:
        encoder.peek_keys_many([{**context, **own} for own in candidates])
    with pytest.raises(RecordError) as parted:
        encoder.peek_request_keys(context, candidates)
    assert str(parted.value) == str(merged.value)


def test_a_bad_context_value_that_no_candidate_keeps_does_no_harm() -> None:
    encoder = KeyEncoder(FIELDS)
    keys = encoder.peek_request_keys({"visits": "many"}, [{"visits": 3}, {"visits": None}])
    assert keys.tolist() == encoder.peek_keys_many([{"visits": 3}, {}]).tolist()
    assert encoder.peek_request_keys({"sight": "never looked at"}, []).shape == (0, encoder.slots)
