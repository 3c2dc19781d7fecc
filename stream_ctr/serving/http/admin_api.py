"""The admin API of a running server: status of the arms, kill switch, configuration reload."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import msgspec

from stream_ctr.errors import StateError, UsageError
from stream_ctr.serving.api_error import ApiError
from stream_ctr.serving.http.asgi import Receive, Scope, Send, malformed, read_body, respond
from stream_ctr.serving.http.router import GET, POST, Routes
from stream_ctr.serving.routing.routing import Routing

MAX_BODY_BYTES = 65_536
TIMEOUT_SECONDS = 5.0


class KillRequest(msgspec.Struct, forbid_unknown_fields=True):
    """Body of a kill request; optional."""

    reason: Annotated[str, msgspec.Meta(max_length=500)] = ""


def status(routing: Routing) -> dict[str, Any]:
    """The experiment and the state of its arms in this process."""
    plan, predictors = routing.arms.view
    experiment = plan.experiment
    buckets = {each.arm: [each.start, each.stop] for each in plan.intervals}
    arms = []
    for arm in experiment.arms:
        predictor = predictors.get(arm.name)
        kill = plan.killed.get(arm.name)
        arms.append(
            {
                "name": arm.name,
                "role": "control" if arm.name == plan.control else "shadow" if arm.shadow else "arm",
                "weight": arm.weight,
                "buckets": buckets[arm.name],
                "killed": None if kill is None else msgspec.to_builtins(kill),
                "snapshot": arm.snapshot or None,
                "model_version": None if predictor is None else predictor.model_version,
                "error": routing.arms.error(arm.name) or None,
                "sampling_probability": plan.chances.get(arm.name),
            }
        )
    return {
        "experiment": experiment.name,
        "salt": experiment.salt,
        "coverage": experiment.coverage,
        "config_error": routing.config_error or None,
        "control_error": routing.switch.error or None,
        "arms": arms,
    }


class Admin:
    """The handlers. Each responds with the status after its change."""

    def __init__(self, routing: Routing) -> None:
        self._routing = routing

    async def show(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        """GET /admin/arms."""
        await self._answer(send, {})

    async def kill(self, scope: Scope, receive: Receive, send: Send) -> None:
        """POST /admin/arms/{arm}/kill."""
        body = await read_body(scope, receive, MAX_BODY_BYTES, TIMEOUT_SECONDS)
        with malformed():
            request = msgspec.json.decode(body, type=KillRequest) if body else KillRequest()
        arm = self._arm(scope)
        reason = request.reason or "through the admin API"
        done = await self._do(lambda: self._routing.kill(arm, reason))
        await self._answer(send, {"changed": done})

    async def revive(self, scope: Scope, _receive: Receive, send: Send) -> None:
        """POST /admin/arms/{arm}/revive."""
        arm = self._arm(scope)
        await self._answer(send, {"changed": await self._do(lambda: self._routing.revive(arm))})

    async def reload(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        """POST /admin/reload."""
        await self._answer(send, {"changed": await self._do(self._routing.reload)})

    def _arm(self, scope: Scope) -> str:
        """The arm named in the path. Raises ApiError 404 if the experiment has no such arm."""
        arm: str = scope["path_params"]["arm"]
        names = self._routing.arms.names
        if arm not in names:
            raise ApiError(404, f"no arm named {arm[:100]!r}; the arms are {', '.join(names)}")
        return arm

    async def _do(self, work: Any) -> bool:
        """Run blocking work in a separate thread, so that rankings do not wait for the disk."""
        try:
            return bool(await asyncio.to_thread(work))
        except UsageError as error:
            raise ApiError(409, str(error)) from None
        except StateError as error:
            raise ApiError(503, str(error)) from None

    async def _answer(self, send: Send, more: dict[str, Any]) -> None:
        await respond(send, 200, msgspec.json.encode({**more, **status(self._routing)}))


def admin_routes(routing: Routing) -> Routes:
    """Routes for the admin listener. The listener checks the token."""
    admin = Admin(routing)
    return {
        "/admin/arms": (GET, admin.show),
        "/admin/arms/{arm}/kill": (POST, admin.kill),
        "/admin/arms/{arm}/revive": (POST, admin.revive),
        "/admin/reload": (POST, admin.reload),
    }
