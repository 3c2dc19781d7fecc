"""Visits: a function of their number alone, with the world's own click probabilities."""

from __future__ import annotations

import math

import numpy as np
import pytest

from simulators.closed_loop.report import CURVE_POINTS, CURVE_VISITS, Latencies, Outcome, Tally
from simulators.closed_loop.visits import VISIT_BLOCK, Visit, Visits
from simulators.world.population import DEVICE_NAMES
from simulators.world.settings import WorldConfig
from simulators.world.world import Contexts, World
from stream_ctr.datasets.world import WORLD_FIELDS
from stream_ctr.serving.http.rank_api import decode_request

CONFIG = WorldConfig(seed=11, users=500, ads=100, sites=40, events_per_second=50.0, sudden_at=700)
WORLD = World(CONFIG)
VISITS = Visits(WORLD, 5)


def test_a_single_visit_equals_that_of_the_whole_sequence() -> None:
    whole = [VISITS.visit(number) for number in range(3 * VISIT_BLOCK)]
    random = np.random.default_rng(3)
    for number in random.integers(0, len(whole), 40).tolist():
        assert Visits(WORLD, 5).visit(number) == whole[number]
    assert [visit.event_id for visit in whole[:2]] == ["visit-11-0", "visit-11-1"]
    assert [visit.time_ms for visit in whole[:3]] == [CONFIG.start_ms + 20 * n for n in range(3)]


def test_a_single_click_draw_equals_that_of_the_visit() -> None:
    for number in (0, VISIT_BLOCK - 1, VISIT_BLOCK, 5 * VISIT_BLOCK + 17, 3):
        visit = VISITS.visit(number)
        assert VISITS.click_draw(number) == (visit.click_draw, visit.delay_ms)


def test_adding_candidates_does_not_change_the_others() -> None:
    for number in (0, 300):
        few, many = VISITS.visit(number), Visits(WORLD, 9).visit(number)
        assert many.truth[:5] == few.truth
        assert many.bid[:5] == few.bid
        assert (many.click_draw, many.delay_ms) == (few.click_draw, few.delay_ms)


@pytest.mark.parametrize("number", [0, 255, 256, 699, 700, 900])
def test_the_request_holds_the_inputs_of_the_truth(number: int) -> None:
    """Recompute each candidate's truth from the names in the request, one candidate at a time."""
    visit = VISITS.visit(number)
    request = decode_request(visit.body, 5)
    assert (request.event_id, request.ts_ms) == (visit.event_id, visit.time_ms)
    context = request.features
    user, site = int(str(context["user"])[1:]), int(str(context["site"])[4:])
    assert request.user == context["user"]
    assert context["interests"] == [f"i{interest}" for interest in WORLD.users.interests[user]]
    assert context["segment"] == f"s{WORLD.users.segment[user]}"
    visits = context["visits"]
    assert isinstance(visits, int)
    for candidate, truth, bid in zip(request.candidates, visit.truth, visit.bid, strict=True):
        ad, price = int(str(candidate.features["ad"])[2:]), candidate.features["price"]
        assert isinstance(price, float)
        discount = (math.log(price) - WORLD.ads.price[ad]) / 0.4  # the price is rounded, so nearly
        one = Contexts(
            np.array([number]),
            np.array([visit.time_ms]),
            np.array([user]),
            np.array([site]),
            np.array([DEVICE_NAMES.index(str(context["device"]))]),
            np.array([visits]),
            np.array([discount]),
        )
        assert WORLD.probability(one, np.array([ad]))[0] == pytest.approx(truth, rel=0.02)
        assert (candidate.truth, candidate.bid) == (truth, bid)
        assert set(candidate.features) | set(context) == {field.name for field in WORLD_FIELDS}


def test_click_rates_match_the_truth() -> None:
    visits = [VISITS.visit(number) for number in range(20 * VISIT_BLOCK)]
    for shown in (0, 4):
        clicks = np.array([visit.clicks(shown) for visit in visits])
        truth = np.array([visit.truth[shown] for visit in visits])
        error = np.sqrt((truth * (1 - truth)).sum()) / len(truth)
        assert abs(clicks.mean() - truth.mean()) < 4 * error
    delays = np.array([visit.delay_ms for visit in visits])
    assert delays.min() >= 1
    assert delays.mean() == pytest.approx(1000 * CONFIG.delay_seconds, rel=0.05)


def _visit(bid: tuple[float, ...], truth: tuple[float, ...], draw: float) -> Visit:
    return Visit(0, "visit-1-0", 0, b"", bid, truth, draw, 1)


def test_a_tally_equals_a_manual_computation() -> None:
    tally = Tally()
    tally.add(_visit((1.0, 4.0), (0.5, 0.2), 0.3), 0)  # clicked; the other one is worth .8
    tally.add(_visit((1.0, 4.0), (0.5, 0.2), 0.3), 1)  # not clicked
    figures = tally.as_dict()
    assert (figures["visits"], figures["clicks"], figures["ctr"]) == (2, 1, 0.5)
    assert figures["expected_ctr"] == pytest.approx(0.35)
    assert figures["best_ctr"] == pytest.approx(0.2)
    assert figures["random_ctr"] == pytest.approx(0.35)
    assert figures["value_per_thousand"] == pytest.approx(500.0)
    assert figures["expected_value_per_thousand"] == pytest.approx(1000 * (0.5 + 0.8) / 2)
    assert figures["best_value_per_thousand"] == pytest.approx(800.0)
    assert figures["random_value_per_thousand"] == pytest.approx(650.0)
    assert figures["regret_per_thousand"] == pytest.approx(150.0)
    assert figures["share_of_way"] == pytest.approx(0.0)
    assert Tally().as_dict()["ctr"] is None


def test_a_long_curve_is_merged_without_losing_visits() -> None:
    outcome = Outcome()
    count = (CURVE_POINTS + 7) * CURVE_VISITS
    visit = _visit((1.0, 1.0), (0.5, 0.25), 0.3)
    for number in range(count):
        outcome.add("ab"[number % 2], visit, number % 2)
    result = outcome.as_dict()
    curve = result["curve"]
    assert CURVE_POINTS / 2 <= len(curve) <= CURVE_POINTS
    assert [point["visits"] for point in curve] == sorted({point["visits"] for point in curve})
    assert curve[-1]["visits"] == count
    for arm in "ab":
        assert sum(point["arms"][arm]["visits"] for point in curve) == result["arms"][arm]["visits"]
    assert result["arms"]["a"]["clicks"] == count - count // 2
    assert result["arms"]["b"]["clicks"] == 0


def test_quantiles_are_accurate_to_two_percent() -> None:
    seconds = np.random.default_rng(5).lognormal(-5.0, 1.0, 20_000)
    latencies = Latencies()
    for each in seconds.tolist():
        latencies.add(each)
    for part in (0.01, 0.5, 0.99, 1.0):
        assert latencies.quantile(part) == pytest.approx(np.quantile(seconds, part), rel=0.03)
    assert Latencies().quantile(0.5) is None
    assert Latencies().as_dict() == {"p50": None, "p99": None, "longest": None}
