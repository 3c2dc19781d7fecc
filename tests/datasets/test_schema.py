"""Delimited files and JSON lines with a schema file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_ctr.config.features import FieldConfig
from stream_ctr.datasets.base import Example, open_dataset
from stream_ctr.errors import ConfigError, DataError, UsageError
from tests.support.dataset_files import write

SCHEMA = """
label = "click"
time = "at"
time_unit = "s"
event_id = "id"
user = "visitor"
bid = "bid"
missing = ["", "NA"]
positive = ["yes", "1"]
negative = ["no", "0"]
fields = [
    { name = "site" },
    { name = "age", kind = "integer" },
    { name = "tags", kind = "multi", separator = ";", max_values = 3 },
    { name = "price", kind = "float", column = "price_eur", boundaries = [1.0, 2.5] },
]
"""
WANTED = [
    Example("e1", 7000, "v1", {"site": "a,b", "age": 30, "tags": ["x", "y"], "price": 1.5}, 1, 0.25),
    Example("e2", 8500, "", {"tags": ["z"]}, 0, 0.0),
]


def _read(tmp_path: Path, name: str, text: str, schema: str = SCHEMA) -> list[Example]:
    path = write(tmp_path / "data", text)
    options = {"schema": str(write(tmp_path / "schema.toml", schema))}
    return list(open_dataset(name, path, options).read(path))


def test_a_delimited_file(tmp_path: Path) -> None:
    text = (
        "id,at,visitor,click,bid,site,age,tags,price_eur,unused\n"
        'e1,7,v1,yes,0.25,"a,b",30,x;y,1.5,?\n'
        "e2,8.5,,no,,NA,,z,NA,?\n"
    )
    assert _read(tmp_path, "delimited", text) == WANTED


def test_json_lines(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"id": "e1", "at": 7, "visitor": "v1", "click": "yes", "bid": 0.25, "site": "a,b", "age": 30},
        {"id": "e2", "at": 8.5, "click": 0, "site": "NA", "age": None, "tags": "z"},
    ]
    rows[0] |= {"tags": ["x", "y"], "price_eur": 1.5, "unused": {"deep": [1]}}
    assert _read(tmp_path, "jsonl", "".join(json.dumps(row) + "\n" for row in rows)) == WANTED


def test_the_fields_become_the_feature_schema(tmp_path: Path) -> None:
    options = {"schema": str(write(tmp_path / "schema.toml", SCHEMA))}
    assert open_dataset("jsonl", None, options).fields == (
        FieldConfig("site"),
        FieldConfig("age", "integer"),
        FieldConfig("tags", "multi", max_values=3),
        FieldConfig("price", "float", boundaries=(1.0, 2.5)),
    )


def test_without_times_and_ids_both_come_from_the_row_number(tmp_path: Path) -> None:
    schema = (
        'label = "y"\nrows_per_second = 2\ndelimiter = "\\t"\ncolumns = ["y", "x"]\nfields = [{ name = "x" }]'
    )
    first, second = _read(tmp_path, "delimited", "0\ta\n1\tb\n", schema)
    assert (first.time_ms, second.time_ms) == (0, 500)
    assert (first.event_id, second.event_id) == ("data-0", "data-1")
    dataset = open_dataset("delimited", None, {"schema": str(tmp_path / "schema.toml")})
    assert "synthesised from the row number at 2 rows per second" in dataset.note


@pytest.mark.parametrize(
    ("unit", "value", "time_ms"),
    [
        ("s", 1.25, 1250),
        ("ms", 1250, 1250),
        ("us", 1_250_999, 1250),
        ("ns", 1_250_999_999, 1250),
        ("iso", "1970-01-01T01:00:01.250+01:00", 1250),
        ("iso", "1970-01-01 00:00:01.25", 1250),
    ],
)
def test_units_of_time(unit: str, value: object, time_ms: int, tmp_path: Path) -> None:
    schema = f'label = "y"\ntime = "t"\ntime_unit = "{unit}"\nfields = [{{ name = "x" }}]'
    (example,) = _read(tmp_path, "jsonl", json.dumps({"y": True, "t": value}), schema)
    assert (example.time_ms, example.label) == (time_ms, 1)


@settings(max_examples=50, deadline=None)
@given(
    site=st.text(min_size=1).filter(lambda text: text != "NA"),
    age=st.none() | st.integers(-(10**18) + 1, 10**18 - 1),
    price=st.none() | st.floats(allow_nan=False, allow_infinity=False),
    tags=st.lists(st.text(min_size=1), max_size=4),
    at=st.integers(0, 10**9),
)
def test_json_values_round_trip(
    tmp_path_factory: pytest.TempPathFactory,
    site: str,
    age: int | None,
    price: float | None,
    tags: list[str],
    at: int,
) -> None:
    row = {"id": "e", "at": at, "click": "no", "site": site, "age": age, "price_eur": price, "tags": tags}
    folder = tmp_path_factory.mktemp("json")
    (example,) = _read(folder, "jsonl", json.dumps(row, ensure_ascii=False))
    wanted = {"site": site, "age": age, "price": price, "tags": tags}
    assert example.features == {name: value for name, value in wanted.items() if value is not None}
    assert example.time_ms == at * 1000


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"click": "perhaps"}, "line 2, column click: 'perhaps' is not a known label [(]no, 0, yes, 1[)]"),
        ({"click": None}, "column click: None"),
        ({"age": 1.5}, "column age: 1.5 is not a whole number"),
        ({"age": True}, "column age: True"),
        ({"price_eur": "1e999"}, "column price_eur"),
        ({"tags": [["x"]]}, "column tags"),
        ({"site": {"a": 1}}, "column site"),
        ({"at": -1}, "column at: -1 is not a time"),
        ({"at": 10**13}, "column at"),
        ({"id": None}, "column id: None is not an id"),
        ({"bid": "much"}, "column bid"),
    ],
)
def test_bad_values_are_named(change: dict[str, object], message: str, tmp_path: Path) -> None:
    good = {"id": "e1", "at": 7, "click": "no"}
    text = json.dumps(good) + "\n" + json.dumps(good | change) + "\n"
    with pytest.raises(DataError, match=message):
        _read(tmp_path, "jsonl", text)


def test_labels_of_json_are_compared_by_value(tmp_path: Path) -> None:
    schema = 'label = "y"\nfields = [{ name = "x" }]'
    labels = ["1", "1.0", "true", '"1"', "0", "0.0", "-0.0", "false"]
    found = _read(tmp_path, "jsonl", "".join(f'{{"y": {label}}}\n' for label in labels), schema)
    assert [example.label for example in found] == [1, 1, 1, 1, 0, 0, 0, 0]
    with pytest.raises(DataError, match=r"0\.5 is not a known label .* add it to positive or negative"):
        _read(tmp_path, "jsonl", '{"y": 0.5}\n', schema)


@pytest.mark.parametrize("text", ['[\n{"y": 1},\n{"y": 0}\n]\n', '[{"y": 1}, {"y": 0}]\n', '{\n"y": 1\n}\n'])
def test_a_json_document_is_named_as_such(text: str, tmp_path: Path) -> None:
    schema = 'label = "y"\non_bad_row = "skip"\nfields = [{ name = "x" }]'
    with pytest.raises(DataError, match=r"holds one JSON document .*jq -c"):
        _read(tmp_path, "jsonl", text, schema)


@pytest.mark.parametrize("line", ["[1]", "{", "\t", '{"a": 1} x', "[" * 100_000, '"\\ud800"'])
def test_lines_that_are_not_json_objects(line: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"line 2.*is not a JSON object") as caught:
        _read(tmp_path, "jsonl", json.dumps({"id": "e", "at": 7, "click": "no"}) + "\n" + line + "\n")
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ("fields = []", "label"),
        (SCHEMA + 'colour = "red"', "colour"),
        (SCHEMA.replace('"integer"', '"whole"'), "whole"),
        (SCHEMA.replace('"age"', '"site"'), "'site' is empty or repeated"),
        (SCHEMA.replace("[1.0, 2.5]", "[2.5, 1.0]"), "boundaries of field 'price' must ascend"),
        (SCHEMA.replace('"0"', '"1"'), r"\['1'\] are both positive and negative"),
        (SCHEMA + 'delimiter = ""', "delimiter = '' is empty"),
        ("label =", "not TOML"),
    ],
)
def test_bad_schemas_are_named(schema: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        _read(tmp_path, "delimited", "a\n", schema)


def test_the_schema_is_required_and_must_exist(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="option schema=FILE"):
        open_dataset("delimited")
    with pytest.raises(ConfigError, match="cannot read the schema"):
        open_dataset("jsonl", None, {"schema": str(tmp_path / "absent.toml")})


def test_a_column_that_is_not_in_the_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no column 'at'"):
        _read(tmp_path, "delimited", "id,click\ne,no\n")
