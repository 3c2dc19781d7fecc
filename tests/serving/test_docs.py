"""The examples of docs/serving.md, sent to a server of the schema that they are for."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from stream_ctr.config.experiment import ExperimentConfig
from stream_ctr.config.features import FieldConfig
from stream_ctr.features.keys.encoder import KeyEncoder
from tests.support.served_arms import Json, Served, publish
from tests.support.snapshots import SMALL, example_snapshot, random_dense, random_table, vocabulary

PAGE = Path(__file__).parents[2] / "docs" / "serving.md"
EXAMPLES = re.findall(
    r"curl http://127\.0\.0\.1:8100(\S+) -H '([^:]+): ([^']+)' -d '([^']+)'", PAGE.read_text()
)
FIELDS = (
    FieldConfig("ad"),
    FieldConfig("age", "integer"),
    FieldConfig("price", "float", buckets=64),
    FieldConfig("interests", "multi", max_values=8),
)


@pytest.fixture
def served(tmp_path: Path) -> Served:
    arrays, rows = vocabulary(FIELDS, [{"ad": "shoes", "age": 31, "interests": ["running"]}, {}])
    content = replace(
        example_snapshot(),
        fields=FIELDS,
        dense=random_dense(SMALL, len(FIELDS)),
        rows=random_table(SMALL, rows),
        vocabulary=arrays,
        encoder=KeyEncoder(FIELDS).state(),
    )
    publish(tmp_path, "main", content)
    return Served(tmp_path, ExperimentConfig())


def test_there_is_one_example_of_each_interface() -> None:
    assert [path for path, *_ in EXAMPLES] == ["/v1/rank", "/v2/models/main/infer"]


def ask(served: Served, path: str, header: str, value: str, body: str) -> Json:
    answer = served.run(lambda client: client.post(path, content=body.encode(), headers={header: value}))
    assert answer.status_code == 200, answer.text
    content: Json = answer.json()
    return content


def test_the_examples_are_answered_and_of_the_same_rows(served: Served) -> None:
    ranking, inference = (ask(served, *example) for example in EXAMPLES)
    assert ranking["candidates"][0]["p"] == inference["outputs"][0]["data"][0]
    assert inference["id"] == "42"
