"""POST /v1/rank: decode the request, rank the candidates, log the impression."""

from __future__ import annotations

import time

import msgspec

from stream_ctr.config.serve import ServeConfig
from stream_ctr.events.records import MAX_EVENT_ID_BYTES
from stream_ctr.experiments.override import HEADER as OVERRIDE
from stream_ctr.serving.api_error import ApiError
from stream_ctr.serving.http.admission import Admission
from stream_ctr.serving.http.asgi import Receive, Scope, Send, header, malformed, respond
from stream_ctr.serving.http.load_shedding import RANK
from stream_ctr.serving.http.router import POST, Routes
from stream_ctr.serving.metrics import NO_ARM, ServeMetrics
from stream_ctr.serving.ranking.impression_log import MAX_RECORD_BYTES, encode_impression
from stream_ctr.serving.ranking.ranker import Ranker
from stream_ctr.serving.ranking.request import Candidate, RankRequest
from stream_ctr.serving.ranking.shadows import Shadows
from stream_ctr.serving.routing.routing import Routing

_decoder = msgspec.json.Decoder(RankRequest)


class RankApi:
    """The ranking endpoint."""

    def __init__(
        self,
        serve: ServeConfig,
        routing: Routing,
        exposures: Shadows,
        admission: Admission,
        metrics: ServeMetrics,
    ) -> None:
        self._ranker = Ranker(routing, metrics, serve.max_client_ahead_seconds)
        self._exposures = exposures
        self._admission = admission
        self._metrics = metrics
        self._max_candidates = serve.max_candidates
        self.routes: Routes = {RANK.decode(): (POST, self._rank)}

    async def _rank(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        arm, body = await self._admission.admit(
            lambda: self._answer(scope, receive, started),
            lambda status: self._metrics.count_request(status, NO_ARM),
        )
        self._metrics.count_request(200, arm)
        self._metrics.observe_answer(arm, time.perf_counter() - started)
        await respond(send, 200, body)

    async def _answer(self, scope: Scope, receive: Receive, started: float) -> tuple[str, bytes]:
        """Arm and body of the response; the impression is queued for the log."""
        raw = await self._admission.read(scope, receive)
        async with self._admission.turn(started):
            request = decode_request(raw, self._max_candidates)
            now_ms = time.time_ns() // 1_000_000
            ranking = self._ranker.rank(request, now_ms, header(scope, OVERRIDE))
            record = encode_impression(ranking.impression, ranking.received_ms)
            if record.value is not None and len(record.value) > MAX_RECORD_BYTES:
                raise ApiError(
                    422,
                    f"the impression has {len(record.value)} bytes, the limit is {MAX_RECORD_BYTES}; "
                    "shorten user or the features of the best candidate",
                )
            body = msgspec.json.encode(ranking.answer)
            self._admission.check_deadline(started)
            self._exposures.put(ranking, record)
            return ranking.answer.arm, body


def decode_request(body: bytes, max_candidates: int) -> RankRequest:
    """Decode and check a request.

    Raises:
        ApiError: 400 for malformed JSON or a wrong schema, 422 for too few or too many candidates.
    """
    with malformed():
        request = _decoder.decode(body)
    size = len((request.event_id or "").encode())
    if size > MAX_EVENT_ID_BYTES:
        raise ApiError(
            400, f"event_id has {size} bytes, the limit is {MAX_EVENT_ID_BYTES}; send a shorter one"
        )
    count = len(request.candidates)
    if count == 0:
        raise ApiError(422, "candidates is empty; send at least one")
    if count > max_candidates:
        raise ApiError(
            422, f"candidates has {count} entries, the limit is {max_candidates} (serve.max_candidates)"
        )
    check_bids(request.candidates)
    return request


def check_bids(candidates: list[Candidate]) -> None:
    """Raises ApiError 400 if only some candidates have a bid: a default for the others would decide the
    ranking."""
    bids = [candidate.bid for candidate in candidates]
    if 0 < bids.count(None) < len(bids):
        raise ApiError(
            400,
            f"candidates[{bids.index(None)}] has no bid, but others do; send a bid with every candidate, or "
            "with none to rank by probability",
        )
