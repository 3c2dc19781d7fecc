"""A client's clock never moves event time beyond the server's own."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_ctr.config.experiment import ArmConfig, ExperimentConfig
from stream_ctr.config.serve import ServeConfig
from stream_ctr.events.records import Impression
from stream_ctr.serving.api_error import ApiError
from stream_ctr.serving.ranking.request import LATEST_MS, event_time_ms
from tests.serving.ranking.test_impression_log import eventually
from tests.support.served_arms import Served, constant, publish, request, sample

NOW = 1_764_000_000_000
LIMIT_SECONDS = 300.0


def now_ms() -> int:
    return time.time_ns() // 1_000_000


@pytest.mark.parametrize(
    ("ts_ms", "expected"),
    [
        (None, NOW),
        (NOW, NOW),
        (NOW - 1, NOW - 1),
        (NOW - 10**11, NOW - 10**11),
        (0, 0),
        (12345.9, 12345),
        (NOW + 1, NOW),
        (NOW + 300_000, NOW),
    ],
)
def test_an_event_time_is_capped_at_the_servers_clock(ts_ms: float | None, expected: int) -> None:
    assert event_time_ms(ts_ms, NOW, LIMIT_SECONDS) == expected


@pytest.mark.parametrize(
    ("ts_ms", "text"),
    [
        (NOW + 300_001, "300.001 s ahead"),
        (NOW + 23 * 3_600_000, "82800 s ahead"),
        (LATEST_MS, "serve.max_client_ahead_seconds = 300"),
        (NOW * 100, "send milliseconds"),
        (NOW // 1000, "looks like seconds"),
    ],
)
def test_an_invalid_event_time_is_rejected(ts_ms: float, text: str) -> None:
    with pytest.raises(ApiError) as refusal:
        event_time_ms(ts_ms, NOW, LIMIT_SECONDS)
    assert refusal.value.status == 400
    assert text in refusal.value.text


@given(st.floats(0, LATEST_MS), st.integers(10**12, 2 * 10**12), st.floats(0, 1e9))
def test_no_event_time_is_later_than_the_servers_clock(ts_ms: float, clock_ms: int, limit: float) -> None:
    with suppress(ApiError):
        assert event_time_ms(ts_ms, clock_ms, limit) <= clock_ms


def logged(served: Served) -> tuple[Impression, int]:
    """The newest impression, and its record's own timestamp."""
    record = served.kept.records[-1]
    return msgspec.json.decode(record.value or b"", type=Impression), record.timestamp_ms


@pytest.mark.parametrize("behind_ms", [0, 86_400_000, 20 * 365 * 86_400_000])
def test_a_record_is_stamped_with_the_servers_clock_whatever_its_event_time(
    tmp_path: Path, behind_ms: int
) -> None:
    publish(tmp_path, "control", constant(0.5))
    served, before = Served(tmp_path), now_ms()
    assert served.rank(request(ts_ms=before - behind_ms)).status_code == 200
    impression, stamp = logged(served)
    assert impression.ts_ms == before - behind_ms
    assert before <= stamp <= now_ms()


def test_shadow_arms_do_not_change_timestamps(tmp_path: Path) -> None:
    for arm in ("control", "next"):
        publish(tmp_path, arm, constant(0.5))
    arms = (ArmConfig("control", 1.0), ArmConfig("next", 0.0, shadow=True))
    served, before = Served(tmp_path, ExperimentConfig(name="x", salt="x", arms=arms)), now_ms()
    assert served.rank(request(ts_ms=12345)).status_code == 200
    eventually(lambda: len(served.kept.records) == 1)
    impression, stamp = logged(served)
    assert (impression.ts_ms, impression.p) == (12345, {"control": 0.5, "next": 0.5})
    assert before <= stamp <= now_ms()


def test_a_clock_ahead_is_capped_and_counted_or_rejected(tmp_path: Path) -> None:
    publish(tmp_path, "control", constant(0.5))
    served = Served(tmp_path, serve=ServeConfig(max_client_ahead_seconds=60.0))
    assert served.rank(request(ts_ms=now_ms() + 50_000)).status_code == 200
    impression, stamp = logged(served)
    assert impression.ts_ms == stamp <= now_ms()
    refused = served.rank(request(ts_ms=now_ms() + 80_000))
    assert refused.status_code == 400
    assert "serve.max_client_ahead_seconds = 60" in refused.json()["error"]
    assert len(served.kept.records) == 1
    text = served.get("/metrics").text
    assert sample(text, "stream_ctr_serve_clients_ahead_total") == 1
    assert sample(text, "stream_ctr_serve_requests_total", code="400", arm="") == 1
