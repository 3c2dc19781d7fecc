"""Ranks the candidates of a request, and builds the response and the impression for the trainers."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass
from functools import partial

from stream_ctr.errors import RecordError, UsageError
from stream_ctr.events.records import RECORD_VERSION, Impression
from stream_ctr.experiments.assignment import Reason
from stream_ctr.experiments.override import check_override
from stream_ctr.features.keys.tally import Tally
from stream_ctr.serving.api_error import ApiError, unavailable
from stream_ctr.serving.metrics import ServeMetrics
from stream_ctr.serving.ranking.guarded_predict import GuardedPredictor, Keys, Prediction
from stream_ctr.serving.ranking.request import (
    Candidate,
    CandidateAnswer,
    Features,
    RankAnswer,
    RankRequest,
    event_time_ms,
)
from stream_ctr.serving.routing.arm_predictors import View
from stream_ctr.serving.routing.plan import Choice, Plan
from stream_ctr.serving.routing.routing import Routing


@dataclass(frozen=True, slots=True)
class Ranking:
    """A response and its impression."""

    answer: RankAnswer
    impression: Impression
    view: View
    """The experiment and the snapshots that computed it."""
    received_ms: int
    """The server's clock: the timestamp of the impression's record in the log."""
    shadows: tuple[str, ...] = ()
    """Shadow arms that are still to predict the impression."""


class Ranker:
    """Ranks candidates by the predictor of the user's arm."""

    def __init__(self, routing: Routing, metrics: ServeMetrics, max_ahead_seconds: float) -> None:
        """``max_ahead_seconds``: how far the ``ts_ms`` of a request may be ahead of the server's clock."""
        self._max_ahead_seconds = max_ahead_seconds
        self._arms = routing.arms
        self._guarded = GuardedPredictor(routing, metrics)
        self._metrics = metrics
        self._others = Tally("refuse" if metrics.left_out.refuses else "ignore")
        """Features ignored by the other arms; those of the answer are counted in ``metrics.left_out``."""

    def rank(self, request: RankRequest, now_ms: int, override: bytes | None = None) -> Ranking:
        """Rank the candidates of one request, by one experiment and one snapshot of each arm throughout.

        ``override`` is the value of a tester's override header.

        Raises:
            ApiError: 400 for features outside the schema or an invalid event time, 403 for an invalid
                override, 503 if not even the control arm can predict.
        """
        view = self._arms.view
        experiment = view.plan.experiment
        time_ms = event_time_ms(request.ts_ms, now_ms, self._max_ahead_seconds)
        event_id = request.event_id or secrets.token_hex(16)
        overridden = None if override is None else self._overridden(view.plan, override, request.user)
        choice = view.plan.choose(request.user, event_id, overridden)
        arm, reason, prediction = self._predict(choice, request, view)
        scores = _scores(prediction.p, request.candidates)
        best = scores.index(max(scores))
        answer = RankAnswer(
            event_id=event_id,
            arm=arm,
            model_version=view.predictors[arm].model_version,
            experiment=experiment.name,
            candidates=[CandidateAnswer(*pair) for pair in zip(prediction.p, scores, strict=True)],
            best=best,
        )
        shown = request.candidates[best]
        features = {**request.features, **shown.features}
        impression = Impression(
            v=RECORD_VERSION,
            event_id=event_id,
            ts_ms=time_ms,
            features=features,
            user=request.user,
            bid=1.0 if shown.bid is None else shown.bid,
            p=self._p_by_arm(arm, features, prediction.keys[best : best + 1], prediction.p[best], view),
            truth=shown.truth,
            experiment=experiment.name,
            salt=experiment.salt,
            bucket=choice.assignment.bucket,
            assigned_arm=choice.assignment.arm or "",
            arm=arm,
            reason=reason,
            model_version=answer.model_version,
            propensity=choice.propensity if reason == "sampled" else None,
        )
        self._metrics.routing.count_routed(arm, reason)
        if request.ts_ms is not None and request.ts_ms > now_ms:
            self._metrics.clients_ahead.inc()
        shadows = tuple(name for name in view.plan.shadows(event_id) if name in view.predictors)
        return Ranking(answer, impression, view, now_ms, shadows)

    def _overridden(self, plan: Plan, header: bytes, user: str) -> str:
        """The arm named in a tester's override header. Raises ApiError 403 if the header is invalid."""
        try:
            arm = check_override(plan.secret, header, plan.experiment.salt, user, time.time())
            if arm not in plan.answering:
                raise UsageError("the arm in the override header does not answer users in this experiment")
        except UsageError as error:
            self._metrics.routing.override_refusals.inc()
            raise ApiError(403, str(error)) from None
        return arm

    def _predict(self, choice: Choice, request: RankRequest, view: View) -> tuple[str, Reason, Prediction]:
        """The arm that answers, the reason, and its prediction."""
        control = view.plan.control
        arm, reason = choice.arm, choice.reason
        prediction = self._ask(arm, request, view)
        if prediction is None and arm != control:
            self._metrics.fallbacks.labels(arm).inc()
            arm = control
            if reason != "override":  # a tester's impressions stay excluded from comparisons
                reason = "fallback"
            prediction = self._ask(arm, request, view)
        if prediction is None:
            raise unavailable(f"arm {control} has no usable snapshot; try again soon")
        return arm, reason, prediction

    def _ask(self, arm: str, request: RankRequest, view: View) -> Prediction | None:
        """An arm's prediction for all candidates; None if it cannot predict."""
        predictor = view.predictors.get(arm)
        if predictor is None:
            return None
        own = [candidate.features for candidate in request.candidates]
        try:
            return self._guarded.predict(
                view.plan,
                arm,
                predictor,
                partial(predictor.encode_request, request.features, own, self._metrics.left_out),
            )
        except RecordError as error:
            raise ApiError(400, str(error)) from None

    def _p_by_arm(
        self, served: str, features: Features, keys: Keys, p: float, view: View
    ) -> dict[str, float]:
        """Probability of the shown candidate by each arm; paired comparisons need all of them."""
        plan, predictors = view
        p_by_arm = {served: p}
        for arm in plan.live:
            predictor = predictors.get(arm)
            if arm == served or predictor is None:
                continue
            encode = partial(_same, keys)
            if not predictor.shares_keys(predictors[served]):
                encode = partial(predictor.encode, [features], self._others)
            try:
                found = self._guarded.predict(plan, arm, predictor, encode)
            except RecordError:
                continue  # the other arm has another schema that does not accept these features
            if found is not None:
                p_by_arm[arm] = found.p[0]
        for arm in p_by_arm:
            self._guarded.compare(plan, arm, p_by_arm)
        return p_by_arm


def _scores(p: list[float], candidates: list[Candidate]) -> list[float]:
    """Bid times probability; the probability if candidates have no bids."""
    bids = [candidate.bid for candidate in candidates if candidate.bid is not None]
    return [each * bid for each, bid in zip(p, bids, strict=True)] if bids else p


def _same(keys: Keys) -> Keys:
    return keys
