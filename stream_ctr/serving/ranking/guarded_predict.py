"""Predictions of one arm: timed, counted, checked by guards; a failure does not fail the request."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from stream_ctr.errors import RecordError
from stream_ctr.predictors.predictor import Predictor
from stream_ctr.serving.metrics import ServeMetrics
from stream_ctr.serving.routing.plan import Plan
from stream_ctr.serving.routing.routing import Routing

logger = logging.getLogger("stream_ctr.serving")

Keys = NDArray[np.uint64]


class Prediction(NamedTuple):
    """An arm's prediction for B candidates."""

    keys: Keys
    p: list[float]
    """[B] click probabilities, all finite."""


class GuardedPredictor:
    """Runs predictors and feeds the guards of their arms."""

    def __init__(self, routing: Routing, metrics: ServeMetrics) -> None:
        self._routing = routing
        self._metrics = metrics
        self._failed: dict[str, Predictor] = {}

    def predict(
        self, plan: Plan, arm: str, predictor: Predictor, encode: Callable[[], Keys]
    ) -> Prediction | None:
        """The arm's prediction; None if it fails or any probability is not finite.

        Raises:
            RecordError: the features do not match the arm's schema.
        """
        started = time.perf_counter()
        keys = None
        try:
            keys = encode()
            p: list[float] = predictor.probabilities(keys).tolist()
        except RecordError:
            raise
        except Exception:
            self._fail(arm, predictor)
            p = [math.nan]
        finite = all(map(math.isfinite, p))
        guard = plan.guards.get(arm)
        if guard is not None:
            trip = guard.count_prediction(p, finite, time.perf_counter() - started)
            if trip is not None:
                self._routing.trip(arm, trip)
        self._metrics.count_predictions(arm, len(p))
        if finite and keys is not None:
            return Prediction(keys, p)
        self._metrics.non_finite.labels(arm).inc()
        return None

    def compare(self, plan: Plan, arm: str, p: Mapping[str, float]) -> None:
        """Feed the arm's guard the probabilities of the arm and of the control for one candidate."""
        guard, control = plan.guards.get(arm), p.get(plan.control)
        if guard is not None and control is not None:
            trip = guard.count_pair(p[arm], control)
            if trip is not None:
                self._routing.trip(arm, trip)

    def _fail(self, arm: str, predictor: Predictor) -> None:
        """Count a failure. Only the first of each snapshot is logged, to limit the tracebacks."""
        self._metrics.routing.arm_failures.labels(arm).inc()
        if self._failed.get(arm) is not predictor:
            self._failed[arm] = predictor
            logger.exception(
                "arm %s failed to predict; further failures of this snapshot are only counted", arm
            )
