"""The contract of a ranking: request, response, and the event time of the impression."""

from __future__ import annotations

from typing import Annotated, Any, Final

import msgspec

from stream_ctr.events.records import MAX_EVENT_ID_BYTES, MAX_WORTH
from stream_ctr.serving.api_error import ApiError

LATEST_MS: Final = 253_402_300_799_999
"""The end of the year 9999. A log rejects later times, and a rejected record would block all later ones."""

_SECONDS: Final = range(10**9, 10**10)
"""Unix times in seconds from 2001 to 2286. Read as milliseconds, they fall into early 1970."""

Features = dict[str, Any]
"""Values by name. The arm's encoder checks them against its schema."""
Probability = Annotated[float, msgspec.Meta(ge=0, le=1)]
EventId = Annotated[str, msgspec.Meta(max_length=MAX_EVENT_ID_BYTES)]
"""At most MAX_EVENT_ID_BYTES in UTF-8; a JSON schema can only count characters."""
EventTime = Annotated[float, msgspec.Meta(ge=0, le=LATEST_MS)]
"""Milliseconds. JSON has one number type, so 1e12 and 1000000000000.0 are valid; fractions are truncated."""
UserId = Annotated[str, msgspec.Meta(min_length=1, max_length=1024)]


class Candidate(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """One candidate to rank."""

    features: Features = {}
    """Features of the candidate; they override context features of the same name."""
    bid: Annotated[float, msgspec.Meta(ge=0, le=MAX_WORTH)] | None = None
    """Value of a click. All candidates have a bid, or none; without bids the ranking is by probability."""
    truth: Probability | None = None
    """Ground-truth click probability, from simulators; copied into the impression, never used."""


class RankRequest(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """Candidates to rank for one user."""

    user: UserId
    """Unit of assignment: a user is always assigned to the same arm."""
    candidates: list[Candidate]
    features: Features = {}
    """Context features, shared by all candidates."""
    event_id: EventId | None = None
    """Id of the impression; if empty, the server generates one. A repeated id is learned once."""
    ts_ms: EventTime | None = None
    """Event time of the impression in milliseconds, for backfills and simulators. Capped at the server's
    clock, which is also the default."""


class CandidateAnswer(msgspec.Struct, gc=False):
    """Click probability and score (bid x probability) of the candidate at the same index."""

    p: float
    score: float


class RankAnswer(msgspec.Struct, gc=False):
    """The ranking; ``best`` is the index of the candidate with the highest score, logged as the shown one."""

    event_id: str
    arm: str
    model_version: str
    experiment: str
    candidates: list[CandidateAnswer]
    best: int


def event_time_ms(ts_ms: float | None, now_ms: int, max_ahead_seconds: float) -> int:
    """Event time of an impression, capped at the server's clock ``now_ms``: a client's clock must not close
    the label windows of other clients' impressions.

    Raises:
        ApiError: 400 if ``ts_ms`` is more than ``max_ahead_seconds`` ahead, or in seconds.
    """
    if ts_ms is None:
        return now_ms
    time_ms = int(ts_ms)
    if time_ms in _SECONDS:
        raise ApiError(400, f"ts_ms = {time_ms} looks like seconds since 1970; send milliseconds")
    ahead_seconds = (time_ms - now_ms) / 1000.0
    if ahead_seconds > max_ahead_seconds:
        raise ApiError(
            400,
            f"ts_ms = {time_ms} is {ahead_seconds:g} s ahead of the server's clock, more than "
            f"serve.max_client_ahead_seconds = {max_ahead_seconds:g}; correct the client's clock, send "
            "milliseconds, or omit ts_ms",
        )
    return min(time_ms, now_ms)
