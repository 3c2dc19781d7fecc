"""From a request to its answer and the impression that tells the trainers about it."""

from __future__ import annotations

import math
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from stream_ctr.errors import RecordError
from stream_ctr.events.records import RECORD_VERSION, Impression
from stream_ctr.experiments.assignment import Assigner, Assignment, Reason
from stream_ctr.experiments.config import ExperimentConfig
from stream_ctr.predictors.predictor import Predictor
from stream_ctr.serving.api import ApiError, CandidateAnswer, Features, RankAnswer, RankRequest
from stream_ctr.serving.metrics import ServeMetrics

Keys = NDArray[np.uint64]

RETRY_SECONDS = 1
"""What Retry-After says."""


def unavailable(text: str) -> ApiError:
    """The answer 503, which asks to come again."""
    return ApiError(503, text, ((b"retry-after", str(RETRY_SECONDS).encode()),))


@dataclass(frozen=True, slots=True)
class Ranking:
    """An answer and its impression."""

    answer: RankAnswer
    impression: Impression


class _Prediction(NamedTuple):
    """What an arm says about B candidates."""

    keys: Keys
    p: list[float]
    """[B] click probabilities."""


class Ranker:
    """Ranks candidates with the predictor of the user's arm."""

    def __init__(self, experiment: ExperimentConfig, metrics: ServeMetrics) -> None:
        """Raises ConfigError if the arms' weights or the coverage are unusable."""
        self._experiment = experiment
        self._assigner = Assigner(experiment)
        self._control = self._assigner.control
        self._metrics = metrics

    def rank(self, request: RankRequest, predictors: Mapping[str, Predictor], now_ms: int) -> Ranking:
        """Answer one request with these predictors, one an arm.

        Raises:
            ApiError: 400 for features outside the schema, 503 when not even the control arm can answer.
        """
        assignment = self._assigner.assign(request.user)
        arm, reason, said = self._predict(assignment, request, predictors)
        scores = [p * candidate.bid for p, candidate in zip(said.p, request.candidates, strict=True)]
        best = scores.index(max(scores))
        keys = said.keys[best : best + 1]
        answer = RankAnswer(
            event_id=request.event_id or secrets.token_hex(16),
            arm=arm,
            model_version=predictors[arm].model_version,
            experiment=self._experiment.name,
            candidates=[CandidateAnswer(*pair) for pair in zip(said.p, scores, strict=True)],
            best=best,
        )
        shown = request.candidates[best]
        features = {**request.features, **shown.features}
        impression = Impression(
            v=RECORD_VERSION,
            event_id=answer.event_id,
            ts_ms=now_ms if request.ts_ms is None else request.ts_ms,
            features=features,
            user=request.user,
            bid=shown.bid,
            p=self._every_arm(arm, features, keys, said.p[best], predictors),
            truth=shown.truth,
            experiment=self._experiment.name,
            salt=self._experiment.salt,
            bucket=assignment.bucket,
            assigned_arm=assignment.arm or "",
            arm=arm,
            reason=reason,
            model_version=answer.model_version,
        )
        return Ranking(answer, impression)

    def _predict(
        self, assignment: Assignment, request: RankRequest, predictors: Mapping[str, Predictor]
    ) -> tuple[str, Reason, _Prediction]:
        """The arm that answers, why it does, and what it says."""
        arm = assignment.arm or self._control
        reason: Reason = "assigned" if assignment.arm is not None else "not_enrolled"
        prediction = self._ask(arm, request, predictors)
        if prediction is None and arm != self._control:
            self._metrics.fallbacks.labels(arm).inc()
            arm, reason = self._control, "fallback"
            prediction = self._ask(arm, request, predictors)
        if prediction is None:
            raise unavailable(f"arm {self._control} has no usable snapshot; try again soon")
        return arm, reason, prediction

    def _ask(self, arm: str, request: RankRequest, predictors: Mapping[str, Predictor]) -> _Prediction | None:
        """What an arm says; None when it has no snapshot or one of its probabilities is not a number."""
        predictor = predictors.get(arm)
        if predictor is None:
            return None
        try:
            keys = predictor.encode_request(request.features, [own.features for own in request.candidates])
        except RecordError as error:
            raise ApiError(400, str(error)) from None
        p = self._finite(arm, predictor, keys)
        return None if p is None else _Prediction(keys, p)

    def _finite(self, arm: str, predictor: Predictor, keys: Keys) -> list[float] | None:
        """Probabilities of the keys of B candidates; None when one of them is not a number."""
        p: list[float] = predictor.probabilities(keys).tolist()
        self._metrics.count_predictions(arm, len(p))
        return p if all(map(math.isfinite, p)) else None

    def _every_arm(
        self, served: str, features: Features, keys: Keys, p: float, predictors: Mapping[str, Predictor]
    ) -> dict[str, float]:
        """What each arm says about the shown candidate: paired comparisons need all of them."""
        said = {served: p}
        for arm, predictor in predictors.items():
            if arm == served:
                continue
            if not predictor.shares_keys(predictors[served]):
                try:
                    keys = predictor.encode([features])
                except RecordError:
                    continue  # the other arm has another schema; what it cannot read it has no opinion on
            found = self._finite(arm, predictor, keys)
            if found is not None:
                said[arm] = found[0]
        return said
