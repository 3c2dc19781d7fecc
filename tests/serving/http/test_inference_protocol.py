"""The Open Inference Protocol: its objects, how columns become features, and its errors."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_ctr.config.serve import ServeConfig
from stream_ctr.predictors.predictor import Predictor
from stream_ctr.predictors.reader import load_snapshot
from stream_ctr.predictors.snapshot import path_of
from stream_ctr.serving.routing.arm_predictors import SNAPSHOTS
from tests.support.served_arms import (
    CANDIDATE,
    CONTEXT,
    USERS,
    Json,
    Served,
    constant,
    not_a_number,
    publish,
    request,
    sample,
    serve_unchecked,
)


@pytest.fixture
def served(tmp_path: Path) -> Served:
    publish(tmp_path, "control")
    publish(tmp_path, "new", constant(0.25))
    return Served(tmp_path)


def tensor(name: str, data: list[Any], datatype: str = "BYTES", **changes: Any) -> Json:
    return {"name": name, "shape": [len(data)], "datatype": datatype, "data": data, **changes}


def infer(served: Served, body: Any, model: str = "control", **options: Any) -> httpx.Response:
    path = f"/v2/models/{model}/infer"
    if isinstance(body, bytes):
        headers = {"content-type": "application/json"}
        return served.run(lambda client: client.post(path, content=body, headers=headers))
    return served.run(lambda client: client.post(path, json=body, **options))


COLUMNS: list[Json] = [
    tensor("site", ["news", "sport", "never seen"]),
    {"name": "tags", "shape": [3, 2], "datatype": "BYTES", "data": ["a", "b", "c", None, None, None]},
    tensor("age", [31, None, 70], "INT64"),
    tensor("price", [0.5, 5, 50.0], "FP64"),
]
ROWS: list[Json] = [
    {"site": "news", "tags": ["a", "b"], "age": 31, "price": 0.5},
    {"site": "sport", "tags": ["c"], "price": 5},
    {"site": "never seen", "age": 70, "price": 50.0},
]


def expected(state: Path, rows: list[Json]) -> list[float]:
    predictor = Predictor(load_snapshot(path_of(state / "control" / SNAPSHOTS, 1)))
    return [float(predictor.probabilities(predictor.encode([row]))[0]) for row in rows]


def test_columns_are_predicted_row_by_row(served: Served, tmp_path: Path) -> None:
    answer = infer(
        served, {"id": "42", "inputs": COLUMNS, "parameters": {"x": 1}, "outputs": [{"name": "p"}]}
    )
    assert answer.status_code == 200
    assert answer.json() == {
        "model_name": "control",
        "model_version": "1",
        "id": "42",
        "outputs": [{"name": "p", "datatype": "FP32", "shape": [3], "data": expected(tmp_path, ROWS)}],
    }


def test_a_ranking_and_an_inference_give_equal_probabilities(served: Served) -> None:
    ranked = served.rank(request(USERS["control"])).json()["candidates"][0]["p"]
    row = {**CONTEXT, **CANDIDATE["features"]}
    inputs = [
        tensor("site", [row["site"]]),
        {"name": "tags", "shape": [1, 2], "datatype": "BYTES", "data": row["tags"]},
        tensor("age", [row["age"]], "INT32"),
        tensor("price", [row["price"]], "FP32"),
    ]
    assert infer(served, {"inputs": inputs}).json()["outputs"][0]["data"] == [ranked]


def test_inference_logs_no_exposure(served: Served) -> None:
    assert infer(served, {"inputs": COLUMNS}).status_code == 200
    assert served.kept.records == []
    text = served.get("/metrics").text
    assert sample(text, "stream_ctr_serve_infer_requests_total", code="200", model="control") == 1
    assert sample(text, "stream_ctr_serve_predictions_total", arm="control") == 3


@pytest.mark.parametrize(
    "inputs",
    [
        [{**item, "shape": [3, 1]} if len(item["shape"]) == 1 else item for item in COLUMNS],
        [{**item, "shape": [3, 1], "data": [[x] for x in item["data"]]} if item["name"] != "tags" else item
         for item in COLUMNS],
        [COLUMNS[0], {**COLUMNS[1], "data": [["a", "b"], ["c", None], [None, None]]}, *COLUMNS[2:]],
        [*COLUMNS[:2], tensor("age", [31, -1, 70], "INT16", parameters={"missing": -1}), COLUMNS[3]],
        [*COLUMNS[:2], tensor("age", [31.0, None, 70.0], "FP64"), COLUMNS[3]],
        [COLUMNS[0],
         {**COLUMNS[1], "data": ["a", "b", "", "c", "", ""], "parameters": {"missing": ""}}, *COLUMNS[2:]],
        [{**item, "parameters": None, "odd": 1} for item in reversed(COLUMNS)],
        [*COLUMNS[:2], tensor("age", ["31.0", "", "+70"]), COLUMNS[3]],
    ],
    ids=["two dimensions", "nested", "nested lists", "marker", "floats", "text marker", "order", "texts"],
)  # fmt: skip
def test_the_same_columns_may_be_written_in_several_ways(
    served: Served, tmp_path: Path, inputs: list[Json]
) -> None:
    answer = infer(served, {"inputs": inputs, "id": None, "outputs": [], "model_name": "control"})
    assert answer.status_code == 200, answer.text
    assert "id" not in answer.json()
    assert answer.json()["outputs"][0]["data"] == expected(tmp_path, ROWS)


def test_a_missing_column_equals_a_column_of_nulls(served: Served, tmp_path: Path) -> None:
    inputs = [tensor("site", ["news"]), tensor("tags", [None]), tensor("price", [None], "FP64")]
    found = infer(served, {"inputs": inputs}).json()["outputs"][0]["data"]
    assert found == expected(tmp_path, [{"site": "news"}])
    assert found != expected(tmp_path, [{"site": "news", "tags": ["a"]}]), "the field matters at all"


def test_the_metadata_describe_valid_inference_inputs(served: Served, tmp_path: Path) -> None:
    metadata = served.get("/v2/models/control").json()
    assert metadata["name"] == "control"
    assert metadata["versions"] == ["1"]
    assert metadata["platform"] == "stream-ctr_snapshot"
    assert metadata["outputs"] == [{"name": "p", "datatype": "FP32", "shape": [-1]}]
    assert metadata["inputs"] == [
        {"name": "site", "datatype": "BYTES", "shape": [-1]},
        {"name": "tags", "datatype": "BYTES", "shape": [-1, -1]},
        {"name": "age", "datatype": "INT64", "shape": [-1]},
        {"name": "price", "datatype": "FP64", "shape": [-1]},
    ]
    values = {"BYTES": "a", "INT64": 7, "FP64": 2.5}
    inputs = [
        {**item, "shape": [2 if n == 0 else 1 for n in range(len(item["shape"]))],
         "data": [values[item["datatype"]]] * 2}
        for item in metadata["inputs"]
    ]  # fmt: skip
    assert infer(served, {"inputs": inputs}).json()["outputs"][0]["shape"] == [2]


def test_health_server_and_versions(served: Served, tmp_path: Path) -> None:
    assert served.get("/v2").json().keys() == {"name", "version", "extensions"}
    assert served.get("/v2").json()["name"] == "stream-ctr"
    assert served.get("/v2/health/live").json() == {"live": True}
    assert served.get("/v2/health/ready").json() == {"live": True, "ready": True}
    assert served.get("/v2/models/new/ready").json() == {"name": "new", "ready": True}
    assert served.get("/v2/models/new/versions/1").json() == served.get("/v2/models/new").json()
    assert served.get("/v2/models/new/versions/1/ready").status_code == 200
    assert infer(served, {"inputs": COLUMNS}, "new/versions/1").json()["outputs"][0]["data"] == [0.25] * 3
    publish(tmp_path, "new", constant(0.75))
    served.arms.poll()
    assert served.get("/v2/models/new").json()["versions"] == ["2"]
    for path in ("", "/ready"):
        gone = served.get(f"/v2/models/new/versions/1{path}")
        assert (gone.status_code, gone.json().keys()) == (404, {"error"})
    assert infer(served, {"inputs": COLUMNS}, "new/versions/1").status_code == 404
    assert infer(served, {"inputs": COLUMNS}, "new").json()["model_version"] == "2"


def test_unknown_models_and_versions_are_404(served: Served) -> None:
    for path in (
        "other",
        "other/ready",
        "control/versions/9",
        "control/versions/1/x",
        "control/versions//ready",
    ):
        answer = served.get(f"/v2/models/{path}")
        assert (answer.status_code, answer.json().keys()) == (404, {"error"}), path
    for path in ("/v2/models", "/v2/models/"):
        answer = served.get(path)
        assert (answer.status_code, answer.json().keys()) == (404, {"error"}), path
    assert "control, new" in served.get("/v2/models/other").json()["error"]
    wrong = served.get("/v2/models/control/infer")
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")


def test_a_model_without_snapshot_is_not_ready(tmp_path: Path) -> None:
    publish(tmp_path, "control", constant(0.5))
    served = Served(tmp_path)
    ready = served.get("/v2/health/ready")
    assert (ready.status_code, ready.json()["ready"]) == (503, False)
    assert "arm new" in ready.json()["error"]
    model = served.get("/v2/models/new/ready")
    assert (model.status_code, model.json()["ready"], model.json()["name"]) == (503, False, "new")
    for answer in (infer(served, {"inputs": COLUMNS}, "new"), served.get("/v2/models/new")):
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert served.get("/v2/models/control/ready").status_code == 200
    assert infer(served, {"inputs": COLUMNS}).status_code == 200


def test_a_model_with_non_finite_predictions_is_503(tmp_path: Path) -> None:
    served = Served(tmp_path)
    serve_unchecked(served, tmp_path, "control", not_a_number())
    answer = infer(served, {"inputs": COLUMNS})
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert "not finite" in answer.json()["error"]
    text = served.get("/metrics").text
    assert sample(text, "stream_ctr_serve_non_finite_predictions_total", arm="control") == 1


BAD: list[tuple[Any, int, str]] = [
    (b"", 400, "malformed"),
    (b"[]", 400, "object"),
    (b'{"inputs": [{"name": "\xff"}]}', 400, "UTF-8"),
    (b'{"inputs": [{"name": "site", "shape": [1], "datatype": "BYTES", "data": ' + b"[" * 100_000, 400, ""),
    ({}, 400, "inputs"),
    ({"inputs": []}, 400, "empty"),
    ({"inputs": [tensor("site", ["a"], "TEXT")]}, 400, "TEXT"),
    ({"inputs": [tensor("site", [1, 2])]}, 400, "BYTES"),
    ({"inputs": [tensor("age", ["1"], "INT64")]}, 400, "INT64"),
    ({"inputs": [tensor("age", [1.5], "INT64")]}, 400, "INT64"),
    ({"inputs": [tensor("age", [True], "INT64")]}, 400, "INT64"),
    ({"inputs": [tensor("age", [128], "INT8")]}, 400, "INT8"),
    ({"inputs": [tensor("age", [-1], "UINT64")]}, 400, "UINT64"),
    ({"inputs": [tensor("age", [1.5], "FP64")]}, 400, "whole number"),
    ({"inputs": [tensor("age", ["1.5"])]}, 400, "whole number"),
    ({"inputs": [tensor("age", [True], "BOOL")]}, 400, "whole number"),
    ({"inputs": [tensor("price", ["1"], "FP64")]}, 400, "FP64"),
    ({"inputs": [tensor("site", [1], "BOOL")]}, 400, "BOOL"),
    ({"inputs": [tensor("tags", [True], "INT64")]}, 400, "INT64"),
    ({"inputs": [tensor("sight", ["a"])]}, 400, "'site'"),
    ({"inputs": [tensor("site", ["a"]), tensor("site", ["a"])]}, 400, "duplicate"),
    ({"inputs": [tensor("site", ["a"]), tensor("age", [1, 2], "INT64")]}, 400, "rows"),
    ({"inputs": [tensor("site", ["a"], shape=[2])]}, 400, "elements"),
    ({"inputs": [tensor("site", ["a"], shape=[])]}, 400, "shape"),
    ({"inputs": [tensor("site", ["a"], shape=[1, 1, 1])]}, 400, "shape"),
    ({"inputs": [tensor("site", ["a"], shape=[-1])]}, 400, "shape"),
    ({"inputs": [tensor("site", ["a", "b"], shape=[1, 2])]}, 400, "one value"),
    ({"inputs": [tensor("tags", [["a"], ["b", "c"]], shape=[2, 2])]}, 400, "nested"),
    ({"inputs": [tensor("site", [["a"]], shape=[1])]}, 400, "nested"),
    ({"inputs": [tensor("site", [["a"], "b"], shape=[2, 1])]}, 400, "nested"),
    ({"inputs": [tensor("site", ["a", ["b"]], shape=[2])]}, 400, "BYTES"),
    ({"inputs": [tensor("site", ["\ud800"])]}, 400, ""),
    ({"inputs": COLUMNS, "outputs": [{"name": "q"}]}, 400, "'p'"),
    ({"inputs": [tensor("site", [])]}, 422, "no rows"),
    ({"inputs": [tensor("site", ["a"] * 6)]}, 422, "5"),
]


@pytest.mark.parametrize(("body", "status", "text"), BAD, ids=range(len(BAD)))
def test_bad_requests_get_one_line_that_says_why(tmp_path: Path, body: Any, status: int, text: str) -> None:
    publish(tmp_path, "control")
    served = Served(tmp_path, serve=ServeConfig(max_candidates=5))
    answer = infer(served, body if isinstance(body, bytes) else json.dumps(body).encode())
    assert answer.status_code == status
    assert answer.json().keys() == {"error"}
    assert text in answer.json()["error"]
    assert "\n" not in answer.json()["error"]
    metrics = served.get("/metrics").text
    assert sample(metrics, "stream_ctr_serve_infer_requests_total", code=str(status), model="") == 1


def test_the_limits_are_those_of_rankings(tmp_path: Path) -> None:
    publish(tmp_path, "control", constant(0.5))
    served = Served(tmp_path, serve=ServeConfig(max_body_bytes=400, max_waiting=4))
    assert infer(served, b" " * 401).status_code == 413
    assert (
        infer(served, json.dumps({"inputs": COLUMNS}), headers={"content-type": "text/plain"}).status_code
        == 415
    )

    async def crowd(client: httpx.AsyncClient) -> list[int]:
        rank = [client.post("/v1/rank", json={"user": "u", "candidates": [{}]}) for _ in range(10)]
        body = {"inputs": [tensor("site", ["a"])]}
        mixed = [*rank, *(client.post("/v2/models/control/infer", json=body) for _ in range(10))]
        return [answer.status_code for answer in await asyncio.gather(*mixed)]

    codes = served.run(crowd)
    assert set(codes) == {200, 503}
    assert codes.count(503) >= 12, "rankings and inferences share one admission limit"
    late = Served(tmp_path, serve=ServeConfig(deadline_seconds=0.0))
    assert infer(late, {"inputs": [tensor("site", ["a"])]}).status_code == 504


ELEMENTS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4)
TENSORS = st.fixed_dictionaries(
    {
        "name": st.sampled_from(["site", "tags", "age", "price"]) | st.text(max_size=3),
        "shape": st.lists(st.integers(-1, 3) | st.integers(), max_size=3),
        "datatype": st.sampled_from(["BYTES", "INT64", "FP64", "UINT8", "BOOL", "FP16", "odd"]),
        "data": st.lists(ELEMENTS | st.lists(ELEMENTS, max_size=3), max_size=4),
    },
    optional={"parameters": st.none() | st.dictionaries(st.just("missing"), ELEMENTS)},
)


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Served:
    state = tmp_path_factory.mktemp("state")
    publish(state, "control")
    return Served(state)


@given(st.lists(TENSORS, max_size=3), st.none() | st.text(max_size=3))
@settings(max_examples=150)
def test_no_tensors_crash_the_server(fuzzed: Served, inputs: list[Json], name: str | None) -> None:
    answer = infer(fuzzed, json.dumps({"inputs": inputs, "id": name}).encode())
    assert answer.status_code in (200, 400, 422)
    if answer.status_code == 200:
        data = answer.json()["outputs"][0]["data"]
        assert len(data) == inputs[0]["shape"][0]
        assert all(0.0 <= p <= 1.0 for p in data)
    else:
        assert answer.json().keys() == {"error"}
