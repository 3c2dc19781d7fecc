"""A value has the same key from every source: files, log records, rankings, tensors and dicts."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple, cast

import msgspec
import numpy as np
import pandas as pd
import pytest
import xxhash

from simulators.log_writer.timeline import Happening
from stream_ctr.config.features import FieldConfig
from stream_ctr.datasets.avazu import Avazu
from stream_ctr.datasets.base import Example, open_dataset
from stream_ctr.datasets.criteo import Criteo
from stream_ctr.datasets.open_bandit import OpenBandit
from stream_ctr.datasets.taobao import Taobao
from stream_ctr.errors import DataError, RecordError
from stream_ctr.events.log import Entry
from stream_ctr.events.records import FeatureValue, Impression
from stream_ctr.features.keys.encoder import KeyEncoder
from stream_ctr.features.scan.scanner import RecordScanner
from stream_ctr.pipeline.decoding.batches import BatchDecoder
from stream_ctr.pipeline.decoding.records import RecordDecoder
from stream_ctr.river.encoding import DictEncoder
from stream_ctr.serving.api_error import ApiError
from stream_ctr.serving.http.binary_tensors import DTYPES, attach
from stream_ctr.serving.http.rank_api import decode_request
from stream_ctr.serving.http.tensors import Datatype, InferInput, features_of
from tests.support.dataset_files import (
    AVAZU_HEADER,
    avazu_line,
    criteo_line,
    open_bandit_folder,
    taobao_folder,
    write,
)

FIELDS = (
    FieldConfig("c"),
    FieldConfig("m", "multi", max_values=2),
    FieldConfig("i", "integer"),
    FieldConfig("f", "float", boundaries=(0.0, 0.5, 2.5, 3.0, 1e3, 1e16)),
)
ENCODER = KeyEncoder(FIELDS)
SCANNER = RecordScanner(FIELDS)
CATEGORICAL, MULTI, INTEGER, FLOAT = 0, 1, 3, 4
EXACT = 2**53 + 1


class Value(NamedTuple):
    """A value and its notations."""

    text: str | None
    """Its canonical text in a categorical field; None if missing."""
    written: tuple[str, ...]
    """Notations in JSON."""
    cells: tuple[str, ...]
    """Notations in a cell of a file."""


VALUES = {
    "three": Value("3", ("3", "3.0", "3.00", "3e0", "30e-1", '"3"', '"3.0"'), ("3", "3.0", "3.00")),
    "minus seven": Value("-7", ("-7", "-7.0", '"-7"', '"-7.0"'), ("-7", "-7.0")),
    "thousand": Value("1000", ("1000", "1e3", "1E3", "1000.0", '"1.0E3"'), ("1000", "1000.0", "1.0E3")),
    "zero": Value("0", ("0", "-0", "0.0", "-0.0", "0e9", '"-0.0"'), ("0", "0.0", "-0.0")),
    "beyond 2^53": Value(f"{EXACT}", (f"{EXACT}", f'"{EXACT}"'), (f"{EXACT}",)),
    "10^16": Value(
        f"{10**16}",
        (f"{10**16}", "1e16", "1e+16", f"{10**16}.0", '"1e+16"'),
        (f"{10**16}", "1e+16", "1.0E16", f"{10**16}.0"),
    ),
    "2^60": Value(
        f"{2**60}",
        (f"{2**60}", f"{2**60}.0", "1.152921504606847e+18", '"1.152921504606847e+18"'),
        (f"{2**60}", f"{2**60}.0", "1.152921504606847e+18"),
    ),
    "2^63": Value(
        "9.223372036854776e+18", ("9.223372036854776e18", f"{2**63}.0"), ("9.223372036854776e+18",)
    ),
    "tenth": Value("0.1", ("0.1", "0.10", "1e-1", '"0.1"'), ("0.1",)),
    "small": Value("1e-07", ("1e-7", "0.0000001", '"1e-07"'), ("1e-07",)),
    "huge": Value("1e+300", ("1e300", '"1e+300"'), ("1e+300",)),
    "true": Value("true", ("true", '"true"', '"True"', '"TRUE"'), ("true", "True", "TRUE")),
    "false": Value("false", ("false", '"false"', '"False"'), ("false", "False", "FALSE")),
    "missing": Value(None, ("null", '""'), ("",)),
    "zip code": Value("03", ('"03"',), ("03",)),
    "zip code with a point": Value("03.0", ('"03.0"',), ("03.0",)),
    "signed": Value("+3", ('"+3"',), ("+3",)),
    "padded": Value(" 3", ('" 3"',), (" 3",)),
    "version": Value("1.10", ('"1.10"',), ("1.10",)),
    "address": Value("10.0.0.0", ('"10.0.0.0"',), ("10.0.0.0",)),
    "hexadecimal": Value("12345e67", ('"12345e67"',), ("12345e67",)),
    "short hexadecimal": Value("1e3", ('"1e3"',), ("1e3",)),
    "name": Value("Trueman", ('"Trueman"',), ("Trueman",)),
    "not a number": Value("nan", ('"nan"',), ("nan",)),
    "blank": Value(" ", ('" "',), (" ",)),
    "unicode": Value("größe 😀", ('"größe 😀"', '"gr\\u00f6\\u00dfe \\ud83d\\ude00"'), ("größe 😀",)),
}
NUMBERS: dict[str, tuple[tuple[str, ...], float]] = {
    "three": (("3", "3.0", "3e0", '"3"', '"3.0"', '" +03 "', '"3e0"', '"30.0e-1"'), 3),
    "minus seven": (("-7", "-7.0", '"-7"', '"-07"', '" -7.0"'), -7),
    "zero": (("0", "-0", "-0.0", '"-0"', '"0.0"', '"000"'), 0),
    "10^16": (("10000000000000000", "1e16", '"1e+16"', '"1E16"'), 10**16),
}
FRACTIONS: dict[str, tuple[tuple[str, ...], float]] = {
    "half": (("0.5", "5e-1", "0.50", '"0.5"', '".5"', '" +00.5"', '"5E-1"'), 0.5),
    "just below": (("2.4999", '"2.4999"', '"24999e-4"'), 2.4999),
}
NO_INTEGERS = ('"x"', '"1_0"', '"٣"', '"0x1"', '"nan"', "1.5", '"1.5"', "true", '"true"', "[1]", f'"{2**63}"')
NO_FLOATS = ('"x"', '"1_0"', '"٣"', '"nan"', '"inf"', '"1e999"', "false", '"False"', "[1.5]", '"--1"')


def key_of(text: str | None, field: str = "c") -> int:
    """The documented key, from another implementation of the hash."""
    data = b"\0" if text is None else b"\1" + text.encode()
    return xxhash.xxh64_intdigest(data, xxhash.xxh64_intdigest(field.encode()))


def logged(features: str) -> bytes:
    return f'{{"v":1,"event_id":"e","ts_ms":5,"features":{features}}}'.encode()


def of_record(value: bytes) -> list[int]:
    """Keys of a record, on which the full decoder and the compiled scan must agree."""
    record = RecordDecoder().impression(value)
    keys = ENCODER.peek_keys(record.features).tolist()
    ((_, _, row),) = BatchDecoder(RecordDecoder(), SCANNER).decode(
        [Entry("impressions", 0, 0, -1, None, value)]
    )
    assert row is None or ENCODER.complete(row, observe=False).tolist() == keys
    return [int(key) for key in keys]


def of_ranking(features: str) -> list[int]:
    """Keys of a candidate alone and as one of two, and of a context; they must agree."""
    alone, two, context = (
        decode_request(f'{{"user":"u",{body}}}'.encode(), 10)
        for body in (
            f'"candidates":[{{"features":{features}}}]',
            f'"candidates":[{{"features":{features}}},{{}}]',
            f'"features":{features},"candidates":[{{}},{{}}]',
        )
    )
    keys = [
        ENCODER.peek_request_keys(request.features, [each.features for each in request.candidates])[
            0
        ].tolist()
        for request in (alone, two, context)
    ]
    assert keys[0] == keys[1] == keys[2]
    shown = Impression(v=1, event_id="e", ts_ms=5, features=alone.candidates[0].features)
    assert of_record(msgspec.json.encode(shown)) == keys[0]
    return [int(key) for key in keys[0]]


def of_tensor(name: str, written: str) -> list[int]:
    """Keys of a row of one tensor with the value's datatype."""
    value = json.loads(written)
    datatype = {str: "BYTES", bool: "BOOL", int: "INT64", float: "FP64", type(None): "BYTES"}[type(value)]
    body = {"name": name, "shape": [1], "datatype": datatype, "data": [value]}
    tensor = msgspec.json.decode(msgspec.json.encode(body), type=InferInput)
    keys = [int(key) for key in ENCODER.peek_keys(features_of([tensor], FIELDS, 5)[0])]
    if value is not None:
        text = str(value).encode()
        data = len(text).to_bytes(4, "little") + text
        if not isinstance(value, str):
            data = np.array(value, DTYPES[datatype]).tobytes()
        parameters = {"binary_data_size": len(data)}
        binary = InferInput(name, [1], cast("Datatype", datatype), parameters=parameters)
        attach([binary], data)
        assert ENCODER.peek_keys(features_of([binary], FIELDS, 5)[0]).tolist() == keys
    return keys


def of_example(example: Example) -> list[int]:
    """Keys of an example, encoded directly and through the log."""
    keys = ENCODER.peek_keys(example.features).tolist()
    assert of_record(Happening(5, "e", example).value()) == keys
    return [int(key) for key in keys]


def read(folder: Path, reader: str, text: str, missing: str = '[""]') -> Iterator[Example]:
    fields = ", ".join(f'{{name = "{each.name}", kind = "{each.kind}"}}' for each in FIELDS)
    schema = write(folder / "schema.toml", f'label = "y"\nmissing = {missing}\nfields = [{fields}]\n')
    path = write(folder / "data", text)
    return open_dataset(reader, path, {"schema": str(schema)}).read(path)


def csv_of(cells: list[dict[str, str]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, ["y", "c", "m", "i", "f"], restval="")
    writer.writeheader()
    writer.writerows({"y": "0", **row} for row in cells)
    return text.getvalue()


@pytest.mark.parametrize("name", VALUES)
def test_a_categorical_value_has_one_key(name: str, tmp_path: Path) -> None:
    value = VALUES[name]
    due = key_of(value.text)
    for written in value.written:
        features = f'{{"c":{written}}}'
        assert of_record(logged(features))[CATEGORICAL] == due, written
        assert of_ranking(features)[CATEGORICAL] == due, written
        assert of_tensor("c", written)[CATEGORICAL] == due, written
    rows = "".join(f'{{"y":0,"c":{written}}}\n' for written in value.written)
    for example in read(tmp_path, "jsonl", rows):
        assert of_example(example)[CATEGORICAL] == due
    for example in read(tmp_path, "delimited", csv_of([{"c": cell} for cell in value.cells])):
        assert of_example(example)[CATEGORICAL] == due


@pytest.mark.parametrize("name", VALUES)
def test_a_value_of_a_list_has_one_key(name: str, tmp_path: Path) -> None:
    value = VALUES[name]
    due = key_of(value.text, "m")
    rows = []
    for written in value.written:
        for listed in (f"[{written}]", f'[null,{written},"",{written}]'):
            features = f'{{"m":{listed}}}'
            assert of_record(logged(features))[MULTI : MULTI + 2] == [due, 0], written
            assert of_ranking(features)[MULTI : MULTI + 2] == [due, 0], written
            rows.append(f'{{"y":0,"m":{listed}}}\n')
        assert of_tensor("m", written)[MULTI : MULTI + 2] == [due, 0], written
    for example in read(tmp_path, "jsonl", "".join(rows)):
        assert of_example(example)[MULTI : MULTI + 2] == [due, 0]
    cells = [{"m": cell} for each in value.cells for cell in (each, f"{each}|{each}|")]
    for example in read(tmp_path, "delimited", csv_of(cells)):
        assert of_example(example)[MULTI : MULTI + 2] == [due, 0]


@pytest.mark.parametrize("datatype", ["FP16", "FP32", "FP64"])
@pytest.mark.parametrize("number", [0.1, 3.0, -0.0])
def test_a_tensor_of_fewer_digits_has_the_key_of_the_number_that_it_holds(
    datatype: Literal["FP16", "FP32", "FP64"], number: float
) -> None:
    held = np.array([number], DTYPES[datatype])
    inputs = [
        InferInput("c", [1], datatype, held.tolist()),
        InferInput("m", [1], datatype, parameters={"binary_data_size": held.nbytes}),
    ]
    attach(inputs, held.tobytes())
    text = f"{number:g}".removeprefix("-")
    keys = ENCODER.peek_keys(features_of(inputs, FIELDS, 5)[0]).tolist()
    assert (keys[CATEGORICAL], keys[MULTI]) == (key_of(text), key_of(text, "m"))


@pytest.mark.parametrize("name", VALUES)
def test_a_value_of_a_raw_dict_has_its_canonical_bytes(name: str) -> None:
    """In a raw dict the type marks numbers; texts, booleans and list elements follow the common rules."""
    value = VALUES[name]
    due = None if value.text is None else [b"\1" + value.text.encode()]
    encoder = DictEncoder(fields=2, max_values=2, buckets=4)
    for written in (*value.written, *map(json.dumps, value.cells)):
        found = json.loads(written)
        assert encoder.parse({"x": [found]}).get("x") == due, written
        if not isinstance(found, (int, float)) or isinstance(found, bool):
            assert encoder.parse({"x": found}).get("x") == due, written


def readers_of(cell: str, folder: Path) -> Iterator[tuple[str, Example]]:
    """The public datasets with that cell in a categorical column, and the field's name."""
    path = write(folder / "train.txt", criteo_line(first=cell))
    yield "C1", next(iter(Criteo().read(path)))
    path = write(folder / "train.csv", f"{AVAZU_HEADER}\r\n{avazu_line('1', device=cell)}")
    yield "device_id", next(iter(Avazu().read(path)))
    if cell:
        rows = f"501,1494137644,11,{cell},1,0\n"
        yield "pid", next(iter(Taobao().read(taobao_folder(folder / "taobao", rows))))
    row = f"2019-11-24 00:00:34+00:00,1,3,1,0.0125,{cell},ub,uc,ud,7.0,2.0"
    yield "user_feature_0", next(iter(OpenBandit().read(open_bandit_folder(folder / "bandit", [row]))))


@pytest.mark.parametrize("name", VALUES)
def test_a_cell_of_a_public_dataset_has_its_canonical_key(name: str, tmp_path: Path) -> None:
    value = VALUES[name]
    for number, cell in enumerate(value.cells):
        for field, example in readers_of(cell, tmp_path / str(number)):
            encoder = KeyEncoder((FieldConfig(field),), "ignore")
            assert int(encoder.keys(example.features)[0]) == key_of(value.text, field), (field, cell)


def test_integers_of_criteo_have_their_canonical_keys(tmp_path: Path) -> None:
    lines = "".join(criteo_line(integers={1: cell}) for cell in ("3", "3.0", "+3", " 03", "3e0"))
    assert [each.features["I1"] for each in Criteo().read(write(tmp_path / "train.txt", lines))] == [3] * 5


def test_side_tables_are_joined_whatever_the_notation_of_the_ids(tmp_path: Path) -> None:
    folder = taobao_folder(tmp_path, "501.0,1494137644,11.0,p,1,0\n501,1494137644,11,p,1,0\n")
    one, other = Taobao().read(folder)
    assert one == other._replace(event_id=one.event_id)
    assert one.features["cate_id"] == "61"


@pytest.mark.parametrize("kind", ["i", "f"])
@pytest.mark.parametrize("name", [*NUMBERS, *FRACTIONS])
def test_a_number_of_a_numeric_field_has_one_key(name: str, kind: str, tmp_path: Path) -> None:
    forms, number = (NUMBERS | FRACTIONS)[name]
    if name in FRACTIONS and kind == "i":
        return
    slot = INTEGER if kind == "i" else FLOAT
    due = int(ENCODER.peek_keys({kind: int(number) if kind == "i" else number})[slot])
    for written in forms:
        features = f'{{"{kind}":{written}}}'
        assert of_record(logged(features))[slot] == due, written
        assert of_ranking(features)[slot] == due, written
        assert of_tensor(kind, written)[slot] == due, written
    rows = "".join(f'{{"y":0,"{kind}":{written}}}\n' for written in forms)
    for example in read(tmp_path, "jsonl", rows):
        assert of_example(example)[slot] == due
    for example in read(tmp_path, "delimited", csv_of([{kind: str(json.loads(form))} for form in forms])):
        assert of_example(example)[slot] == due


@pytest.mark.parametrize("name", ["c", "m", "i", "f"])
def test_a_missing_value_has_one_key_in_every_kind_of_field(name: str, tmp_path: Path) -> None:
    absent = [int(key) for key in ENCODER.peek_keys({})]
    for written in ("null", '""', *(["[]", "[null]", '["",null]'] if name == "m" else [])):
        features = f'{{"{name}":{written}}}'
        assert of_record(logged(features)) == of_ranking(features) == absent
    assert of_tensor(name, "null") == of_tensor(name, '""') == absent
    for example in read(
        tmp_path, "jsonl", f'{{"y":0,"{name}":null}}\n{{"y":0}}\n{{"y":0,"{name}":"NA"}}\n', '["NA"]'
    ):
        assert of_example(example) == absent
    for example in read(tmp_path, "delimited", csv_of([{name: ""}, {name: "NA"}]), '["NA"]'):
        assert of_example(example) == absent


@pytest.mark.parametrize(
    ("kind", "written"), [("i", each) for each in NO_INTEGERS] + [("f", each) for each in NO_FLOATS]
)
def test_a_value_that_is_not_a_number_is_rejected_everywhere(kind: str, written: str, tmp_path: Path) -> None:
    features = f'{{"{kind}":{written}}}'
    with pytest.raises(RecordError, match=f"field '{kind}'"):
        of_record(logged(features))
    with pytest.raises(RecordError, match=f"field '{kind}'"):
        of_ranking(features)
    if not written.startswith("["):
        with pytest.raises((RecordError, ApiError)):
            of_tensor(kind, written)
    with pytest.raises(DataError, match=f"column {kind}"):
        list(read(tmp_path, "jsonl", f'{{"y":0,"{kind}":{written}}}\n'))
    with pytest.raises(DataError, match=f"column {kind}"):
        list(read(tmp_path, "delimited", csv_of([{kind: str(json.loads(written))}])))


def test_a_pandas_frame_has_one_key_in_every_file_format(tmp_path: Path) -> None:
    """pandas stores a column of whole numbers with gaps as floats, and one of booleans with gaps as
    objects."""
    frame = pd.DataFrame(
        {
            "y": [0, 1, 0, 1],
            "c": [3, None, 10**16, 7],
            "m": [True, False, None, True],
            "i": [3, None, 120, 7],
            "f": [0.1, None, 2.0, 1e-7],
        }
    )
    assert "3.0" in frame.to_csv(index=False)
    from_csv = list(read(tmp_path, "delimited", frame.to_csv(index=False)))
    lists = frame.assign(m=[[True], [False], None, [True]])
    from_json = list(read(tmp_path, "jsonl", lists.to_json(orient="records", lines=True)))
    sent: list[dict[str, FeatureValue]] = [
        {"c": 3, "m": [True], "i": 3, "f": 0.1},
        {"m": [False]},
        {"c": 10**16, "i": 120, "f": 2},
        {"c": "7", "m": ["true"], "i": 7, "f": 1e-7},
    ]
    due = ENCODER.peek_keys_many(sent)
    np.testing.assert_array_equal([of_example(each) for each in from_csv], due)
    np.testing.assert_array_equal([of_example(each) for each in from_json], due)
    np.testing.assert_array_equal([of_ranking(json.dumps(each)) for each in sent], due)
