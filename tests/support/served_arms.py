"""A server's surroundings for tests: snapshots of two arms, and requests."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import httpx
import numpy as np
import pytest

from stream_ctr.config.experiment import ExperimentConfig
from stream_ctr.config.features import UnknownFeatures
from stream_ctr.config.serve import ServeConfig
from stream_ctr.events.log import Record
from stream_ctr.experiments.assignment import bucket_of
from stream_ctr.predictors.predictor import Predictor
from stream_ctr.predictors.snapshot import SnapshotContent, write_snapshot
from stream_ctr.serving.app import RankApp
from stream_ctr.serving.metrics import ServeMetrics
from stream_ctr.serving.ranking.shadows import Shadows
from stream_ctr.serving.routing.arm_predictors import SNAPSHOTS, ArmPredictors
from stream_ctr.serving.routing.config_reload import ConfigFile
from stream_ctr.serving.routing.routing import Routing
from tests.support.snapshots import example_snapshot
from tests.support.two_arm_server import SALT, TWO_ARMS

T = TypeVar("T")
Json = dict[str, Any]

CONTEXT: Json = {"site": "news", "age": 31}
CANDIDATE: Json = {"features": {"tags": ["a", "b"], "price": 3.5}, "bid": 2.0}
USERS = {
    arm: next(f"user-{n}" for n in range(1000) if (bucket_of(SALT, f"user-{n}") < 5000) == (arm == "control"))
    for arm in ("control", "new")
}
"""One user of each arm."""


def request(user: str = USERS["control"], candidates: int = 1, **changes: Any) -> Json:
    return {"user": user, "features": CONTEXT, "candidates": [CANDIDATE] * candidates, **changes}


def publish(state: Path, arm: str, content: SnapshotContent | None = None) -> int:
    return write_snapshot(state / arm / SNAPSHOTS, content or example_snapshot(), kept=3)


def constant(probability: float) -> SnapshotContent:
    """A model that gives everything the same probability."""
    content = example_snapshot()
    dense = {name: np.zeros_like(array) for name, array in content.dense.items()}
    dense["output.bias"] = np.array([math.log(probability / (1 - probability))], np.float32)
    return replace(content, dense=dense)


def not_a_number() -> SnapshotContent:
    """A model that has diverged."""
    broken = constant(0.5)
    broken.dense["output.bias"][:] = np.nan
    return broken


def serve_unchecked(served: Served, state: Path, arm: str, content: SnapshotContent) -> None:
    """Serve a snapshot although its predictions are not finite, as if the check had seen other inputs."""
    publish(state, arm, content)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Predictor, "check_finite", lambda _self: None)
        served.arms.poll()


class Kept:
    """A sink that keeps what it is given."""

    def __init__(self) -> None:
        self.records: list[Record] = []

    def put(self, record: Record) -> None:
        self.records.append(record)


class Served:
    """The application over real snapshots, without a socket."""

    def __init__(
        self,
        state: Path,
        experiment: ExperimentConfig = TWO_ARMS,
        serve: ServeConfig | None = None,
        config: ConfigFile | None = None,
        unknown: UnknownFeatures = "ignore",
    ) -> None:
        self.metrics = ServeMetrics(unknown)
        self.arms = ArmPredictors(experiment, state, self.metrics)
        self.arms.poll()
        self.kept = Kept()
        self.routing = Routing(self.arms, state, self.metrics, config)
        self.routing.poll()
        self.shadows = Shadows(self.kept, self.routing, self.metrics)
        self.app = RankApp(serve or ServeConfig(), self.routing, self.shadows, self.metrics)

    def run(self, work: Callable[[httpx.AsyncClient], Coroutine[Any, Any, T]]) -> T:
        async def session() -> T:
            transport = httpx.ASGITransport(self.app)
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                return await work(client)

        return asyncio.run(session())

    def rank(self, body: Json | bytes, headers: Mapping[str, str] | None = None) -> httpx.Response:
        async def work(client: httpx.AsyncClient) -> httpx.Response:
            if isinstance(body, bytes):
                return await client.post(
                    "/v1/rank", content=body, headers=headers or {"content-type": "application/json"}
                )
            return await client.post("/v1/rank", json=body, headers=headers)

        return self.run(work)

    def rank_all(self, bodies: Sequence[Json]) -> list[httpx.Response]:
        """Answers to several requests, one after the other, over one client."""

        async def work(client: httpx.AsyncClient) -> list[httpx.Response]:
            return [await client.post("/v1/rank", json=body) for body in bodies]

        return self.run(work)

    def get(self, path: str) -> httpx.Response:
        return self.run(lambda client: client.get(path))


def sample(exposition: str, name: str, **labels: str) -> float:
    """Value of one series in Prometheus' text."""
    for line in exposition.splitlines():
        series, _, value = line.rpartition(" ")
        found, _, rest = series.partition("{")
        if found == name and all(f'{key}="{text}"' in rest for key, text in labels.items()):
            return float(value)
    raise AssertionError(f"no series {name} {labels} in:\n{exposition}")
