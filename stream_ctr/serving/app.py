"""The prediction server as an ASGI application."""

from __future__ import annotations

import time

import msgspec

from stream_ctr.config.serve import ServeConfig
from stream_ctr.experiments.override import HEADER as OVERRIDE
from stream_ctr.serving.http.admission import Gate
from stream_ctr.serving.http.asgi import Receive, Scope, Send, header, respond
from stream_ctr.serving.http.inference_protocol import OPEN_PATHS as OPEN_V2_PATHS
from stream_ctr.serving.http.inference_protocol import InferenceProtocol
from stream_ctr.serving.http.load_shedding import RANK, Door
from stream_ctr.serving.http.openapi import Description
from stream_ctr.serving.http.origin import guarded
from stream_ctr.serving.http.rank_api import ApiError, decode_request
from stream_ctr.serving.http.router import GET, POST, Handler, Router, Routes
from stream_ctr.serving.http.tokens import Tokens
from stream_ctr.serving.metrics import CONTENT_TYPE, NO_ARM, ServeMetrics
from stream_ctr.serving.ranking.impression_log import MAX_RECORD_BYTES, encode_impression
from stream_ctr.serving.ranking.ranker import Ranker
from stream_ctr.serving.ranking.shadows import Shadows
from stream_ctr.serving.routing.routing import Routing

__all__ = ["AdminApp", "Handler", "RankApp"]

HEALTH_PATHS = ("/health/live", "/health/ready")


class RankApp:
    """Rankings, the Open Inference Protocol, health, the OpenAPI description and, of one worker, metrics."""

    def __init__(
        self,
        serve: ServeConfig,
        routing: Routing,
        exposures: Shadows,
        metrics: ServeMetrics,
        tokens: Tokens | None = None,
    ) -> None:
        """Raises ConfigError if the tokens are unusable."""
        self._arms = arms = routing.arms
        self._exposures = exposures
        self._metrics = metrics
        self._ranker = Ranker(routing, metrics, serve.max_client_ahead_seconds)
        self.gate = Gate(serve)
        self._max_candidates = serve.max_candidates
        self._workers = serve.workers
        tokens = Tokens(serve.token_file) if tokens is None else tokens
        self.door = Door(self.gate, tokens, self._count_refusal)
        routes: Routes = {
            RANK.decode(): (POST, self._rank),
            "/openapi.json": (
                GET,
                Description(arms, serve, len(tokens) > 0, not metrics.left_out.refuses).show,
            ),
            "/metrics": (GET, self.show_metrics if serve.workers == 1 else self._metrics_elsewhere),
            **self.health,
            **InferenceProtocol(serve, arms, self.gate, metrics).routes,
        }
        hint = "rankings are at POST /v1/rank, everything else is told at /openapi.json"
        self._router = Router(routes, tokens, (*HEALTH_PATHS, *OPEN_V2_PATHS), hint)

    @property
    def health(self) -> Routes:
        """The routes that probes ask; they need no token."""
        return {"/health/live": (GET, self._live), "/health/ready": (GET, self._ready)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        await self._router(scope, receive, send)

    async def _rank(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        arm, body = await self.gate.admit(
            lambda: self._answer(scope, receive, started),
            lambda status: self._metrics.count_request(status, NO_ARM),
        )
        self._metrics.count_request(200, arm)
        self._metrics.observe_answer(arm, time.perf_counter() - started)
        await respond(send, 200, body)

    async def _answer(self, scope: Scope, receive: Receive, started: float) -> tuple[str, bytes]:
        """Arm and body of the answer; its impression is on its way to the log."""
        raw = await self.gate.read(scope, receive)
        async with self.gate.turn(started):
            request = decode_request(raw, self._max_candidates)
            now_ms = time.time_ns() // 1_000_000
            ranking = self._ranker.rank(request, now_ms, header(scope, OVERRIDE))
            record = encode_impression(ranking.impression, ranking.received_ms)
            if record.value is not None and len(record.value) > MAX_RECORD_BYTES:
                raise ApiError(
                    422,
                    f"user and features of the best candidate take {len(record.value)} bytes, "
                    f"more than the {MAX_RECORD_BYTES} of one impression",
                )
            body = msgspec.json.encode(ranking.answer)
            self.gate.check_deadline(started)
            self._exposures.put(ranking, record)
            return ranking.answer.arm, body

    def _count_refusal(self, path: bytes) -> None:
        if path == RANK:
            self._metrics.count_request(503, NO_ARM)
        else:
            self._metrics.count_inference(503, NO_ARM)

    async def _live(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        await respond(send, 200, b'{"live":true}')

    async def _ready(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        """200 as soon as the control arm has a snapshot; each arm's version and trouble either way."""
        arms = self._arms
        plan, current = arms.view
        ready = plan.control in current
        shown = {}
        for name in (arm.name for arm in plan.experiment.arms):
            predictor, kill = current.get(name), plan.killed.get(name)
            shown[name] = {
                "ready": predictor is not None,
                "version": None if predictor is None else predictor.version,
                "model_version": None if predictor is None else predictor.model_version,
                "error": arms.error(name) or None,
                "killed": None if kill is None else kill.cause,
            }
        status: dict[str, object] = {"ready": ready, "arms": shown}
        if not ready:
            status["error"] = f"arm {arms.control}: {arms.error(arms.control)}"
        await respond(send, 200 if ready else 503, msgspec.json.encode(status))

    async def show_metrics(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        """Answer with what Prometheus reads."""
        await respond(send, 200, self._metrics.render(), content_type=CONTENT_TYPE)

    async def _metrics_elsewhere(self, _scope: Scope, _receive: Receive, _send: Send) -> None:
        raise ApiError(
            404,
            f"each of the {self._workers} workers has a /metrics of its own, at its own port: "
            "see serve.admin_port, and the lines printed at the start",
        )


class AdminApp:
    """What each worker shows on its own port: health, metrics, and the routes that steer it."""

    def __init__(self, app: RankApp, tokens: Tokens, routes: Routes) -> None:
        steering = {path: guarded(route, tokens) for path, route in routes.items()}
        paths: Routes = {"/metrics": (GET, app.show_metrics), **app.health, **steering}
        hint = f"here are {', '.join(paths)}"
        self._router = Router(paths, tokens, HEALTH_PATHS, hint)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        await self._router(scope, receive, send)
