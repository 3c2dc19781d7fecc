"""Every input ends in a record or in a reason."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from stream_ctr.errors import RecordError
from stream_ctr.events.log import Entry
from stream_ctr.events.records import RECORD_VERSION, Click, Impression
from stream_ctr.pipeline.decoding.labelled import LabelledDecoder, sequence_of
from stream_ctr.pipeline.decoding.records import (
    MAX_TIME_MS,
    READABLE_VERSIONS,
    RecordDecoder,
)

DECODER = RecordDecoder()
HEAD = '"v":1,"event_id":"a","ts_ms":5'
DEEP = "[" * 200_000

MALFORMED = {
    "not JSON": (b"click", "malformed"),
    "cut short": (b'{"v":1,"event_id":"a"', "truncated"),
    "empty value": (b"", "truncated"),
    "two documents": (f'{{{HEAD},"features":{{}}}} {{}}'.encode(), "trailing"),
    "an array": (b"[]", "Expected `object`, got `array`"),
    "null document": (b"null", "got `null`"),
    "byte order mark": (b"\xef\xbb\xbf{}", "malformed"),
    "UTF-16": ("{}".encode("utf-16"), "malformed"),
    "missing features": (f"{{{HEAD}}}".encode(), "missing required field `features`"),
    "missing event id": (b'{"v":1,"ts_ms":5,"features":{}}', "`event_id`"),
    "missing version": (b'{"event_id":"a","ts_ms":5,"features":{}}', "`v`"),
    "unknown key": (f'{{{HEAD},"features":{{}},"color":1}}'.encode(), "unknown field `color`; leave it out"),
    "unknown deep value": (f'{{{HEAD},"features":{{}},"color":{DEEP}'.encode(), "unknown field `color`"),
    "later version": (b'{"v":9,"event_id":"a","ts_ms":5,"color":{}}', "v = 9 is not supported"),
    "version zero": (b'{"v":0,"event_id":"a","ts_ms":5,"features":{}}', "v = 0 is not supported"),
    "huge version": (b'{"v":' + b"9" * 400 + b"}", "(400 digits) is not supported"),
    "text version": (b'{"v":"1","event_id":"a","ts_ms":5,"features":{}}', "$.v"),
    "fractional time": (b'{"v":1,"event_id":"a","ts_ms":5.5,"features":{}}', "$.ts_ms"),
    "negative time": (
        b'{"v":1,"event_id":"a","ts_ms":-1,"features":{}}',
        "ts_ms must be between 0 and 253402300799999, got -1",
    ),
    "absurd time": (b'{"v":1,"event_id":"a","ts_ms":%d,"features":{}}' % (MAX_TIME_MS + 1), "ts_ms must be"),
    "endless time": (b'{"v":1,"event_id":"a","ts_ms":' + b"9" * 300 + b',"features":{}}', "300 digits"),
    "empty event id": (b'{"v":1,"event_id":"","ts_ms":5,"features":{}}', "event_id is empty"),
    "long event id": (b'{"v":1,"event_id":"%s","ts_ms":5,"features":{}}' % (b"a" * 257), "257 bytes"),
    "NaN feature": (f'{{{HEAD},"features":{{"x":NaN}}}}'.encode(), "invalid character"),
    "infinite feature": (f'{{{HEAD},"features":{{"x":Infinity}}}}'.encode(), "invalid character"),
    "overflowing feature": (f'{{{HEAD},"features":{{"x":1e999}}}}'.encode(), "out of range"),
    "overflowing integer": (f'{{{HEAD},"features":{{"x":{"9" * 5000}}}}}'.encode(), "out of range"),
    "overflowing bid": (f'{{{HEAD},"features":{{}},"bid":{"9" * 400}}}'.encode(), "out of range"),
    "nested list": (f'{{{HEAD},"features":{{"x":{DEEP}'.encode(), "nested too deeply"),
    "feature of a feature twice": (
        f'{{{HEAD},"features":{{"x":{{"y":1,"y":2}}}}}}'.encode(),
        "the key 'y' appears twice",
    ),
    "deep document": (DEEP.encode(), "Expected `object`, got `array`"),
    "null features": (f'{{{HEAD},"features":null}}'.encode(), "got `null`"),
    "null event id": (b'{"v":1,"event_id":null,"ts_ms":5,"features":{}}', "$.event_id"),
    "null and a wrong type": (f'{{{HEAD},"features":{{}},"arm":null,"user":5}}'.encode(), "$.user"),
    "negative bid": (
        f'{{{HEAD},"features":{{}},"bid":-0.01}}'.encode(),
        "bid must be between 0 and 1e+12, got -0.01",
    ),
    "absurd bid": (
        f'{{{HEAD},"features":{{}},"bid":1.1e12}}'.encode(),
        "got 1.1e+12",
    ),
    "probability above 1": (
        f'{{{HEAD},"features":{{}},"p":{{"m":1.5}}}}'.encode(),
        "p['m'] must be",
    ),
    "propensity of 0": (
        f'{{{HEAD},"features":{{}},"propensity":0.0}}'.encode(),
        "propensity must be",
    ),
    "negative truth": (
        f'{{{HEAD},"features":{{}},"truth":-0.1}}'.encode(),
        "truth must be",
    ),
    "key twice": (f'{{{HEAD},"features":{{}},"ts_ms":6}}'.encode(), "the key 'ts_ms' appears twice"),
    "feature twice": (f'{{{HEAD},"features":{{"x":1,"x":2}}}}'.encode(), "the key 'x' appears twice"),
    "feature twice, escaped": (f'{{{HEAD},"features":{{"x":1,"\\u0078":1}}}}'.encode(), "'x' appears twice"),
    "arm twice": (f'{{{HEAD},"features":{{}},"p":{{"m":1,"m":0}}}}'.encode(), "the key 'm' appears twice"),
    "default twice": (f'{{{HEAD},"features":{{}},"bid":0,"bid":0}}'.encode(), "the key 'bid' appears twice"),
    "default and its feature twice": (
        f'{{{HEAD},"features":{{"bid":1,"bid":2}},"bid":0}}'.encode(),
        "the key 'bid' appears twice",
    ),
    "default and a feature twice": (
        f'{{{HEAD},"features":{{"x":1,"x":1}},"bid":0,"user":""}}'.encode(),
        "the key 'x' appears twice",
    ),
    "default, and its name at a feature's end": (
        f'{{{HEAD},"features":{{"\\"bid":1,"x":1,"x":1}}}}'.encode(),
        "the key 'x' appears twice",
    ),
    "key twice, spaced": (f'{{{HEAD},"features":{{}},"ts_ms" : 6}}'.encode(), "'ts_ms' appears twice"),
    "invalid UTF-8": (f'{{{HEAD},"features":{{"x":"'.encode() + b'\xff"}}', "invalid UTF-8"),
    "invalid UTF-8 key": (f'{{{HEAD},"features":{{"'.encode() + b'\xff":1}}', "invalid UTF-8"),
    "lone surrogate": (f'{{{HEAD},"features":{{"x":"\\ud800x"}}}}'.encode(), ""),
    "control character": (f'{{{HEAD},"features":{{"x":"a\nb"}}}}'.encode(), "malformed"),
    "10 MB": (b'"' + b"a" * 10_000_000 + b'"', "10000002 bytes, more than the limit"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_impression_says_why(name: str) -> None:
    value, reason = MALFORMED[name]
    with pytest.raises(RecordError) as caught:
        DECODER.impression(value)
    assert reason in str(caught.value)
    assert 0 < len(str(caught.value)) < 300


def test_null_value_is_refused() -> None:
    with pytest.raises(RecordError, match="the value is null"):
        DECODER.impression(None)
    with pytest.raises(RecordError, match="the value is null"):
        DECODER.click(None)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"v":1,"event_id":"a","ts_ms":5,"value":NaN}', "invalid character"),
        ('{"v":1,"event_id":"a","ts_ms":5,"value":1,"value":1}', "'value' appears twice"),
        ('{"v":1,"event_id":"a","ts_ms":5,"event_id":"a"}', "'event_id' appears twice"),
        ('{"v":1,"event_id":"a","ts_ms":5,"features":{}}', "unknown field `features`"),
        ('{"v":2,"event_id":"a","ts_ms":5}', "v = 2 is not supported"),
        ('{"v":1,"event_id":7,"ts_ms":5}', "$.event_id"),
        ('{"v":1,"event_id":"a","ts_ms":null}', "$.ts_ms"),
        ('{"v":1,"event_id":"a","ts_ms":5,"value":1e999}', "out of range"),
        ('{"v":1,"event_id":"a","ts_ms":5,"value":-3}', "value must be between 0 and 1e+12, got -3"),
        ('{"v":1,"event_id":"a","ts_ms":5,"value":1e308}', "value must be between 0 and 1e+12, got 1e+308"),
        ('{"v":1,"event_id":"a","ts_ms":5,"value":null,"value":null}', "'value' appears twice"),
    ],
)
def test_malformed_click_says_why(text: str, reason: str) -> None:
    with pytest.raises(RecordError) as caught:
        DECODER.click(text.encode())
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        '{"v":1,"event_id":"a","ts_ms":5,"features":{"at":"12:30","url":"http://x/"}}',
        '{"v":1,"event_id":"a","ts_ms":5,"features":{"x":"\\":"}}',
        '{\n "v": 1,\n "event_id" : "a",\n "ts_ms": 5,\n "features": {"x": "b" }\n}',
        '{"v":1,"event_id":"a","ts_ms":5,"features":{},"bid":0.0,"user":"","p":{}}',
        '{"v":1,"event_id":"a","ts_ms":5,"features":{"bid":1,"p":2},"p":{"bid":1}}',
    ],
)
def test_valid_impressions_of_other_writers_are_read(text: str) -> None:
    assert DECODER.impression(text.encode()) == msgspec.json.decode(text, type=Impression)


OPTIONAL = [field.name for field in msgspec.structs.fields(Impression) if not field.required]


@pytest.mark.parametrize("names", [[name] for name in OPTIONAL] + [OPTIONAL])
def test_an_optional_key_that_is_null_is_as_if_it_were_absent(names: list[str]) -> None:
    given = json.loads(f'{{{HEAD},"features":{{"x":null}}}}')
    nulls = json.dumps({**given, **dict.fromkeys(names)}).encode()
    assert DECODER.impression(nulls) == DECODER.impression(json.dumps(given).encode())
    labelled = b'{"v":1,"ts_ms":9,"label":1,"source":null,"sequence":null,"impression":%s}' % nulls
    record, reason = LabelledDecoder().entry(Entry("labelled", 0, 0, 0, None, labelled))
    assert reason == ""
    assert record is not None
    assert (record.impression, record.source, record.sequence) == (DECODER.impression(nulls), None, -1)
    assert sequence_of(labelled) is None


def test_a_null_value_of_a_click_is_as_if_it_were_absent() -> None:
    assert DECODER.click(f'{{{HEAD},"value":null}}'.encode()) == DECODER.click(f"{{{HEAD}}}".encode())


@pytest.mark.parametrize("amount", ["0", "0.0", "1e12", "1000000000000"])
def test_amounts_within_the_bounds_are_read(amount: str) -> None:
    assert DECODER.click(f'{{{HEAD},"value":{amount}}}'.encode()).value == float(amount)
    assert DECODER.impression(f'{{{HEAD},"features":{{}},"bid":{amount}}}'.encode()).bid == float(amount)


@pytest.mark.parametrize("value", ["true", '{"lat":1.5}', '[1,null,{"a":[true]}]', "[]", str(10**40)])
def test_a_feature_may_be_any_json_since_only_the_schema_knows_what_is_read(value: str) -> None:
    record = DECODER.impression(f'{{{HEAD},"features":{{"x":{value}}}}}'.encode())
    assert record.features == {"x": json.loads(value)}


def test_current_and_previous_version_are_read() -> None:
    assert READABLE_VERSIONS[0] == RECORD_VERSION
    for version in READABLE_VERSIONS:
        assert DECODER.click(b'{"v":%d,"event_id":"a","ts_ms":5}' % version).v == version


def test_long_event_ids_are_measured_in_bytes() -> None:
    text = '{"v":1,"event_id":"%s","ts_ms":5}'
    assert DECODER.click((text % ("é" * 128)).encode()).event_id == "é" * 128
    with pytest.raises(RecordError, match="258 bytes"):
        DECODER.click((text % ("é" * 129)).encode())


def test_value_of_exactly_the_limit_is_read() -> None:
    value = b'{"v":1,"event_id":"a","ts_ms":5}'
    assert RecordDecoder(max_value_bytes=len(value)).click(value).event_id == "a"
    with pytest.raises(RecordError, match=f"{len(value)} bytes, more than the limit of {len(value) - 1}"):
        RecordDecoder(max_value_bytes=len(value) - 1).click(value)


@pytest.mark.parametrize(("timestamp_ms", "accepted"), [(1000, True), (999, False), (-1, True), (9999, True)])
def test_record_far_ahead_of_the_log_is_refused(timestamp_ms: int, accepted: bool) -> None:
    value = b'{"v":1,"event_id":"a","ts_ms":3000}'
    record, reason = RecordDecoder("impressions", max_ahead_seconds=2.0).entry(
        Entry("clicks", 0, 0, timestamp_ms, None, value)
    )
    assert (record is not None) is accepted
    assert ("max_ahead_seconds = 2" in reason) is not accepted


def test_topic_decides_what_an_entry_is() -> None:
    click = b'{"v":1,"event_id":"a","ts_ms":5}'
    decoder = RecordDecoder("shown")
    assert isinstance(decoder.entry(Entry("clicked", 0, 0, 0, None, click))[0], Click)
    assert decoder.entry(Entry("shown", 0, 0, 0, None, click)) == (
        None,
        "Object missing required field `features`",
    )


def ends_well(value: bytes | None) -> None:
    for topic in ("impressions", "clicks"):
        record, reason = DECODER.entry(Entry(topic, 0, 0, 0, None, value))
        if record is None:
            assert reason
            continue
        assert not reason
        assert value is not None
        assert not repeats_a_key(value)
        assert record.event_id
        record.event_id.encode()
        assert 0 <= record.ts_ms <= MAX_TIME_MS


def repeats_a_key(value: bytes) -> bool:
    repeated = []

    def note(pairs: list[tuple[str, Any]]) -> None:
        repeated.append(len({key for key, _ in pairs}) < len(pairs))

    json.loads(value, object_pairs_hook=note)
    return any(repeated)


@given(st.binary(max_size=200))
def test_any_bytes_end_in_a_record_or_a_reason(value: bytes) -> None:
    ends_well(value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
NAMES = st.sampled_from([*Impression.__struct_fields__, "value", "x", "y", ""])


@st.composite
def documents(draw: st.DrawFn) -> bytes:
    """Objects near a record: names of its keys, more than once, valid and wild values, any spacing."""
    good: list[tuple[str, Any]] = [
        ("v", 1),
        ("event_id", draw(st.text(max_size=3))),
        ("ts_ms", draw(st.integers(-1, 10**6))),
        ("features", draw(st.dictionaries(NAMES, st.integers() | st.text(max_size=3), max_size=3))),
    ]
    pairs = draw(st.permutations(good + draw(st.lists(st.tuples(NAMES, JSON), max_size=2))))
    space = draw(st.sampled_from(["", " ", "\n", "\t"]))
    ascii_only = draw(st.booleans())
    items = [
        f"{json.dumps(name)}{space}:{space}{json.dumps(item, ensure_ascii=ascii_only)}"
        for name, item in pairs
    ]
    return ("{" + f",{space}".join(items) + "}").encode(errors="surrogatepass")


@given(documents())
@example(b'{"v":1,"event_id":"a","ts_ms":5,"features":{"":1,"":2}}')
def test_documents_near_a_record_end_in_a_record_or_a_reason(value: bytes) -> None:
    ends_well(value)


@given(
    st.lists(st.tuples(NAMES, st.text(':" \\a', max_size=4)), max_size=4),
    st.sampled_from(["", " ", "\r", "\t"]),
    st.sampled_from(["", " "]),
)
def test_repeated_names_are_noticed_exactly(features: list[tuple[str, str]], before: str, after: str) -> None:
    """The cheap test by counting must agree with looking at every key."""
    inner = ",".join(f"{json.dumps(name)}{before}:{after}{json.dumps(text)}" for name, text in features)
    value = f'{{"v":1,"event_id":"a","ts_ms":5,"features":{{{inner}}}}}'.encode()
    if len({name for name, _ in features}) < len(features):
        with pytest.raises(RecordError, match="appears twice"):
            DECODER.impression(value)
    else:
        assert DECODER.impression(value).features == dict(features)


@given(
    st.integers(0, 200), st.binary(max_size=2), st.integers(0, 3), st.sampled_from(["{}", '{"x":[1,"b"]}'])
)
def test_damaged_records_end_in_a_record_or_a_reason(
    place: int, inserted: bytes, removed: int, features: str
) -> None:
    value = f'{{{HEAD},"features":{features},"p":{{"m":0.5}},"user":"é"}}'.encode()
    ends_well(value[:place] + inserted + value[place + removed :])


@given(
    st.builds(
        Impression,
        v=st.just(RECORD_VERSION),
        event_id=st.text(min_size=1, max_size=20),
        ts_ms=st.integers(0, MAX_TIME_MS),
        features=st.dictionaries(
            st.text(max_size=5),
            st.none()
            | st.text(max_size=5)
            | st.integers()
            | st.floats(allow_nan=False, allow_infinity=False)
            | st.lists(st.text(max_size=3), max_size=3),
            max_size=4,
        ),
        user=st.text(max_size=5),
        bid=st.floats(0, 1e9),
        p=st.dictionaries(st.text(max_size=4), st.floats(0, 1), max_size=3),
        truth=st.none() | st.floats(0, 1),
        propensity=st.none() | st.floats(0, 1, exclude_min=True),
        bucket=st.none() | st.integers(0, 10_000),
    )
)
def test_what_is_written_is_read(record: Impression) -> None:
    assert DECODER.impression(msgspec.json.encode(record)) == record
