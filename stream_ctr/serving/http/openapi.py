"""The OpenAPI 3.1 description of the server, at /openapi.json.

The schemas come from the structs that decode requests and encode responses. The features of a ranking come
from the control's snapshot, so the description lists them once the control has one.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from stream_ctr.config.features import FieldConfig
from stream_ctr.config.serve import ServeConfig
from stream_ctr.features.keys.values import LARGEST
from stream_ctr.serving.http.asgi import Receive, Scope, Send, respond
from stream_ctr.serving.http.inference_protocol import (
    InferRequest,
    InferResponse,
    ModelHealth,
    ModelMetadata,
    ServerHealth,
    ServerMetadata,
)
from stream_ctr.serving.ranking.request import Candidate, RankAnswer, RankRequest
from stream_ctr.serving.routing.arm_predictors import ArmPredictors

Json = dict[str, Any]

ERRORS: Final = {
    400: "Malformed JSON, a wrong schema, or invalid features",
    401: "Missing or invalid bearer token",
    404: "Unknown model, version or path",
    408: "The body did not arrive in time",
    413: "The body is too long",
    415: "Unsupported Content-Type or Content-Encoding",
    422: "Too few or too many candidates or rows, or an impression too large for the log",
    500: "Internal error; see the server's log",
    503: "Overloaded or not ready; retry after the number of seconds in Retry-After",
    504: "Deadline exceeded",
}
"""Descriptions of the responses that carry {"error": text}, by status code."""
COMPUTING: Final = (400, 408, 413, 415, 422, 500, 503, 504)
"""Error status codes of requests that predict."""


class Error(msgspec.Struct):
    """The reason of a failed request."""

    error: str


class Live(msgspec.Struct):
    """Liveness of the process."""

    live: bool


class ArmState(msgspec.Struct):
    """The snapshot of an arm, why a newer one is not in use, and why the arm is killed, if it is."""

    ready: bool
    version: int | None
    model_version: str | None
    error: str | None
    killed: str | None


class Ready(msgspec.Struct, omit_defaults=True):
    """Readiness of the server, and the state of each arm."""

    ready: bool
    arms: dict[str, ArmState]
    error: str = ""


STRUCTS: Final = (
    RankRequest, RankAnswer, InferRequest, InferResponse, ModelMetadata, ModelHealth, ServerMetadata,
    ServerHealth, Error, Live, Ready,
)  # fmt: skip


class Description:
    """Handler of /openapi.json."""

    def __init__(self, arms: ArmPredictors, serve: ServeConfig, secured: bool, open_features: bool) -> None:
        """``open_features``: whether features that are not in the schema are accepted and ignored."""
        self._open = open_features
        self._arms = arms
        self._serve = serve
        self._secured = secured

    async def show(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        """Send the description as JSON."""
        predictor = self._arms.current.get(self._arms.control)
        fields = None if predictor is None else predictor.fields
        found = describe(self._serve, self._arms.names, fields, self._secured, self._open)
        await respond(send, 200, msgspec.json.encode(found))


def describe(
    serve: ServeConfig,
    models: Sequence[str],
    fields: tuple[FieldConfig, ...] | None,
    secured: bool,
    open_features: bool,
) -> Json:
    """The description of a server of these models; without ``fields``, any features are valid."""
    paths = {
        "/v1/rank": {"post": _post("Rank candidates for a user, and log one impression", "Rank")},
        "/health/live": {"get": _get("Is the process alive?", Live, secured=None)},
        "/health/ready": {"get": _get("Is the control arm ready?", Ready, Ready, secured=None)},
        **_v2_paths(models),
    }
    if serve.workers == 1:
        paths["/metrics"] = {"get": _metrics()}
    if secured:
        for item in paths.values():
            for method in ("get", "post"):
                operation = item.get(method)
                if operation is not None and "security" not in operation:
                    operation["responses"]["401"] = _error(401)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Stream CTR",
            "description": "Click probabilities from continuously trained models.",
            "version": importlib.metadata.version("stream-ctr"),
        },
        "paths": paths,
        "components": _components(serve, fields, secured, open_features),
        **({"security": [{"bearer": []}]} if secured else {}),
    }


def _v2_paths(models: Sequence[str]) -> Json:
    paths: Json = {
        "/v2": {"get": _get("Name and version of the server", ServerMetadata)},
        "/v2/health/live": {"get": _get("Is the process alive?", ServerHealth, secured=None)},
        "/v2/health/ready": {"get": _get("Are all models ready?", ServerHealth, ServerHealth, secured=None)},
    }
    for base in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}"):
        known: Json = {"model": {"enum": list(models)}, "version": {"minLength": 1}}
        places = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string", **schema}}
            for name, schema in known.items()
            if f"{{{name}}}" in base
        ]
        operations = {
            "": {"get": _get("Inputs and outputs of the model", ModelMetadata, Error, extra=(404,))},
            "/ready": {"get": _get("Is the model ready?", ModelHealth, ModelHealth, extra=(404,))},
            "/infer": {
                "post": _post(
                    "Predict, without assigning a user or logging an impression", "Infer", extra=(404,)
                )
            },
        }
        paths |= {base + end: {"parameters": places, **item} for end, item in operations.items()}
    return paths


def _get(
    summary: str,
    answer: type,
    unready: type | None = None,
    extra: tuple[int, ...] = (),
    secured: bool | None = True,
) -> Json:
    """A GET operation. ``unready`` is the schema of its 503; ``secured`` None: it never needs a token."""
    responses = {"200": _content("OK", answer.__name__), **{str(code): _error(code) for code in extra}}
    if unready is not None:
        responses["503"] = _content("Not ready", unready.__name__)
    operation: Json = {"summary": summary, "responses": responses}
    if secured is None:
        operation["security"] = []
    return operation


def _post(summary: str, kind: str, extra: tuple[int, ...] = ()) -> Json:
    answer = RankAnswer if kind == "Rank" else InferResponse
    return {
        "summary": summary,
        "requestBody": {"required": True, **_json(f"{kind}Request")},
        "responses": {
            "200": _content("OK", answer.__name__),
            **{str(code): _error(code) for code in sorted((*COMPUTING, *extra))},
        },
    }


def _metrics() -> Json:
    text = {"content": {"text/plain": {"schema": {"type": "string"}}}}
    return {
        "summary": "Metrics in Prometheus' text format",
        "responses": {"200": {"description": "OK", **text}},
    }


def _error(code: int) -> Json:
    response = _content(ERRORS[code], Error.__name__)
    named = {401: "WWW-Authenticate", 503: "Retry-After"}.get(code)
    if named is not None:
        response["headers"] = {named: {"schema": {"type": "string"}}}
    return response


def _content(description: str, schema: str) -> Json:
    return {"description": description, **_json(schema)}


def _json(schema: str) -> Json:
    return {"content": {"application/json": {"schema": _ref(schema)}}}


def _ref(schema: str) -> Json:
    return {"$ref": f"#/components/schemas/{schema}"}


def _components(
    serve: ServeConfig, fields: tuple[FieldConfig, ...] | None, secured: bool, open_features: bool
) -> Json:
    """The schemas of the structs, with the limits of this server's configuration."""
    _, found = msgspec.json.schema_components(STRUCTS, ref_template="#/components/schemas/{name}")
    schemas: dict[str, Json] = dict(found)
    for owner in (RankRequest, Candidate):
        schemas[owner.__name__]["properties"]["features"] = _ref("Features")
    schemas["Features"] = features_schema(fields, open_features)
    candidates = schemas["RankRequest"]["properties"]["candidates"]
    candidates |= {"minItems": 1, "maxItems": serve.max_candidates}
    components: Json = {"schemas": schemas}
    if secured:
        components["securitySchemes"] = {"bearer": {"type": "http", "scheme": "bearer"}}
    return components


def features_schema(fields: tuple[FieldConfig, ...] | None, open_features: bool) -> Json:
    """JSON schema of the features of one candidate or of the context; every feature is optional."""
    if fields is None:
        return {"type": "object", "description": "Unknown until a model is ready."}
    return {
        "type": "object",
        "properties": {item.name: _VALUES[item.kind] for item in fields},
        "additionalProperties": open_features,
    }


_PLAIN: Final[Json] = {
    "anyOf": [
        {"type": ["string", "boolean", "null"]},
        {"type": "number", "minimum": -LARGEST, "maximum": LARGEST},
    ]
}
_VALUES: Final[Mapping[str, Json]] = {
    "categorical": _PLAIN,
    "multi": {"anyOf": [{"type": "array", "items": _PLAIN}, {"type": "null"}, {"const": ""}]},
    "integer": {
        "anyOf": [
            {"type": ["integer", "null"], "minimum": -LARGEST, "maximum": LARGEST},
            {"type": "string", "pattern": "^([+-]?[0-9]{1,18})?$"},
        ]
    },
    "float": {
        "anyOf": [
            {"type": ["number", "null"], "minimum": -1e300, "maximum": 1e300},
            {"type": "string", "pattern": "^([+-]?[0-9]{1,18}([.][0-9]{1,18})?)?$"},
        ]
    },
}
"""JSON schema of a value, by kind of field."""
