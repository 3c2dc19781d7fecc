"""Health checks and metrics over HTTP."""

from __future__ import annotations

import msgspec

from stream_ctr.serving.api_error import ApiError
from stream_ctr.serving.http.asgi import Receive, Scope, Send, respond
from stream_ctr.serving.http.router import GET, Routes
from stream_ctr.serving.metrics import CONTENT_TYPE, ServeMetrics
from stream_ctr.serving.routing.arm_predictors import ArmPredictors

HEALTH_PATHS = ("/health/live", "/health/ready")


class Operations:
    """Handlers for health checks and for Prometheus."""

    def __init__(self, arms: ArmPredictors, metrics: ServeMetrics, workers: int) -> None:
        self._arms = arms
        self._metrics = metrics
        self._workers = workers
        self.health: Routes = {"/health/live": (GET, self._live), "/health/ready": (GET, self._ready)}
        """Health routes; they need no token."""
        self.own_metrics: Routes = {"/metrics": (GET, self._show_metrics)}
        """Metrics of this process."""
        self.public_metrics: Routes = (
            self.own_metrics if workers == 1 else {"/metrics": (GET, self._metrics_elsewhere)}
        )
        """On the public port: the metrics of a single worker; with several, a 404."""

    async def _live(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        await respond(send, 200, b'{"live":true}')

    async def _ready(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        """200 once the control arm has a snapshot, else 503; always the version and error of each arm."""
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

    async def _show_metrics(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        await respond(send, 200, self._metrics.render(), content_type=CONTENT_TYPE)

    async def _metrics_elsewhere(self, _scope: Scope, _receive: Receive, _send: Send) -> None:
        raise ApiError(
            404,
            f"each of the {self._workers} workers serves /metrics on its own admin port; "
            "see serve.admin_port and the addresses printed at startup",
        )
