"""The description of the server, and schemathesis' requests made from it against the real application."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import BaseSchema, Case, CheckFunction, GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance

from stream_ctr.config.serve import ServeConfig
from tests.support.served_arms import Json, Served, constant, publish
from tests.support.snapshots import FIELDS

EXAMPLES = {"get": 3, "post": 12}
TOKEN = "test-token-0123456789"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Served:
    state = tmp_path_factory.mktemp("state")
    publish(state, "control")
    publish(state, "new", constant(0.25))
    # Only a closed set of features has requests that must be refused.
    return Served(state, unknown="refuse")


@pytest.fixture(scope="module")
def schema(served: Served) -> BaseSchema:
    return schemathesis.openapi.from_asgi("/openapi.json", served.app)


PATHS = [
    "/v1/rank", "/health/live", "/health/ready", "/metrics", "/v2", "/v2/health/live", "/v2/health/ready",
    *(
        base + end
        for base in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}")
        for end in ("", "/ready", "/infer")
    ),
]  # fmt: skip

COMPUTING = [path for path in PATHS if path.endswith(("/rank", "/infer"))]
CASES = [
    *((path, GenerationMode.POSITIVE) for path in PATHS),
    *((path, GenerationMode.NEGATIVE) for path in COMPUTING[:2]),
]


def test_every_path_is_described(schema: BaseSchema) -> None:
    assert sorted(schema) == sorted(PATHS)


@pytest.mark.parametrize(("path", "mode"), CASES, ids=lambda value: getattr(value, "value", value))
def test_responses_match_the_description(schema: BaseSchema, path: str, mode: GenerationMode) -> None:
    """Statuses, headers and bodies as described; valid requests are taken, others are refused."""
    method = "post" if path in COMPUTING else "get"
    operation = schema[path][method]
    # That a tensor has as many elements as its shape says, no JSON schema can tell.
    excluded: list[CheckFunction] = [positive_data_acceptance] if path.endswith("infer") else []
    # Nor that the candidates of a request all have a bid or none has, or what the server's clock says.
    rank = mode is GenerationMode.POSITIVE and path.endswith("rank")
    known: Json = {"path_parameters": {"model": "control", "version": "1"}} if "{" in path else {}

    @given(case=operation.as_strategy(mode, **known))
    @settings(max_examples=EXAMPLES[method], suppress_health_check=list(HealthCheck), database=None)
    def check(case: Case[Any]) -> None:
        if rank:
            case.body = without_times(msgspec.convert(case.body, Json))
        case.call_and_validate(excluded_checks=excluded)

    check()


def without_times(body: Json) -> Json:
    """The request with a bid for each candidate, and without its event time."""
    candidates = [{**candidate, "bid": candidate.get("bid") or 1.5} for candidate in body["candidates"]]
    return {**{key: value for key, value in body.items() if key != "ts_ms"}, "candidates": candidates}


def described(served: Served, headers: dict[str, str] | None = None) -> Json:
    content: Json = served.run(lambda client: client.get("/openapi.json", headers=headers)).json()
    return content


def test_features_are_those_of_the_control_once_it_is_ready(tmp_path: Path) -> None:
    served = Served(tmp_path)
    features = described(served)["components"]["schemas"]["Features"]
    assert "properties" not in features
    publish(tmp_path, "control")
    served.arms.poll()
    features = described(served)["components"]["schemas"]["Features"]
    assert list(features["properties"]) == [field.name for field in FIELDS]
    assert features["additionalProperties"] is True
    strict = described(Served(tmp_path, unknown="refuse"))["components"]["schemas"]["Features"]
    assert strict["additionalProperties"] is False


def test_limits_workers_and_tokens_show(tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text(TOKEN)
    serve = ServeConfig(max_candidates=7, workers=2, token_file=str(tmp_path / "tokens"))
    found = described(Served(tmp_path, serve=serve), {"authorization": f"Bearer {TOKEN}"})
    assert found["openapi"] == "3.1.0"
    assert "/metrics" not in found["paths"]
    candidates: Any = found["components"]["schemas"]["RankRequest"]["properties"]["candidates"]
    assert (candidates["minItems"], candidates["maxItems"]) == (1, 7)
    assert found["components"]["securitySchemes"]["bearer"] == {"type": "http", "scheme": "bearer"}
    assert "401" in found["paths"]["/v1/rank"]["post"]["responses"]
    live = found["paths"]["/health/live"]["get"]
    assert (live["security"], "401" in live["responses"]) == ([], False)
