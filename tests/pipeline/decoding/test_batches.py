"""The compiled way from bytes to keys comes to what the careful way comes to, or leaves it to that one."""

from __future__ import annotations

import json
from collections.abc import Sequence

import msgspec
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from stream_ctr.config.features import FeaturesConfig, FieldConfig, UnknownFeatures
from stream_ctr.config.join import JoinConfig
from stream_ctr.errors import RecordError
from stream_ctr.events.log import Entry
from stream_ctr.events.records import FeatureValue, Impression, ScannedImpression
from stream_ctr.features.keys.encoder import KeyEncoder
from stream_ctr.features.scan.scanner import RecordScanner
from stream_ctr.pipeline.decoding.batches import BatchDecoder
from stream_ctr.pipeline.decoding.records import RecordDecoder
from stream_ctr.pipeline.join_stage import JoinStage
from stream_ctr.pipeline.ordering.journal import Journal
from stream_ctr.pipeline.ordering.order import Order
from stream_ctr.pipeline.stream import Pipeline
from tests.pipeline.decoding.test_records import MALFORMED
from tests.support.log_entries import CLICKS, IMPRESSIONS, TOPICS, fresh_state

FIELDS = (
    FieldConfig("site"),
    FieldConfig("größe"),
    FieldConfig("tags", "multi", max_values=2),
    FieldConfig("visits", "integer"),
    FieldConfig("price", "float", buckets=4),
    FieldConfig("load", "float", boundaries=(-1.5, 0.0, 0.1, 2.0)),
    FieldConfig("bid"),
    FieldConfig("last", "multi", max_values=2, keep="last"),
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


def compare(
    values: Sequence[bytes | None], timestamp_ms: int = -1, scanner: RecordScanner | None = None
) -> list[bool]:
    """Asserts that both ways agree on every value in turn; which of them were scanned.

    A scanner that ignores unknown features comes with encoders that do.
    """
    careful = RecordDecoder(IMPRESSIONS, max_ahead_seconds=10.0)
    unknown: UnknownFeatures = "refuse" if scanner is None else "ignore"
    one, other = KeyEncoder(FIELDS, unknown), KeyEncoder(FIELDS, unknown)
    entries = entries_of(values, timestamp_ms)
    scanned = []
    for entry, (record, reason, row) in zip(
        entries, BatchDecoder(careful, scanner or SCANNER).decode(entries), strict=True
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
        one.tally.ignore(record.ignored)
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
        json.dumps(
            document({"site": 3.0, "visits": 120.0, "bid": "3.00", "tags": ["x", 12, "", None]})
        ).encode(),
        json.dumps(document({"site": True, "bid": False, "tags": ["a", "b", "c", "a"]})).encode(),
        json.dumps(document({"site": "", "last": ["a", "b", "c", "a", "b"], "tags": ["", None]})).encode(),
        json.dumps(
            document({"site": "10.0.0.0", "bid": "12e4", "tags": ["1.10", "03", "Tree", "+3"]})
        ).encode(),
        json.dumps(document({}, user=None, bid=None, p=None, arm=None, bucket=None)).encode(),
    ]
    # The third is laid out over lines within its features too: what is between two names may be a space.
    assert all(compare(values))


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
        '{"v":1,"event_id":"a","ts_ms":5,"features":{"visits":3.5}}',
        '{"v":1,"event_id":"a","ts_ms":5,"features":{"visits":"3"}}',
        '{"v":1,"event_id":"a","ts_ms":5,"features":{"site":"True"}}',
        '{"v":1,"event_id":"a","ts_ms":5,"features":{"site":"FALSE"}}',
        '{"v":1,"event_id":"a","ts_ms":5,"features":{"site":"-0.0"}}',
        '{"v":1,"event_id":"a","ts_ms":5,"features":{"site":"1e+16"}}',
        '{"v":1,"event_id":"a","ts_ms":5,"features":{"site":"1.5E7"}}',
        '{"v":1,"event_id":"a","ts_ms":5,"features":{"tags":["1e+16"]}}',
        '{"v":1,"event_id":"a","ts_ms":5,"features":{"visits":-0,"site":-0}}',
        '{"v":1,"event_id":"a","ts_ms":5,"features":{"visits":01}}',
        '{"v":1,"event_id":"a","ts_ms":5,"features":{"visits":9223372036854775807}}',
        '{"v":1,"event_id":"a","ts_ms":5,"features":{"price":1.}}',
        '{"v":1,"event_id":"a","ts_ms":5,"features":{"price":0.1234567890123456789}}',
        '{"v":1,"event_id":"a","ts_ms":5,"features":{"price":nul}}',
        '{"v":1,"event_id":"a","ts_ms":5,"features":{"site":["x"]}}',
        '{"v":1,"event_id":"a","ts_ms":5,"features":{"tags":["x",true]}}',
        '{"v":1,"event_id":"a","ts_ms":5,"features":{"tags":["x",]}}',
        '{"v":1,"event_id":"a","ts_ms":5,"features":{"site":"x",}}',
        '{"v":1,"event_id":"a","ts_ms":5,"features":{"site":"x"}}}',
        '{"v":1,"event_id":"a","ts_ms":5,"features":{"site":"x"}} {}',
        '{"v":1,"event_id":"a","ts_ms":5,"features":{"site":trueX}}',
        '{"v":1,"event_id":"a","ts_ms":5,"features":{"site":"x"},"bid":[1]}',
        '{"v":1,"event_id":"a","ts_ms":5,"features":{"site":"x"},"p":{"m":{}}}',
        '{"v":1,"event_id":"a","ts_ms":50000,"features":{"site":"x"}}',
    ],
)
def test_every_other_form_is_left_to_the_careful_way(text: str) -> None:
    assert compare([text.encode()], timestamp_ms=5) == [False]


TEXTS = st.text(max_size=6) | st.sampled_from(["news", "12", "a:b", '"', "\\", "\x00", "é", "😀"])
NUMBERS = st.integers(-(2**70), 2**70) | st.integers(-9, 99) | st.floats() | st.integers(-99, 99).map(float)
SPELLED = NUMBERS.map(str) | st.from_regex(
    r"[+-]?[0-9]{1,17}(\.[0-9]{0,3})?([eE][+-]?[0-9]{1,2})?|(?i:true|false|tree|falls)", fullmatch=True
)
ITEMS = st.none() | TEXTS | SPELLED | NUMBERS | st.booleans()
VALUES = ITEMS | st.lists(ITEMS, max_size=5) | st.dictionaries(TEXTS, ITEMS, max_size=2)
NAMES = st.sampled_from([item.name for item in FIELDS]) | st.sampled_from(["p", "features", "nobody"])
OPTIONAL = st.none() | TEXTS
DOCUMENTS = st.builds(
    document,
    st.dictionaries(NAMES, VALUES, max_size=7) | VALUES,
    user=OPTIONAL,
    arm=OPTIONAL,
    bid=st.none() | st.floats(-1, 2e12),
    p=st.none() | st.dictionaries(TEXTS, st.floats(-0.5, 1.5), max_size=2),
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
    scanner = RecordScanner(FIELDS, "ignore")
    compare(values, scanner=scanner)
    compare(values, scanner=scanner)  # the names that it met are scanned now


def test_features_that_no_field_names_are_scanned_once_they_were_met() -> None:
    extra = {"device": "ios", "dpi": 1.5, "tags2": ["a", 1], "beta": True, "os": None}
    usual: dict[str, object] = {name: value for name, value in USUAL.items() if name.isascii()}
    values = [json.dumps(document({**usual, **extra})).encode()] * 2
    scanner = RecordScanner(FIELDS, "ignore")
    assert compare(values, scanner=scanner) == [False, False]
    assert compare(values, scanner=scanner) == [True, True]
    unusual: list[dict[str, object]] = [
        {"dpi": 1e99},
        {"os": {"name": "x"}},
        {"tags2": [[]]},
        {"device": "\t"},
        {"x" * 70: 1},
    ]
    others = [json.dumps(document({**usual, **each})).encode() for each in unusual]
    assert compare(others, scanner=scanner) == [False] * 5
    assert compare([values[0].replace(b'"os": null', b'"os": 1, "os": 2')], scanner=scanner) == [False]
    assert compare([values[0][:-1] + b', "\x7f": ["a"]}'], scanner=scanner) == [False]
    for number in range(100):  # more names than there is room for
        compare([json.dumps(document({f"more{number}": 1})).encode()], scanner=scanner)
    assert compare([json.dumps(document({"more0": 1})).encode()], scanner=scanner) == [True]
    assert compare([json.dumps(document({"more99": 1})).encode()], scanner=scanner) == [False]


def test_the_scanned_record_has_the_fields_of_the_careful_one() -> None:
    plain = {item.name: item for item in msgspec.structs.fields(Impression)}
    scanned = {item.name: item for item in msgspec.structs.fields(ScannedImpression)}
    assert plain.keys() == scanned.keys()
    for name in plain.keys() - {"features"}:
        assert plain[name].type == scanned[name].type, name
        assert plain[name].default == scanned[name].default, name
        assert plain[name].required == scanned[name].required, name


@pytest.mark.parametrize("unknown", ["ignore", "refuse"])
def test_a_pipeline_comes_to_the_same_bits_with_and_without_the_scan(unknown: UnknownFeatures) -> None:
    values = [
        msgspec.json.encode(
            document({**USUAL, "visits": n, "price": n / 4}) | {"event_id": f"e{n}", "ts_ms": n}
        )
        for n in range(300)
    ]
    values[40], values[41], values[42] = b"{", values[3], json.dumps(document({"nobody": 1})).encode()
    values += [
        json.dumps(document({"device": n % 7, "site": "x"}) | {"event_id": f"n{n}", "ts_ms": n}).encode()
        for n in range(300)
    ]
    clicks = [b'{"v":1,"event_id":"e%d","ts_ms":%d}' % (n, n + 2) for n in range(0, 300, 3)]
    entries = entries_of(values) + [Entry(CLICKS, 0, n, -1, None, value) for n, value in enumerate(clicks)]
    states, rows = [], []
    for scanner in (None, RecordScanner(FIELDS, unknown)):
        join = JoinConfig(window_seconds=0.01)
        stage = JoinStage(join, IMPRESSIONS, CLICKS, 1)
        pipeline = Pipeline(FIELDS, FeaturesConfig(unknown=unknown), join, "main", stage)
        order = Order(TOPICS, fresh_state(1), Journal(), scanner=scanner)
        for start in range(0, len(entries), 100):  # the scan learns names between its calls
            order.add(entries[start : start + 100])
        applied = pipeline.apply(order.finish())
        states.append(pipeline.state())
        rows.append((applied.batch.rows, applied.batch.ratio, applied.rejected))
    np.testing.assert_array_equal(rows[0][0], rows[1][0])
    np.testing.assert_array_equal(rows[0][1], rows[1][1])
    assert rows[0][2] == rows[1][2]
    assert len(rows[0][2]) == (1 if unknown == "ignore" else 302)
    assert states[0].equals(states[1])
