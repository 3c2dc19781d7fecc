"""The prediction server's two ASGI applications: every route, and which of them need a token."""

from __future__ import annotations

from stream_ctr.config.serve import ServeConfig
from stream_ctr.serving.http.admission import Admission
from stream_ctr.serving.http.inference_protocol import OPEN_PATHS as OPEN_V2_PATHS
from stream_ctr.serving.http.inference_protocol import InferenceProtocol
from stream_ctr.serving.http.load_shedding import LoadShedder
from stream_ctr.serving.http.openapi import Description
from stream_ctr.serving.http.operations import HEALTH_PATHS, Operations
from stream_ctr.serving.http.origin import same_origin_only
from stream_ctr.serving.http.rank_api import RankApi
from stream_ctr.serving.http.router import GET, Router, Routes
from stream_ctr.serving.http.tokens import Tokens
from stream_ctr.serving.metrics import ServeMetrics
from stream_ctr.serving.ranking.shadows import Shadows
from stream_ctr.serving.routing.routing import Routing


class RankApp(Router):
    """Rankings, the Open Inference Protocol, health, OpenAPI and, with one worker, metrics."""

    def __init__(
        self,
        serve: ServeConfig,
        routing: Routing,
        exposures: Shadows,
        metrics: ServeMetrics,
        tokens: Tokens | None = None,
    ) -> None:
        """Raises ConfigError if the tokens are unusable."""
        arms = routing.arms
        tokens = Tokens(serve.token_file) if tokens is None else tokens
        self.admission = Admission(serve)
        self.load_shedder = LoadShedder(self.admission, tokens, metrics)
        self.operations = Operations(arms, metrics, serve.workers)
        description = Description(arms, serve, len(tokens) > 0, not metrics.left_out.refuses)
        routes: Routes = {
            **RankApi(serve, routing, exposures, self.admission, metrics).routes,
            "/openapi.json": (GET, description.show),
            **self.operations.public_metrics,
            **self.operations.health,
            **InferenceProtocol(serve, arms, self.admission, metrics).routes,
        }
        hint = "See POST /v1/rank and /openapi.json"
        super().__init__(routes, tokens, (*HEALTH_PATHS, *OPEN_V2_PATHS), hint)


class AdminApp(Router):
    """Each worker's admin port: health, metrics, and the routes that steer the server."""

    def __init__(self, app: RankApp, tokens: Tokens, routes: Routes) -> None:
        steering = {path: same_origin_only(route, tokens) for path, route in routes.items()}
        operations = app.operations
        paths: Routes = {**operations.own_metrics, **operations.health, **steering}
        hint = f"Available: {', '.join(paths)}"
        super().__init__(paths, tokens, HEALTH_PATHS, hint)
