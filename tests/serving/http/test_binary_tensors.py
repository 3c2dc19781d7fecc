"""Triton's binary tensors: the same answers as with JSON, and robustness against any bytes."""

from __future__ import annotations

import json
import struct
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.served_arms import Json, Served, constant, publish

LENGTH = "inference-header-content-length"
FORMATS = {
    "INT8": "b", "INT16": "h", "INT32": "i", "INT64": "q", "UINT8": "B", "UINT16": "H", "UINT32": "I",
    "UINT64": "Q", "FP16": "e", "FP32": "f", "FP64": "d", "BOOL": "?",
}  # fmt: skip


def packed(datatype: str, values: list[Any]) -> bytes:
    """The data of a tensor as the extension describes them, by the standard library alone."""
    if datatype == "BYTES":
        texts = [value if isinstance(value, bytes) else value.encode() for value in values]
        return b"".join(struct.pack("<I", len(text)) + text for text in texts)
    return struct.pack(f"<{len(values)}{FORMATS[datatype]}", *values)


def binary(name: str, datatype: str, values: list[Any], shape: list[int] | None = None) -> tuple[Json, bytes]:
    data = packed(datatype, values)
    tensor = {"name": name, "shape": shape or [len(values)], "datatype": datatype}
    return tensor | {"parameters": {"binary_data_size": len(data)}}, data


def plain(name: str, datatype: str, values: list[Any], shape: list[int] | None = None) -> tuple[Json, bytes]:
    return {"name": name, "shape": shape or [len(values)], "datatype": datatype, "data": values}, b""


def ask(served: Served, *tensors: tuple[Json, bytes], **more: Any) -> httpx.Response:
    """As tritonclient does: no Content-Type, and a header as soon as any tensor is binary."""
    head = json.dumps({"inputs": [tensor for tensor, _ in tensors], **more}).encode()
    data = b"".join(data for _, data in tensors)
    return send(served, head + data, {LENGTH: str(len(head))} if data else {})


def send(served: Served, body: bytes, headers: dict[str, str]) -> httpx.Response:
    return served.run(lambda client: client.post("/v2/models/control/infer", content=body, headers=headers))


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Served:
    state = tmp_path_factory.mktemp("state")
    publish(state, "control")
    publish(state, "new", constant(0.25))
    return Served(state)


COLUMNS: list[tuple[str, str, list[Any], list[int]]] = [
    ("site", "BYTES", ["news", "sport", "né"], [3]),
    ("tags", "BYTES", ["a", "b", "c", "", "", ""], [3, 2]),
    ("age", "INT64", [31, -5, 70], [3, 1]),
    ("price", "FP32", [0.5, 5.0, 50.0], [3]),
]


def test_binary_and_json_tensors_give_equal_answers_in_any_mixture(served: Served) -> None:
    expected = ask(served, *(plain(*column) for column in COLUMNS)).json()["outputs"][0]["data"]
    assert len(set(expected)) == 3
    for chosen in range(1, 2 ** len(COLUMNS)):
        ways = [binary if chosen >> n & 1 else plain for n in range(len(COLUMNS))]
        answer = ask(served, *(way(*column) for way, column in zip(ways, COLUMNS, strict=True)))
        assert answer.status_code == 200, answer.text
        assert answer.json()["outputs"][0]["data"] == expected


@pytest.mark.parametrize("datatype", [name for name in FORMATS if name != "BOOL"])
def test_every_datatype_of_numbers(served: Served, datatype: str) -> None:
    values: list[Any] = [1.0, 7.0, 120.0] if datatype.startswith("FP") else [1, 7, 120]
    answers = [ask(served, way("age", datatype, values)) for way in (plain, binary)]
    assert [answer.status_code for answer in answers] == [200, 200]
    assert answers[0].content == answers[1].content


def test_a_nan_is_a_missing_value_and_a_marker_holds_for_bytes(served: Served) -> None:
    nan = ask(served, binary("price", "FP64", [float("nan"), 5.0]), plain("site", "BYTES", ["a", "a"]))
    null = ask(served, plain("price", "FP64", [None, 5.0]), plain("site", "BYTES", ["a", "a"]))
    assert nan.content == null.content
    tensor, data = binary("tags", "BYTES", ["a", "-", "-", "-"], [2, 2])
    tensor["parameters"]["missing"] = "-"
    marked = ask(served, (tensor, data))
    assert marked.content == ask(served, plain("tags", "BYTES", ["a", None, None, None], [2, 2])).content


@pytest.mark.parametrize(
    ("more", "as_bytes"),
    [
        ({}, False),
        ({"parameters": {"binary_data_output": True}}, True),
        ({"outputs": [{"name": "p", "parameters": {"binary_data": True}}]}, True),
        ({"outputs": [{"name": "p"}], "parameters": {"binary_data_output": True}}, True),
        ({"outputs": [{"name": "p", "parameters": {"binary_data": False}}],
          "parameters": {"binary_data_output": True}}, False),
    ],
)  # fmt: skip
def test_outputs_have_the_requested_encoding(served: Served, more: Json, as_bytes: bool) -> None:
    column = ("site", "BYTES", ["news", "sport", "x"])
    expected = ask(served, plain(*column)).json()["outputs"][0]["data"]
    for way in (plain, binary):
        answer = ask(served, way(*column), id="7", **more)
        assert answer.status_code == 200
        head = int(answer.headers.get(LENGTH, len(answer.content)))
        content = json.loads(answer.content[:head])
        output, rest = content["outputs"][0], answer.content[head:]
        assert (content["id"], output["shape"], output["datatype"]) == ("7", [3], "FP32")
        if as_bytes:
            assert answer.headers["content-type"] == "application/octet-stream"
            assert (output["parameters"], "data" in output) == ({"binary_data_size": len(rest)}, False)
            assert list(struct.unpack("<3f", rest)) == expected
        else:
            assert answer.headers["content-type"] == "application/json"
            assert (output["data"], rest, LENGTH in answer.headers) == (expected, b"", False)


def changed(tensor: tuple[Json, bytes], behind: bytes = b"", **changes: Any) -> tuple[Json, bytes]:
    return {**tensor[0], **changes}, tensor[1] + behind


SITE = binary("site", "BYTES", ["news"])
BAD: list[tuple[list[tuple[Json, bytes]], str]] = [
    ([changed(SITE, b"x")], "9 bytes follow the JSON, but the inputs' binary_data_size add up to 8"),
    ([changed(SITE, parameters={"binary_data_size": 9})], "has binary_data_size 9, but only 8 bytes remain"),
    ([changed(SITE, parameters={"binary_data_size": -1})], "must be a number of bytes, got '-1'"),
    ([changed(SITE, parameters={"binary_data_size": True})], "must be a number of bytes, got 'True'"),
    ([changed(SITE, parameters={"binary_data_size": 8.0})], "must be a number of bytes, got '8.0'"),
    ([changed(SITE, data=["news"])], "has both data and binary_data_size"),
    ([changed(SITE, parameters={})], "has no data"),
    ([changed(SITE, shape=[2])], "has 1 elements; its shape [2] has 2"),
    ([changed(SITE, shape=[0])], "has more than 0 elements"),
    ([changed(SITE, shape=[-1])], "shape"),
    ([changed(SITE, shape=[10**9, 10**9, 10**9])], "shape"),
    ([changed(SITE, datatype="INT64", shape=[2])], "has 8 bytes; shape [2] of INT64 needs 16"),
    ([changed(SITE, datatype="BF16")], "BF16"),
    ([changed(SITE, parameters={"shared_memory_region": "r"})], "shared memory"),
    ([binary("site", "BYTES", [b"\xff"])], "element 0 is not valid UTF-8"),
    ([({**SITE[0], "parameters": {"binary_data_size": 3}}, b"\x04\0\0")], "element 0 ends beyond"),
    ([({**SITE[0], "parameters": {"binary_data_size": 5}}, b"\x04\0\0\0n")], "element 0 ends beyond"),
    ([binary("age", "FP32", [float("inf")])], "age"),
    ([binary("age", "BOOL", [True])], "whole number"),
]  # fmt: skip


@pytest.mark.parametrize(("tensors", "text"), BAD, ids=range(len(BAD)))
def test_bad_tensors_get_one_line(served: Served, tensors: list[tuple[Json, bytes]], text: str) -> None:
    answer = ask(served, *tensors)
    assert (answer.status_code, answer.json().keys()) == (400, {"error"}), answer.text
    assert text in answer.json()["error"]
    assert "\n" not in answer.json()["error"]


@pytest.mark.parametrize("length", ["", "-1", "1e2", "0x10", "9" * 30, "99999", " "])
def test_a_header_that_is_not_a_length_within_the_body_is_rejected(served: Served, length: str) -> None:
    answer = send(served, json.dumps({"inputs": [SITE[0]]}).encode() + SITE[1], {LENGTH: length})
    assert answer.status_code == 400
    assert "Inference-Header-Content-Length" in answer.json()["error"]


def test_without_the_header_the_answer_says_what_to_set(served: Served) -> None:
    answer = send(served, json.dumps({"inputs": [SITE[0]]}).encode(), {})
    assert answer.status_code == 400
    assert "binary_data=False" in answer.json()["error"]


def test_the_extension_is_announced(served: Served) -> None:
    assert served.get("/v2").json()["extensions"] == ["binary_tensor_data"]


def test_the_limit_of_rows_holds(served: Served) -> None:
    assert ask(served, binary("age", "INT8", [1] * 1001)).status_code == 422


FUZZED = st.fixed_dictionaries(
    {
        "name": st.sampled_from(["site", "tags", "age", "price"]),
        "shape": st.lists(st.integers(-1, 4) | st.integers(), max_size=3),
        "datatype": st.sampled_from([*FORMATS, "BYTES"]),
    },
    optional={
        "data": st.lists(st.none() | st.integers() | st.text(max_size=3), max_size=3),
        "parameters": st.none()
        | st.fixed_dictionaries(
            {}, optional={"binary_data_size": st.integers(-2, 20) | st.integers() | st.text(max_size=2)}
        ),
    },
)


@given(
    st.lists(FUZZED, max_size=3),
    st.binary(max_size=30) | st.lists(st.binary(max_size=4)).map(lambda texts: packed("BYTES", texts)),
    st.none() | st.integers(-3, 3) | st.text("0123456789-x", max_size=25),
    st.sampled_from(["", "application/octet-stream", "application/json"]),
)
@settings(max_examples=200, deadline=None)
def test_no_binary_request_crashes_the_server(
    served: Served, inputs: list[Json], data: bytes, length: int | str | None, kind: str
) -> None:
    head = json.dumps({"inputs": inputs, "parameters": {"binary_data_output": True}}).encode()
    headers = {"content-type": kind}
    if length is not None:
        headers[LENGTH] = str(len(head) + length) if isinstance(length, int) else length
    answer = send(served, head + data, headers)
    assert answer.status_code in (200, 400, 422)
    if answer.status_code == 200:
        content = json.loads(answer.content[: int(answer.headers[LENGTH])])
        assert content["outputs"][0]["shape"] == inputs[0]["shape"][:1]
    else:
        assert answer.json().keys() == {"error"}


def test_any_truncation_of_a_valid_request_is_rejected_or_answered(served: Served) -> None:
    head = json.dumps({"inputs": [SITE[0]]}).encode()
    body = head + SITE[1]
    codes = {send(served, body[:stop], {LENGTH: str(len(head))}).status_code for stop in range(len(body))}
    assert codes == {400}
