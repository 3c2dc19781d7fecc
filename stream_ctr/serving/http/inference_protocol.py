"""The Open Inference Protocol, version 2, over REST: each arm is a model, its snapshots are the versions.

It only predicts: no user is assigned to an arm, and no exposure is logged. Paths, objects and fields follow
the published specification (inference_rest.md).
"""

from __future__ import annotations

import importlib.metadata
import math
import time
from typing import Any, Final

import msgspec

from stream_ctr.config.serve import ServeConfig
from stream_ctr.errors import RecordError
from stream_ctr.predictors.predictor import Predictor
from stream_ctr.serving.api_error import ApiError, unavailable
from stream_ctr.serving.http.admission import Admission
from stream_ctr.serving.http.asgi import OCTETS, Header, Receive, Scope, Send, malformed, respond
from stream_ctr.serving.http.binary_tensors import (
    EXTENSION,
    LENGTH_HEADER,
    Parts,
    attach,
    float_bytes,
    split_body,
)
from stream_ctr.serving.http.router import GET, POST, Routes
from stream_ctr.serving.http.tensors import Datatype, InferInput, TensorMetadata, describe_inputs, features_of
from stream_ctr.serving.metrics import NO_ARM, ServeMetrics
from stream_ctr.serving.routing.arm_predictors import ArmPredictors

OPEN_PATHS: Final = ("/v2/health/live", "/v2/health/ready")
"""Health checks, which need no token."""
OUTPUT: Final = "p"
"""The one output tensor: click probabilities [B]."""
OUTPUT_DATATYPE: Final[Datatype] = "FP32"
PLATFORM: Final = "stream-ctr_snapshot"


class RequestedOutput(msgspec.Struct):
    """One requested output tensor."""

    name: str
    parameters: dict[str, Any] | None = None
    """``binary_data``: whether its data follow the JSON of the response as bytes."""


class InferRequest(msgspec.Struct):
    """Inputs for B rows. Unknown fields are ignored, because clients send their own."""

    inputs: list[InferInput]
    id: str | None = None
    parameters: dict[str, Any] | None = None
    """``binary_data_output``: whether the data of outputs follow the JSON of the response as bytes."""
    outputs: list[RequestedOutput] | None = None


class OutputParameters(msgspec.Struct):
    """Parameters of a binary output."""

    binary_data_size: int
    """Length in bytes of its data after the JSON."""


class InferOutput(msgspec.Struct, omit_defaults=True):
    """One output tensor."""

    name: str
    datatype: Datatype
    shape: list[int]
    data: list[float] | None = None
    parameters: OutputParameters | None = None


class InferResponse(msgspec.Struct, omit_defaults=True):
    """Probabilities of B rows, from one version of one model."""

    model_name: str
    model_version: str
    outputs: list[InferOutput]
    id: str | None = None


class ModelMetadata(msgspec.Struct):
    """Inputs and outputs of a model. ``versions`` holds the one version that serves."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class ServerMetadata(msgspec.Struct):
    """Name, version and protocol extensions of the server."""

    name: str
    version: str
    extensions: list[str]


class ServerHealth(msgspec.Struct, omit_defaults=True):
    """Health of the server. The specification uses ``live`` for both checks; clients read ``ready``."""

    live: bool
    ready: bool | None = None
    error: str = ""


class ModelHealth(msgspec.Struct, omit_defaults=True):
    """Whether a model can predict."""

    name: str
    ready: bool
    error: str = ""


_decoder = msgspec.json.Decoder(InferRequest)


class InferenceProtocol:
    """The routes under /v2."""

    def __init__(
        self, serve: ServeConfig, arms: ArmPredictors, admission: Admission, metrics: ServeMetrics
    ) -> None:
        self._arms = arms
        self._admission = admission
        self._metrics = metrics
        self._max_rows = serve.max_candidates
        self._server = ServerMetadata("stream-ctr", importlib.metadata.version("stream-ctr"), [EXTENSION])
        self.routes: Routes = {
            "/v2": (GET, self._show_server),
            "/v2/": (GET, self._show_server),
            "/v2/health/live": (GET, self._live),
            "/v2/health/ready": (GET, self._ready),
        }
        for model in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}"):
            self.routes |= {
                model: (GET, self._show_model),
                f"{model}/ready": (GET, self._model_ready),
                f"{model}/infer": (POST, self._infer),
            }

    async def _show_server(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        await respond(send, 200, msgspec.json.encode(self._server))

    async def _live(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        await respond(send, 200, msgspec.json.encode(ServerHealth(live=True)))

    async def _ready(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        """Ready when all models are ready, as the specification requires."""
        missing = [name for name in self._arms.names if name not in self._arms.current]
        health = ServerHealth(live=True, ready=not missing)
        if missing:
            health.error = "; ".join(f"arm {name}: {self._arms.error(name)}" for name in missing)
        await respond(send, 503 if missing else 200, msgspec.json.encode(health))

    async def _show_model(self, scope: Scope, _receive: Receive, send: Send) -> None:
        name, predictor = self._model(scope)
        if predictor is None:
            raise self._not_ready(name)
        outputs = [TensorMetadata(OUTPUT, OUTPUT_DATATYPE, [-1])]
        metadata = ModelMetadata(
            name, [predictor.model_version], PLATFORM, describe_inputs(predictor.fields), outputs
        )
        await respond(send, 200, msgspec.json.encode(metadata))

    async def _model_ready(self, scope: Scope, _receive: Receive, send: Send) -> None:
        name, predictor = self._model(scope)
        if predictor is None:
            body = ModelHealth(name, ready=False, error=self._arms.error(name))
            await respond(send, 503, msgspec.json.encode(body))
        else:
            await respond(send, 200, msgspec.json.encode(ModelHealth(name, ready=True)))

    async def _infer(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        name, answer = await self._admission.admit(
            lambda: self._answer(scope, receive, started),
            lambda status: self._metrics.count_inference(status, NO_ARM),
        )
        self._metrics.count_inference(200, name)
        if answer.tensors is None:
            await respond(send, 200, answer.json)
            return
        length: Header = (LENGTH_HEADER, str(len(answer.json)).encode())
        await respond(send, 200, answer.json + answer.tensors, (length,), OCTETS)

    async def _answer(self, scope: Scope, receive: Receive, started: float) -> tuple[str, Parts]:
        """Name of the model and body of the response."""
        raw = await self._admission.read(scope, receive, OCTETS)
        async with self._admission.turn(started):
            name, predictor = self._model(scope)
            if predictor is None:
                raise self._not_ready(name)
            parts = split_body(scope, raw)
            request = _decode(parts.json)
            attach(request.inputs, parts.tensors)
            features = features_of(request.inputs, predictor.fields, self._max_rows)
            try:
                keys = predictor.encode(features, self._metrics.left_out)
            except RecordError as error:
                raise ApiError(400, str(error)) from None
            p: list[float] = predictor.probabilities(keys).tolist()
            self._metrics.count_predictions(name, len(p))
            if not all(map(math.isfinite, p)):
                self._metrics.non_finite.labels(name).inc()
                raise unavailable(
                    f"model {name} gave predictions that are not finite; try again with a newer version"
                )
            answer = _encode(request, name, predictor.model_version, p)
            self._admission.check_deadline(started)
            return name, answer

    def _model(self, scope: Scope) -> tuple[str, Predictor | None]:
        """The model named in the path, and its predictor if it is ready.

        Raises:
            ApiError: 404 if there is no such model or version.
        """
        name = scope["path_params"]["model"]
        version = scope["path_params"].get("version")
        if name not in self._arms.names:
            known = ", ".join(self._arms.names)
            raise ApiError(404, f"unknown model {name[:60]!r}; the models are {known}")
        predictor = self._arms.current.get(name)
        if version is not None and predictor is not None and version != predictor.model_version:
            raise ApiError(
                404,
                f"model {name} does not serve version {version[:60]!r}; it serves only "
                f"{predictor.model_version!r}",
            )
        return name, predictor

    def _not_ready(self, name: str) -> ApiError:
        return unavailable(f"model {name} is not ready: {self._arms.error(name)}")


def _decode(body: bytes) -> InferRequest:
    """Raises ApiError 400 for malformed JSON, a wrong schema, or an unknown output."""
    with malformed():
        request = _decoder.decode(body)
    for output in request.outputs or ():
        if output.name != OUTPUT:
            raise ApiError(400, f"unknown output {output.name[:60]!r}; the only output is {OUTPUT!r}")
    return request


def _encode(request: InferRequest, name: str, version: str, p: list[float]) -> Parts:
    """Encode the response, with the probabilities as bytes if the request asks for binary data."""
    output = InferOutput(OUTPUT, OUTPUT_DATATYPE, [len(p)])
    tensors = None
    if _wants_bytes(request):
        tensors = float_bytes(p)
        output.parameters = OutputParameters(len(tensors))
    else:
        output.data = p
    return Parts(msgspec.json.encode(InferResponse(name, version, [output], request.id)), tensors)


def _wants_bytes(request: InferRequest) -> bool:
    wanted: object = (request.parameters or {}).get("binary_data_output", False)
    for output in request.outputs or ():
        wanted = (output.parameters or {}).get("binary_data", wanted)
    if not isinstance(wanted, bool):
        raise ApiError(
            400, f"binary_data and binary_data_output must be true or false, got {str(wanted)[:60]!r}"
        )
    return wanted
