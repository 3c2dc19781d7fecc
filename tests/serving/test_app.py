"""The HTTP interface without a socket: answers, errors, and robustness against any body."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import httpx
import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stream_ctr.config.experiment import ArmConfig, ExperimentConfig
from stream_ctr.config.serve import ServeConfig
from stream_ctr.errors import ConfigError, StateError
from stream_ctr.events.records import MAX_EVENT_ID_BYTES, Impression
from stream_ctr.experiments.assignment import bucket_of
from stream_ctr.pipeline.decoding.records import RecordDecoder
from stream_ctr.predictors.predictor import Predictor
from stream_ctr.predictors.reader import load_snapshot
from stream_ctr.predictors.snapshot import path_of
from stream_ctr.serving.http.asgi import Message, Receive, Scope, Send
from stream_ctr.serving.routing.arm_predictors import SNAPSHOTS
from tests.support.served_arms import (
    CANDIDATE,
    CONTEXT,
    USERS,
    Json,
    Served,
    constant,
    not_a_number,
    publish,
    request,
    sample,
    serve_unchecked,
)
from tests.support.snapshots import example_snapshot
from tests.support.two_arm_server import SALT, TWO_ARMS


@pytest.fixture
def served(tmp_path: Path) -> Served:
    publish(tmp_path, "control")
    publish(tmp_path, "new", constant(0.25))
    return Served(tmp_path)


def impression(served: Served) -> Impression:
    value = served.kept.records[-1].value
    assert value is not None
    return msgspec.json.decode(value, type=Impression)


def test_candidates_are_scored_by_bid_times_probability(served: Served, tmp_path: Path) -> None:
    candidates: list[Json] = [
        {"features": {"tags": ["a"], "price": 0.5}, "bid": 1.0},
        {"features": {"tags": ["b", "zzz"], "price": 5.0}, "bid": 0.5},
        {"features": {"site": "sport"}, "bid": 3.0},
    ]
    answer = served.rank(request(candidates=0) | {"candidates": candidates}).json()
    predictor = Predictor(load_snapshot(path_of(tmp_path / "control" / SNAPSHOTS, 1)))
    features = [{**CONTEXT, **candidate["features"]} for candidate in candidates]
    expected = predictor.probabilities(predictor.encode(features))
    assert [entry["p"] for entry in answer["candidates"]] == expected.tolist()
    scores = [entry["score"] for entry in answer["candidates"]]
    assert scores == [p * c["bid"] for p, c in zip(expected.tolist(), candidates, strict=True)]
    assert answer["best"] == int(np.argmax(scores))
    assert (answer["arm"], answer["model_version"], answer["experiment"]) == ("control", "1", "two")


def test_the_shown_candidate_is_logged_with_every_arms_probability(served: Served) -> None:
    shown = {"features": {"site": "sport"}, "bid": 1e6, "truth": 0.125}
    user = USERS["new"]
    answer = served.rank(request(user, candidates=2) | {"candidates": [CANDIDATE, shown]}).json()
    logged = impression(served)
    assert len(served.kept.records) == 1
    assert answer["best"] == 1
    assert logged.event_id == answer["event_id"]
    assert served.kept.records[0].key == answer["event_id"].encode()
    assert logged.features == CONTEXT | {"site": "sport"}
    assert (logged.user, logged.bid, logged.truth) == (user, 1e6, 0.125)
    assert (logged.experiment, logged.salt, logged.bucket) == ("two", SALT, bucket_of(SALT, user))
    assert (logged.assigned_arm, logged.arm, logged.reason) == ("new", "new", "assigned")
    assert logged.model_version == "1"
    assert logged.p.keys() == {"control", "new"}
    assert logged.p["new"] == answer["candidates"][1]["p"] == 0.25
    control = served.rank(request(USERS["control"], candidates=0) | {"candidates": [shown]}).json()
    assert logged.p["control"] == control["candidates"][0]["p"]


def test_event_id_and_time_can_be_given(served: Served) -> None:
    answer = served.rank(request(event_id="abc", ts_ms=12345)).json()
    assert answer["event_id"] == "abc"
    assert (impression(served).event_id, impression(served).ts_ms) == ("abc", 12345)
    served.rank(request(ts_ms=1.6e12 + 0.75))
    assert impression(served).ts_ms == 1_600_000_000_000


def test_event_ids_of_the_server_differ(served: Served) -> None:
    assert len({served.rank(request()).json()["event_id"] for _ in range(20)}) == 20


def test_without_bids_the_ranking_is_by_probability(served: Served) -> None:
    answer = served.rank({"user": "u", "candidates": [{"features": {"site": "news"}}]}).json()
    assert answer["candidates"][0]["p"] == answer["candidates"][0]["score"]


@pytest.mark.parametrize("none", [{}, {"bid": None}])
def test_bids_come_with_every_candidate_or_with_none(served: Served, none: Json) -> None:
    """A default for those that are missing would decide the ranking."""
    features: Json = {"features": {"site": "news"}}
    alone = served.rank({"user": "u", "candidates": [{**features, **none}] * 2})
    assert alone.status_code == 200
    assert impression(served).bid == 1.0
    for candidates in ([{**features, "bid": 0.3}, {**features, **none}], [none, {"bid": 0.0}, none]):
        mixed = served.rank({"user": "u", "candidates": candidates})
        assert mixed.status_code == 400
        at = next(n for n, candidate in enumerate(candidates) if candidate.get("bid") is None)
        assert f"candidates[{at}] has no bid" in mixed.json()["error"]
    assert len(served.kept.records) == 1
    free = served.rank({"user": "u", "candidates": [{**features, "bid": 0}, {**features, "bid": 0.5}]}).json()
    assert (free["candidates"][0]["score"], free["best"]) == (0.0, 1)


def test_of_equal_scores_the_first_is_best(served: Served) -> None:
    assert served.rank(request(candidates=5)).json()["best"] == 0


def test_unknown_values_are_answered_and_change_nothing(served: Served) -> None:
    first = served.rank(request()).json()["candidates"]
    for n in range(50):
        odd = {"features": {"site": f"never seen {n}", "tags": [f"new {n}", f"newer {n}"]}}
        assert served.rank(request() | {"candidates": [odd]}).status_code == 200
    assert served.rank(request()).json()["candidates"] == first


def test_users_outside_the_coverage_get_the_control_and_no_arm(tmp_path: Path) -> None:
    publish(tmp_path, "control", constant(0.5))
    publish(tmp_path, "new", constant(0.25))
    served = Served(tmp_path, replace(TWO_ARMS, coverage=0.0))
    answer = served.rank(request(USERS["new"])).json()
    logged = impression(served)
    assert (answer["arm"], answer["candidates"][0]["p"]) == ("control", 0.5)
    assert (logged.assigned_arm, logged.arm, logged.reason) == ("", "control", "not_enrolled")


def test_users_of_an_arm_without_snapshot_get_the_control(tmp_path: Path) -> None:
    publish(tmp_path, "control", constant(0.5))
    served = Served(tmp_path)
    answer = served.rank(request(USERS["new"])).json()
    logged = impression(served)
    assert (answer["arm"], logged.assigned_arm, logged.arm, logged.reason) == (
        "control",
        "new",
        "control",
        "fallback",
    )
    assert logged.p.keys() == {"control"}
    assert sample(served.get("/metrics").text, "stream_ctr_serve_fallbacks_total", arm="new") == 1
    publish(tmp_path, "new", constant(0.25))
    served.arms.poll()
    assert served.rank(request(USERS["new"])).json()["arm"] == "new"


def test_an_arm_with_non_finite_predictions_falls_back_to_the_control(tmp_path: Path) -> None:
    publish(tmp_path, "control", constant(0.5))
    served = Served(tmp_path)
    serve_unchecked(served, tmp_path, "new", not_a_number())
    assert served.rank(request(USERS["new"])).json()["arm"] == "control"
    assert (impression(served).reason, impression(served).p) == ("fallback", {"control": 0.5})
    text = served.get("/metrics").text
    assert sample(text, "stream_ctr_serve_non_finite_predictions_total", arm="new") > 0
    assert sample(text, "stream_ctr_serve_fallbacks_total", arm="new") == 1


def test_a_control_with_non_finite_predictions_is_503(tmp_path: Path) -> None:
    served = Served(tmp_path)
    serve_unchecked(served, tmp_path, "control", not_a_number())
    answer = served.rank(request(USERS["control"]))
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert served.kept.records == []


def test_without_a_control_snapshot_the_server_lives_but_is_not_ready(tmp_path: Path) -> None:
    publish(tmp_path, "new", constant(0.5))
    served = Served(tmp_path)
    assert served.get("/health/live").status_code == 200
    ready = served.get("/health/ready")
    assert ready.status_code == 503
    assert "control" in ready.json()["error"]
    assert {name: arm["ready"] for name, arm in ready.json()["arms"].items()} == {
        "control": False,
        "new": True,
    }
    refused = served.rank(request(USERS["control"]))
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
    assert served.kept.records == []
    publish(tmp_path, "control")
    served.arms.poll()
    assert served.get("/health/ready").json()["arms"]["control"]["version"] == 1
    assert served.get("/health/ready").status_code == 200


def test_a_damaged_snapshot_keeps_the_old_one_in_use_and_is_reported(served: Served, tmp_path: Path) -> None:
    before = served.rank(request()).json()["candidates"]
    version = publish(tmp_path, "control", constant(0.9))
    (path_of(tmp_path / "control" / SNAPSHOTS, version) / "arrays.safetensors").write_bytes(b"torn")
    served.arms.poll()
    after = served.rank(request()).json()
    assert (after["candidates"], after["model_version"]) == (before, "1")
    ready = served.get("/health/ready")
    assert ready.status_code == 200
    assert "arrays.safetensors" in ready.json()["arms"]["control"]["error"]
    text = served.get("/metrics").text
    assert sample(text, "stream_ctr_serve_snapshot_stale", arm="control") == 1
    assert sample(text, "stream_ctr_serve_snapshot_stale", arm="new") == 0
    assert sample(text, "stream_ctr_serve_snapshot_failures_total", arm="control") == 1
    assert sample(text, "stream_ctr_serve_snapshot_version", arm="control") == 1
    publish(tmp_path, "control", constant(0.9))
    served.arms.poll()
    assert served.rank(request()).json()["model_version"] == "3"
    assert sample(served.get("/metrics").text, "stream_ctr_serve_snapshot_stale", arm="control") == 0


def test_a_diverged_snapshot_keeps_the_old_one_in_use_and_is_reported(served: Served, tmp_path: Path) -> None:
    before = served.rank(request()).json()["candidates"]
    diverged = example_snapshot()
    for array in diverged.dense.values():
        array *= np.float32(1e25)
        assert np.isfinite(array).all()
    publish(tmp_path, "control", diverged)
    served.arms.poll()
    served.arms.poll()
    answer = served.rank(request()).json()
    assert (answer["candidates"], answer["model_version"]) == (before, "1")
    ready = served.get("/health/ready")
    assert ready.status_code == 200
    assert "not finite" in ready.json()["arms"]["control"]["error"]
    text = served.get("/metrics").text
    assert sample(text, "stream_ctr_serve_snapshot_stale", arm="control") == 1
    assert sample(text, "stream_ctr_serve_snapshot_failures_total", arm="control") == 1
    started = Served(tmp_path)
    assert started.rank(request()).json()["candidates"] == before, "a server that starts takes the one before"
    assert "not finite" in started.get("/health/ready").json()["arms"]["control"]["error"]
    publish(tmp_path, "control", constant(0.9))
    served.arms.poll()
    assert served.rank(request()).json()["model_version"] == "3"
    assert sample(served.get("/metrics").text, "stream_ctr_serve_snapshot_stale", arm="control") == 0


def test_a_diverged_frozen_snapshot_stops_the_server_at_startup(tmp_path: Path) -> None:
    publish(tmp_path, "control", constant(0.5))
    publish(tmp_path, "frozen", not_a_number())
    folder = str(path_of(tmp_path / "frozen" / SNAPSHOTS, 1))
    arms = (ArmConfig("control", 0.5), ArmConfig("frozen", 0.5, snapshot=folder))
    with pytest.raises(StateError, match=r"'frozen': snapshot cannot serve: .*not finite"):
        Served(tmp_path, ExperimentConfig(name="x", salt="x", arms=arms))


def test_a_snapshot_that_does_not_match_its_model_is_rejected(served: Served, tmp_path: Path) -> None:
    content = example_snapshot()
    del content.dense["output.bias"]
    publish(tmp_path, "control", content)
    short = example_snapshot()
    publish(tmp_path, "new", replace(short, rows=short.rows[:3]))
    served.arms.poll()
    ready = served.get("/health/ready").json()["arms"]
    assert "output.bias" in ready["control"]["error"]
    assert "row" in ready["new"]["error"]
    assert (ready["control"]["version"], ready["new"]["version"]) == (1, 1)


def test_metrics_count_requests_and_predictions_by_arm(served: Served) -> None:
    served.rank(request(USERS["control"], candidates=3))
    served.rank(request(USERS["new"]))
    served.rank(b"{")
    text = served.get("/metrics").text
    assert sample(text, "stream_ctr_serve_requests_total", arm="control", code="200") == 1
    assert sample(text, "stream_ctr_serve_requests_total", arm="new", code="200") == 1
    assert sample(text, "stream_ctr_serve_requests_total", arm="", code="400") == 1
    assert sample(text, "stream_ctr_serve_predictions_total", arm="control") == 4
    assert sample(text, "stream_ctr_serve_predictions_total", arm="new") == 2
    assert sample(text, "stream_ctr_serve_request_duration_seconds_count", arm="new") == 1
    assert sample(text, "stream_ctr_serve_snapshot_event_timestamp_seconds", arm="new") == 1_700_000_000.0


BAD: list[tuple[bytes, int, str]] = [
    (b"", 400, "malformed"),
    (b"{", 400, "malformed"),
    (b"[]", 400, "object"),
    (b"null", 400, "object"),
    (b'{"user": "u"}', 400, "candidates"),
    (b'{"user": 3, "candidates": [{}]}', 400, "user"),
    (b'{"user": "", "candidates": [{}]}', 400, "user"),
    (b'{"user": "u", "candidates": [{}], "ts_ms": 18446744073709551615}', 400, "ts_ms"),
    (b'{"user": "u", "candidates": [{}], "ts_ms": -1}', 400, "ts_ms"),
    (b'{"user": "u", "candidates": [{}], "ts_ms": "1"}', 400, "ts_ms"),
    (b'{"user": "u", "candidates": {}}', 400, "candidates"),
    (b'{"user": "u", "candidates": []}', 422, "empty"),
    (b'{"user": "u", "candidates": [{}], "fetures": {}}', 400, "fetures"),
    (b'{"user": "u", "candidates": [{"bid": -1}]}', 400, "bid"),
    (b'{"user": "u", "candidates": [{"bid": 1e999}]}', 400, "range"),
    (b'{"user": "u", "candidates": [{"bid": NaN}]}', 400, "malformed"),
    (b'{"user": "u", "candidates": [{"truth": 2}]}', 400, "truth"),
    (b'{"user": "u", "candidates": [{"features": {"site": {"a": 1}}}]}', 400, "site"),
    (b'{"user": "u", "candidates": [{"features": {"price": "dear"}}]}', 400, "price"),
    (b'{"user": "u", "candidates": [{"features": {"tags": [[1]]}}]}', 400, "tags"),
    (b'{"user": "u", "candidates": [{"bid": 1.1e12}]}', 400, "bid"),
    (b'{"user": "u", "candidates": [{}], "event_id": "%s"}' % (b"a" * 257), 400, "event_id"),
    (
        '{"user": "u", "candidates": [{}], "event_id": "%s"}'.replace("%s", "é" * 129).encode(),
        400,
        "258 bytes",
    ),
    (b'{"user": "\xff", "candidates": [{}]}', 400, "UTF-8"),
    (b'{"user": "\\ud800", "candidates": [{}]}', 400, "malformed"),
    (b'{"user": "u", "candidates": [{"features": {"site": "\xc3\x28"}}]}', 400, "UTF-8"),
    (b"[" * 100_000, 400, "object"),
    (b'{"x":' * 100_000, 400, "x"),
    (b'{"user": "u", "candidates": [{"features": {"tags": ' + b"[" * 100_000, 400, ""),
    (b'{"user": "u", "candidates": [{"features": {"age": ' + b"9" * 5000 + b"}}]}", 400, ""),
]


@pytest.mark.parametrize(("body", "status", "text"), BAD, ids=range(len(BAD)))
def test_bad_bodies_get_one_line_that_says_why(served: Served, body: bytes, status: int, text: str) -> None:
    answer = served.rank(body)
    assert answer.status_code == status
    assert answer.json().keys() == {"error"}
    assert text in answer.json()["error"]
    assert "\n" not in answer.json()["error"]
    assert "Traceback" not in answer.text
    assert served.kept.records == []


def test_each_limit_has_its_own_status_code(tmp_path: Path) -> None:
    publish(tmp_path, "control", constant(0.5))
    served = Served(tmp_path, serve=ServeConfig(max_body_bytes=2000, max_candidates=3))
    assert served.rank(request(candidates=3)).status_code == 200
    assert served.rank(request(candidates=4)).status_code == 422
    big = served.rank(b" " * 2001)
    assert (big.status_code, big.headers["connection"]) == (413, "close")
    for headers in (
        {"content-type": "text/plain"},
        {"content-type": "application/x-www-form-urlencoded"},
        {"content-type": "application/octet-stream"},
        {"content-type": "application/json", "content-encoding": "gzip"},
        {"origin": "http://127.0.0.1:8100"},
    ):
        assert served.rank(msgspec.json.encode(request()), headers).status_code == 415
    for headers in ({"content-type": "application/json; charset=utf-8"}, {"content-type": ""}, {"x": "y"}):
        assert served.rank(msgspec.json.encode(request()), headers).status_code == 200


def test_an_impression_too_long_for_the_log_is_refused(tmp_path: Path) -> None:
    publish(tmp_path, "control", constant(0.5))
    served = Served(tmp_path)
    answer = served.rank(request() | {"features": {"site": "x" * 600_000}})
    assert answer.status_code == 422
    assert "524288" in answer.json()["error"]
    assert served.kept.records == []


def test_unknown_paths_and_methods_are_404_and_405(served: Served) -> None:
    assert served.get("/").status_code == 404
    wrong = served.get("/v1/rank")
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")
    assert served.run(lambda client: client.post("/metrics")).status_code == 405
    assert served.run(lambda client: client.head("/health/live")).status_code == 200


def test_requests_beyond_max_waiting_are_rejected_at_once(tmp_path: Path) -> None:
    publish(tmp_path, "control", constant(0.5))
    served = Served(tmp_path, serve=ServeConfig(max_waiting=8))

    async def crowd(client: httpx.AsyncClient) -> tuple[list[httpx.Response], httpx.Response]:
        posts = [client.post("/v1/rank", json=request()) for _ in range(50)]
        *answers, live = await asyncio.gather(*posts, client.get("/health/live"))
        return answers, live

    answers, live = served.run(crowd)
    codes = [answer.status_code for answer in answers]
    assert live.status_code == 200
    assert set(codes) == {200, 503}
    assert codes.count(200) >= 8
    assert all(a.headers["retry-after"] == "1" for a in answers if a.status_code == 503)
    assert len(served.kept.records) == codes.count(200)
    assert served.rank(request()).status_code == 200, "the places of the refused are free again"


def test_clients_that_retry_at_once_do_not_starve_the_others(tmp_path: Path) -> None:
    publish(tmp_path, "control", constant(0.5))
    served = Served(tmp_path, serve=ServeConfig(max_waiting=8, deadline_seconds=60.0))
    codes: list[int] = []

    async def insist(client: httpx.AsyncClient) -> None:
        while codes.count(200) < 24:
            codes.append((await client.post("/v1/rank", json=request())).status_code)
            await asyncio.sleep(
                0
            )  # a refusal without a socket waits for nothing, so the loop would stand still

    async def crowd(client: httpx.AsyncClient) -> None:
        await asyncio.gather(*(insist(client) for _ in range(80)))

    served.run(crowd)
    # Were one computed in each round of the loop, the 72 others would all be refused once for each of them.
    assert codes.count(503) < 60 * codes.count(200)
    assert set(codes) == {200, 503}


def test_an_answer_past_its_deadline_is_504_and_not_logged(tmp_path: Path) -> None:
    publish(tmp_path, "control", constant(0.5))
    served = Served(tmp_path, serve=ServeConfig(deadline_seconds=0.0))
    assert served.rank(request()).status_code == 504
    assert served.kept.records == []


def scope(headers: list[tuple[bytes, bytes]]) -> Scope:
    return {"type": "http", "method": "POST", "path": "/v1/rank", "headers": headers}


def talk(served: Served, messages: list[Message]) -> list[Message]:
    """What the application sends to a client that sends these messages and then nothing more."""
    sent: list[Message] = []

    async def receive() -> Message:
        if messages:
            return messages.pop(0)
        await asyncio.Event().wait()
        raise AssertionError("unreachable")

    async def send(message: Message) -> None:
        sent.append(message)

    asyncio.run(_talk(served, receive, send))
    return sent


async def _talk(served: Served, receive: Receive, send: Send) -> None:
    headers = [(b"content-type", b"application/json")]
    await asyncio.wait_for(served.app(scope(headers), receive, send), 10)


def test_a_body_that_does_not_come_is_408(tmp_path: Path) -> None:
    publish(tmp_path, "control", constant(0.5))
    served = Served(tmp_path, serve=ServeConfig(deadline_seconds=0.02))
    sent = talk(served, [{"type": "http.request", "body": b"{", "more_body": True}])
    assert sent[0]["status"] == 408
    assert (b"connection", b"close") in sent[0]["headers"]


def test_a_body_in_pieces_is_read_and_measured_whole(tmp_path: Path) -> None:
    publish(tmp_path, "control", constant(0.5))
    served = Served(tmp_path, serve=ServeConfig(max_body_bytes=1000))
    raw = msgspec.json.encode(request())
    pieces: list[Message] = [
        {"type": "http.request", "body": raw[i : i + 7], "more_body": True} for i in range(0, len(raw), 7)
    ]
    sent = talk(served, [*pieces, {"type": "http.request", "body": b"", "more_body": False}])
    assert sent[0]["status"] == 200
    spaces: list[Message] = [{"type": "http.request", "body": b" " * 300, "more_body": True}] * 4
    assert talk(served, spaces)[0]["status"] == 413


def test_a_client_that_leaves_is_not_answered(served: Served) -> None:
    sent = talk(
        served, [{"type": "http.request", "body": b"{", "more_body": True}, {"type": "http.disconnect"}]
    )
    assert sent == []
    assert served.rank(request()).status_code == 200


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
FEATURES = st.dictionaries(st.sampled_from(["site", "tags", "age", "price", "odd"]), JSON_VALUES, max_size=4)
NEARLY = st.fixed_dictionaries(
    {
        "user": st.just("u") | JSON_VALUES,
        "candidates": st.lists(st.fixed_dictionaries({"features": FEATURES})),
    },
    optional={
        "features": FEATURES,
        "event_id": JSON_VALUES,
        "ts_ms": JSON_VALUES,
        "surprise": JSON_VALUES,
    },
)


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Served:
    state = tmp_path_factory.mktemp("state")
    publish(state, "control")
    publish(state, "new")
    return Served(state)


def check_answer(served: Served, body: bytes) -> None:
    answer = served.rank(body)
    content: Json = answer.json()
    assert answer.status_code in (200, 400, 422)
    if answer.status_code == 200:
        assert all(0.0 <= entry["p"] <= 1.0 for entry in content["candidates"])
        value = served.kept.records[-1].value
        assert value is not None
        assert msgspec.json.decode(value, type=Impression).event_id == content["event_id"]
    else:
        assert content.keys() == {"error"}


@given(st.binary(max_size=200))
@settings(max_examples=100, deadline=None)
def test_no_bytes_crash_the_server(fuzzed: Served, body: bytes) -> None:
    check_answer(fuzzed, body)


@given(NEARLY)
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_no_json_crashes_the_server(fuzzed: Served, body: Json) -> None:
    check_answer(fuzzed, json.dumps(body).encode())


def test_an_invalid_experiment_is_rejected(tmp_path: Path) -> None:
    arms = (ArmConfig("a", 0.5), ArmConfig("b", 0.4))
    with pytest.raises(ConfigError, match=r"sum to 0\.9"):
        Served(tmp_path, ExperimentConfig(arms=arms))


def test_the_longest_event_id_is_accepted_by_the_log(served: Served) -> None:
    longest = "é" * (MAX_EVENT_ID_BYTES // 2)
    assert served.rank({**request(), "event_id": longest}).status_code == 200
    assert RecordDecoder().impression(served.kept.records[-1].value).event_id == longest


def test_unknown_features_and_cut_values_are_counted(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    unknown = {"sight": {"nested": 1}}
    several = [{"features": {"site": "news", "tags": list("abcde"), "other": 1}}, {"features": unknown}]
    for _ in range(2):
        assert served.rank({**request(), "candidates": several}).status_code == 200
    text = served.get("/metrics").text
    assert sample(text, "stream_ctr_serve_features_ignored_total", field="sight") == 2
    assert sample(text, "stream_ctr_serve_features_ignored_total", field="other") == 2
    assert sample(text, "stream_ctr_serve_values_truncated_total") == 4
    assert sum("'sight' is ignored" in record.message for record in caplog.records) == 1


def test_unknown_features_are_rejected_if_configured(tmp_path: Path) -> None:
    publish(tmp_path, "control")
    served = Served(tmp_path, unknown="refuse")
    for candidates in ([{"features": {"sight": "x"}}], [{}, {"features": {"sight": "x"}}]):
        answer = served.rank({"user": "u", "candidates": candidates})
        assert answer.status_code == 400
        assert "did you mean 'site'" in answer.json()["error"]
