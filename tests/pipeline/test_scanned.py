"""The compiled way from bytes to keys comes to what the careful way comes to, or leaves it to that one."""

from __future__ import annotations

import json
from collections.abc import Sequence

import msgspec
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from stream_ctr.errors import RecordError
from stream_ctr.events.log import Entry
from stream_ctr.events.records import FeatureValue, Impression
from stream_ctr.features.keys import KeyEncoder
from stream_ctr.features.scanner import RecordScanner
from stream_ctr.features.schema import FeaturesConfig, FieldConfig
from stream_ctr.pipeline.config import JoinConfig
from stream_ctr.pipeline.decode import RecordDecoder
from stream_ctr.pipeline.journal import Journal
from stream_ctr.pipeline.order import Order
from stream_ctr.pipeline.scanned import BatchDecoder, ScannedImpression
from stream_ctr.pipeline.stream import Pipeline
from tests.pipeline.building import CLICKS, IMPRESSIONS, TOPICS, fresh_state
from tests.pipeline.test_decode import MALFORMED

FIELDS = (
    FieldConfig("site"),
    FieldConfig("größe"),
    FieldConfig("tags", "multi", max_values=2),
    FieldConfig("visits", "integer"),
    FieldConfig("price", "float", buckets=4),
    FieldConfig("load", "float", boundaries=(-1.5, 0.0, 0.1, 2.0)),
    FieldConfig("bid"),
)
SCANNER = RecordScanner(FIELDS)
USUAL: dict[str, FeatureValue] = {
    "site": "news:12",
    "größe": "weiß",
    "tags": ["b", "a", "b", "c"],
    "visits": 7,
    "price": 2.5,
    "load": 0.1,
    "bid": None,
}


def entries_of(values: Sequence[bytes | None], timestamp_ms: int = -1) -> list[Entry]:
    return [Entry(IMPRESSIONS, 0, n, timestamp_ms, None, value) for n, value in enumerate(values)]


def compare(values: Sequence[bytes | None], timestamp_ms: int = -1) -> list[bool]:
    """Asserts that both ways agree on every value in turn; which of them were scanned."""
    careful = RecordDecoder(IMPRESSIONS, max_ahead_seconds=10.0)
    one, other = KeyEncoder(FIELDS), KeyEncoder(FIELDS)
    entries = entries_of(values, timestamp_ms)
    scanned = []
    for entry, (record, reason, row) in zip(
        entries, BatchDecoder(careful, SCANNER).decode(entries), strict=True
    ):
        expected, expected_reason = careful.entry(entry)
        assert reason == expected_reason
        scanned.append(row is not None)
        if row is None:
            assert record == expected
            if isinstance(expected, Impression):
                for encoder in (one, other):
                    try:
                        encoder.keys(expected.features)
                    except RecordError:
                        continue
            continue
        assert isinstance(record, ScannedImpression)
        assert isinstance(expected, Impression)
        for name in expected.__struct_fields__:
            assert name == "features" or getattr(record, name) == getattr(expected, name), name
        np.testing.assert_array_equal(one.complete(row), other.keys(expected.features))
    assert one.state().equals(other.state())
    return scanned


def document(features: object, **more: object) -> dict[str, object]:
    return {"v": 1, "event_id": "a", "ts_ms": 5, "features": features, **more}


def test_the_usual_forms_are_scanned() -> None:
    full = document(
        USUAL,
        user="u",
        bid=0.0,
        p={"main": 0.5, "other": 1},
        truth=None,
        propensity=0.25,
        bucket=3,
        reason="bid:x",
    )
    values = [
        msgspec.json.encode(full),
        json.dumps(full, ensure_ascii=False).encode(),
        json.dumps(document({}), indent=1).encode(),
        json.dumps(document({"site": 12, "visits": -3, "price": -0.25, "load": 7, "tags": []})).encode(),
        json.dumps(document({"price": 3, "load": 123456.789, "tags": None, "visits": None})).encode(),
    ]
    # The third is laid out over lines within its features too: what is between two names may be a space.
    assert compare(values) == [True, True, True, True, True]


def test_learned_floats_and_truncated_lists_are_observed_alike() -> None:
    values = [
        msgspec.json.encode(document({"price": n / 8, "tags": [f"t{n % 5}", "x", "y"]})) for n in range(600)
    ]
    assert all(compare(values))


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_records_have_the_careful_reason(name: str) -> None:
    assert compare([MALFORMED[name][0], None, b""]) == [False, False, False]


@pytest.mark.parametrize(
    "text",
    [
        '{"v":1,"event_id":"a","ts_ms":5,"features":{"site":"x","site":"y"}}',
        '{"v":1,"event_id":"a","ts_ms":5,"features":{"site":"x"},"features":{}}',
        '{"v":1,"event_id":"a","ts_ms":5,"features":{},"p":{"m":0.5,"m":0.5}}',
        '{"v":1,"event_id":"a","ts_ms":5,"features":{},"user":"","user":""}',
        '{"v":1,"event_id":"a","ts_ms":5,"features":{"unknown":"x"}}',
        '{"v":1,"event_id":"a","ts_ms":5,"features":{"site":"a\\u0062"}}',
        '{"v":1,"event_id":"a","ts_ms":5,"features":{"site":1.0,"bid":1e2}}',
        '{"v":1,"event_id":"a","ts_ms":5,"features":{"visits":3.0}}',
        '{"v":1,"event_id":"a","ts_ms":5,"features":{"visits":-0,"site":-0}}',
        '{"v":1,"event_id":"a","ts_ms":5,"features":{"visits":01}}',
        '{"v":1,"event_id":"a","ts_ms":5,"features":{"visits":9223372036854775807}}',
        '{"v":1,"event_id":"a","ts_ms":5,"features":{"price":1.}}',
        '{"v":1,"event_id":"a","ts_ms":5,"features":{"price":0.1234567890123456789}}',
        '{"v":1,"event_id":"a","ts_ms":5,"features":{"price":nul}}',
        '{"v":1,"event_id":"a","ts_ms":5,"features":{"site":["x"]}}',
        '{"v":1,"event_id":"a","ts_ms":5,"features":{"tags":["x",1]}}',
        '{"v":1,"event_id":"a","ts_ms":5,"features":{"tags":["x",]}}',
        '{"v":1,"event_id":"a","ts_ms":5,"features":{"site":"x",}}',
        '{"v":1,"event_id":"a","ts_ms":5,"features":{"site":"x"}}}',
        '{"v":1,"event_id":"a","ts_ms":5,"features":{"site":"x"}} {}',
        '{"v":1,"event_id":"a","ts_ms":5,"features":{"site":true}}',
        '{"v":1,"event_id":"a","ts_ms":5,"features":{"site":"x"},"bid":[1]}',
        '{"v":1,"event_id":"a","ts_ms":5,"features":{"site":"x"},"p":{"m":{}}}',
        '{"v":1,"event_id":"a","ts_ms":50000,"features":{"site":"x"}}',
    ],
)
def test_every_other_form_is_left_to_the_careful_way(text: str) -> None:
    assert compare([text.encode()], timestamp_ms=5) == [False]


TEXTS = st.text(max_size=6) | st.sampled_from(["news", "12", "a:b", '"', "\\", "\x00", "é", "😀"])
NUMBERS = st.integers(-(2**70), 2**70) | st.integers(-9, 99) | st.floats()
VALUES = st.none() | TEXTS | NUMBERS | st.booleans() | st.lists(TEXTS, max_size=5)
NAMES = st.sampled_from([item.name for item in FIELDS]) | st.sampled_from(["p", "features", "nobody"])
DOCUMENTS = st.builds(
    document,
    st.dictionaries(NAMES, VALUES, max_size=7) | VALUES,
    user=TEXTS,
    p=st.dictionaries(TEXTS, st.floats(-0.5, 1.5), max_size=2),
)


@st.composite
def written(draw: st.DrawFn) -> bytes:
    """A document as somebody may write it, or nearly."""
    found = draw(DOCUMENTS)
    separators = draw(st.sampled_from([(",", ":"), (", ", ": "), (" ,", ":\n")]))
    value = json.dumps(found, ensure_ascii=draw(st.booleans()), separators=separators).encode(
        errors="surrogatepass"
    )
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(value)))
        part = draw(st.sampled_from([b"", b'"', b",", b":", b"{", b"}", b"1", b" ", b"\xff", b"null", b"."]))
        value = value[:at] + part + value[at + draw(st.integers(0, 2)) :]
    return value


@settings(deadline=None)  # the first values wait for the kernels to be compiled
@given(values=st.lists(written() | st.binary(max_size=40), max_size=6))
@example(values=[b'{"v":1,"event_id":"a', b'":5}'])
def test_both_ways_agree_on_whatever_is_written(values: list[bytes]) -> None:
    compare(values)


def test_the_scanned_record_has_the_fields_of_the_careful_one() -> None:
    plain = {item.name: item for item in msgspec.structs.fields(Impression)}
    scanned = {item.name: item for item in msgspec.structs.fields(ScannedImpression)}
    assert plain.keys() == scanned.keys()
    for name in plain.keys() - {"features"}:
        assert plain[name].type == scanned[name].type, name
        assert plain[name].default == scanned[name].default, name
        assert plain[name].required == scanned[name].required, name


def test_a_pipeline_comes_to_the_same_bits_with_and_without_the_scan() -> None:
    values = [
        msgspec.json.encode(
            document({**USUAL, "visits": n, "price": n / 4}) | {"event_id": f"e{n}", "ts_ms": n}
        )
        for n in range(300)
    ]
    values[40], values[41], values[42] = b"{", values[3], json.dumps(document({"nobody": 1})).encode()
    clicks = [b'{"v":1,"event_id":"e%d","ts_ms":%d}' % (n, n + 2) for n in range(0, 300, 3)]
    entries = entries_of(values) + [Entry(CLICKS, 0, n, -1, None, value) for n, value in enumerate(clicks)]
    states, rows = [], []
    for scanner in (None, SCANNER):
        pipeline = Pipeline(
            FIELDS, FeaturesConfig(), JoinConfig(window_seconds=0.01), "main", IMPRESSIONS, CLICKS, 1
        )
        order = Order(TOPICS, fresh_state(1), Journal(), scanner=scanner)
        order.add(entries)
        applied = pipeline.apply(order.finish())
        states.append(pipeline.state())
        rows.append((applied.batch.rows, applied.batch.ratio, applied.rejected))
    np.testing.assert_array_equal(rows[0][0], rows[1][0])
    np.testing.assert_array_equal(rows[0][1], rows[1][1])
    assert rows[0][2] == rows[1][2]
    assert len(rows[0][2]) == 2
    assert states[0].equals(states[1])
