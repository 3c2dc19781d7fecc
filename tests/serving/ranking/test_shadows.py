"""Shadow arms predict the shown candidate, and their failures affect no answer."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from stream_ctr.config.experiment import ArmConfig, GuardConfig
from stream_ctr.config.features import UnknownFeatures
from stream_ctr.events.records import Impression
from stream_ctr.features.keys.encoder import KeyEncoder
from stream_ctr.predictors.predictor import Predictor
from stream_ctr.predictors.reader import load_snapshot
from stream_ctr.predictors.snapshot import path_of
from stream_ctr.serving.ranking.shadows import CAPACITY
from stream_ctr.serving.routing.arm_predictors import SNAPSHOTS
from tests.support.served_arms import USERS, Json, Served, constant, publish, request, sample
from tests.support.snapshots import FIELDS
from tests.support.two_arm_server import TWO_ARMS

DARK = replace(TWO_ARMS, arms=(*TWO_ARMS.arms, ArmConfig("dark", 0.0, shadow=True)))


@pytest.fixture
def state(tmp_path: Path) -> Path:
    for arm, p in (("control", 0.25), ("new", 0.5), ("dark", 0.75)):
        publish(tmp_path, arm, constant(p))
    return tmp_path


def impressions(served: Served) -> dict[str, Impression]:
    """All that were logged, the shadows done, by event id."""
    served.shadows.close()
    values = [record.value for record in served.kept.records]
    found = [msgspec.json.decode(value or b"", type=Impression) for value in values]
    assert len({each.event_id for each in found}) == len(found), "none is logged twice"
    return {each.event_id: each for each in found}


def metric(served: Served, name: str) -> float:
    return sample(served.get("/metrics").text, f"stream_ctr_serve_{name}", arm="dark")


def test_shadow_predictions_are_logged_and_never_answer(state: Path) -> None:
    served = Served(state, DARK)
    answers = served.rank_all([request(f"user-{n}", event_id=f"event-{n}") for n in range(40)])
    assert {answer.json()["arm"] for answer in answers} == {"control", "new"}
    found = impressions(served)
    assert len(found) == 40
    assert all(each.p == {"control": 0.25, "new": 0.5, "dark": 0.75} for each in found.values())
    assert metric(served, "shadow_predictions_total") == 40


def test_a_sampled_shadow_sees_the_same_events_in_every_server(state: Path) -> None:
    part = replace(DARK, arms=(*TWO_ARMS.arms, ArmConfig("dark", 0.0, shadow=True, shadow_sample=0.3)))
    seen = []
    for _ in range(2):
        served = Served(state, part)
        served.rank_all(events(60))
        seen.append({event for event, each in impressions(served).items() if "dark" in each.p})
    assert seen[0] == seen[1]
    assert 5 < len(seen[0]) < 35


class Faulty(Predictor):
    """A predictor of a real snapshot with a fault before each prediction."""

    def __init__(self, state: Path, fault: Callable[[], None]) -> None:
        super().__init__(load_snapshot(path_of(state / "dark" / SNAPSHOTS, 1)))
        self._fault = fault

    def probabilities(self, keys: NDArray[np.uint64]) -> NDArray[np.float32]:
        self._fault()
        return super().probabilities(keys)


def with_fault(state: Path, fault: Callable[[], None], guards: GuardConfig | None = None) -> Served:
    served = Served(state, DARK if guards is None else replace(DARK, guards=guards))
    sources = served.arms.prepare(served.routing.plan.experiment)
    sources["dark"].predictor = Faulty(state, fault)
    served.arms.exchange(served.routing.plan, sources)
    return served


def events(count: int) -> list[Json]:
    return [request(USERS["new"], event_id=f"event-{n}") for n in range(count)]


def wait_for(free: threading.Event) -> None:
    assert free.wait(60)


def broken() -> None:
    raise RuntimeError("the shadow is broken")


def test_a_failing_shadow_affects_no_answer_and_no_impression(
    state: Path, caplog: pytest.LogCaptureFixture
) -> None:
    served = with_fault(state, broken, GuardConfig(max_non_finite=1))
    assert {answer.status_code for answer in served.rank_all(events(30))} == {200}
    found = impressions(served)
    assert len(found) == 30
    assert all(each.p == {"control": 0.25, "new": 0.5} for each in found.values())
    assert metric(served, "arm_failures_total") == 30
    assert caplog.text.count("Traceback") == 1, "the first failure is told, the others are counted"


def test_a_shadow_that_keeps_failing_is_killed(state: Path) -> None:
    served = with_fault(state, broken, GuardConfig(window=20, max_non_finite=0.2))
    served.rank_all(events(30))
    assert len(impressions(served)) == 30
    assert served.routing.plan.killed["dark"].cause == "non_finite"
    assert metric(served, "arm_failures_total") < 30


def test_a_shadow_that_hangs_is_skipped_and_counted_and_no_impression_is_lost(state: Path) -> None:
    free = threading.Event()
    served = with_fault(state, lambda: wait_for(free))
    total = CAPACITY + 40
    for answer in served.rank_all(events(total)):
        assert (answer.status_code, answer.json()["arm"]) == (200, "new")
    skipped = metric(served, "shadow_skips_total")
    assert skipped >= total - CAPACITY - 1, "the queue took what it has room for"
    assert len(served.kept.records) == skipped, "what is skipped goes to the log at once"
    free.set()
    found = impressions(served)
    assert found.keys() == {f"event-{n}" for n in range(total)}
    assert sum("dark" in each.p for each in found.values()) == total - metric(served, "shadow_skips_total")


def test_a_shadow_that_hangs_at_shutdown_is_abandoned(state: Path) -> None:
    free = threading.Event()
    served = with_fault(state, lambda: wait_for(free))
    served.rank_all(events(5))
    served.shadows.close(timeout_seconds=0.05)
    assert len(served.kept.records) >= 4, "all but the one in its hands"
    free.set()
    assert len(impressions(served)) == 5


@pytest.mark.parametrize("unknown", ["ignore", "refuse"])
def test_a_shadow_of_another_schema_predicts_where_it_may_ignore_features(
    state: Path, unknown: UnknownFeatures
) -> None:
    served = Served(state, DARK, unknown=unknown)
    fields = tuple(replace(field, name=f"other {field.name}") for field in FIELDS)
    content = replace(constant(0.75), fields=fields, encoder=KeyEncoder(fields).state())
    publish(state, "dark", content)
    served.arms.poll()
    assert served.rank(request(event_id="e")).status_code == 200
    others = {"dark": 0.75} if unknown == "ignore" else {}
    assert impressions(served)["e"].p == {"control": 0.25, "new": 0.5, **others}
