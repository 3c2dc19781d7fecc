"""The simulated world: deterministic, calibrated, with the configured drift, and worth a deep model."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulators.world.draws import Floats, gauss, uniforms, zipf
from simulators.world.settings import WorldConfig
from simulators.world.world import BLOCK, Block, World, sigmoid
from stream_ctr.datasets.world import WORLD_FIELDS
from stream_ctr.errors import UsageError

CONFIG = WorldConfig(seed=11, users=3_000, ads=400, sites=80)
WORLD = World(CONFIG)


def _truth(world: World, start: int, stop: int) -> Floats:
    return np.array([example.truth for example in world.examples(start, stop)])


def _blocks(world: World, count: int) -> list[Block]:
    return [world.block(index) for index in range(count)]


def _expected_log_loss(truth: Floats, p: Floats) -> float:
    """Mean log loss of predictions ``p`` over clicks drawn with probability ``truth``, in nats."""
    return float(-(truth * np.log(p) + (1.0 - truth) * np.log1p(-p)).mean())


@settings(max_examples=15, deadline=None)
@given(start=st.integers(0, 2 * BLOCK), length=st.integers(0, BLOCK + 50))
def test_any_part_of_the_stream_is_that_part_of_the_whole(start: int, length: int) -> None:
    whole = list(WORLD.examples(0, 3 * BLOCK + 50))
    assert list(WORLD.examples(start, start + length)) == whole[start : start + length]


def test_equal_settings_give_equal_events_and_another_seed_others() -> None:
    again = list(World(CONFIG).examples(BLOCK - 3, BLOCK + 3))
    assert again == list(WORLD.examples(BLOCK - 3, BLOCK + 3))
    other = list(World(replace(CONFIG, seed=12)).examples(BLOCK - 3, BLOCK + 3))
    assert [example.features for example in other] != [example.features for example in again]
    assert again[0].event_id == f"world-11-{BLOCK - 3}"


def test_the_first_event_is_what_it_always_was() -> None:
    """A golden event: a change of the arithmetic would break the resuming of every existing log."""
    first = next(World(WorldConfig(seed=1)).examples(0, 1))
    assert first.truth == pytest.approx(GOLDEN_TRUTH, rel=1e-9)
    assert (first.user, first.features["ad"], first.features["site"]) == GOLDEN_NAMES


GOLDEN_TRUTH = 0.39533002296251535
GOLDEN_NAMES = ("u16900", "ad8", "site13")


def test_an_unbounded_world_continues_past_a_block() -> None:
    events = WORLD.examples(BLOCK - 1, None)
    assert [next(events).event_id for _ in range(3)] == [f"world-11-{BLOCK + n}" for n in (-1, 0, 1)]


@pytest.mark.parametrize("rate", [0.02, 0.2, 0.5])
def test_the_mean_click_probability_is_the_configured_rate(rate: float) -> None:
    world = World(replace(CONFIG, click_rate=rate))
    blocks = _blocks(world, 24)  # more than a day, so that the rhythm evens out
    truth = np.concatenate([block.truth for block in blocks])[:86_400]
    label = np.concatenate([block.label for block in blocks])[:86_400]
    assert truth.mean() == pytest.approx(rate, rel=0.06)
    error = np.sqrt((truth * (1 - truth)).sum()) / len(truth)
    assert abs(label.mean() - truth.mean()) < 4 * error


def test_clicks_follow_the_truth_in_every_range_of_it() -> None:
    blocks = _blocks(WORLD, 24)
    truth = np.concatenate([block.truth for block in blocks])
    label = np.concatenate([block.label for block in blocks])
    for part in np.array_split(np.argsort(truth), 10):
        error = np.sqrt((truth[part] * (1 - truth[part])).sum()) / len(part)
        assert abs(label[part].mean() - truth[part].mean()) < 4.5 * error


def test_the_logit_is_the_sum_of_its_effects() -> None:
    """An independent, slow transcription of one event's logit in plain Python."""
    import math

    block = WORLD.block(3)
    users, ads, places = WORLD.users, WORLD.ads, WORLD.places
    for e in (0, 17, BLOCK - 1):
        n, user, ad = int(block.contexts.number[e]), int(block.contexts.user[e]), int(block.ad[e])
        site, device = int(block.contexts.site[e]), int(block.contexts.device[e])
        turn = 2 * math.pi * n / CONFIG.turn_events
        near, far = math.cos(turn), math.sin(turn)
        appeal = [near * a + far * b for a, b in zip(ads.vector[0, 0, ad], ads.vector[0, 1, ad], strict=True)]

        def dot(a: Floats, b: list[float]) -> float:
            return sum(float(x) * y for x, y in zip(a, b, strict=True)) / math.sqrt(len(b))

        day = 2 * math.pi * (int(block.contexts.time_ms[e]) % 86_400_000) / 86_400_000
        clock = users.clock[user]
        second = (
            1.0 * dot(users.vector[user], appeal)
            + 0.6 * dot(places.vector[site], appeal)
            + 0.5 * dot(places.device_vector[device], appeal)
            + 0.4 * (clock[0] * math.cos(day) + clock[1] * math.sin(day))
        ) / math.sqrt(1.0 + 0.36 + 0.25 + 0.16)
        level = (ads.price[ad] - 3 + 0.4 * block.contexts.discount[e]) / math.sqrt(1.52)
        first = (
            0.6 * users.effect[user]
            + 1.0 * (near * ads.effect[0, 0, ad] + far * ads.effect[0, 1, ad])
            + 0.5 * places.effect[site]
            + 0.4 * places.device_effect[device]
            + 0.6 * (level**2 - 1) / math.sqrt(2)
            + 0.4 * (1 - math.log1p(block.contexts.visits[e]) / 1.5)
        ) / math.sqrt(0.36 + 1 + 0.25 + 0.16 + 0.36 + 0.16)
        logit = WORLD.intercept + CONFIG.first_order * first + CONFIG.second_order * second
        logit += CONFIG.rhythm * math.cos(day - 2 * math.pi * 20 / 24)
        assert block.truth[e] == pytest.approx(1 / (1 + math.exp(-logit)), rel=1e-9)


def test_interactions_carry_much_of_the_achievable_uplift() -> None:
    """The best model of single fields alone stays well above the Bayes-optimal loss."""
    world = World(WorldConfig())
    blocks = _blocks(world, 25)
    truth = np.concatenate([block.truth for block in blocks])
    single = np.concatenate([block.logits.first + block.logits.rhythm for block in blocks])
    base_log_loss = _expected_log_loss(truth, np.full_like(truth, truth.mean()))
    bayes_log_loss = _expected_log_loss(truth, truth)
    assert base_log_loss - bayes_log_loss > 0.1
    losses = [
        _expected_log_loss(truth, sigmoid(shift + scale * single))
        for scale in np.linspace(0.3, 1.1, 9)
        for shift in np.linspace(-2.2, -1.2, 11)
    ]
    assert bayes_log_loss + 0.05 < min(losses) < base_log_loss - 0.02


def test_sudden_drift_is_at_its_event_and_only_there() -> None:
    at = 2 * BLOCK + 100
    still = World(replace(CONFIG, sudden_at=0))
    jump = World(replace(CONFIG, sudden_at=at))
    before, after = _truth(still, 0, at + 500), _truth(jump, 0, at + 500)
    assert (before[:at] == after[:at]).all()
    changed = before[at:] != after[at:]
    assert changed.mean() > 0.9
    assert np.abs(before[at:] - after[at:]).mean() > 0.05


def test_gradual_drift_turns_all_effects_of_ads_and_comes_back() -> None:
    world = World(replace(CONFIG, turn_events=100 * BLOCK, sudden_at=0))
    block = world.block(0)

    def correlation(turns: float) -> float:
        moved = replace(block.contexts, number=block.contexts.number + round(turns * 100 * BLOCK))
        return float(np.corrcoef(world.logits(moved, block.ad).total, block.logits.total)[0, 1])

    assert correlation(0.02) > 0.98
    assert correlation(0.25) < 0.6
    assert correlation(0.5) < correlation(0.25)
    assert correlation(1.0) == pytest.approx(1.0)
    steady = World(replace(CONFIG, turn_events=0, sudden_at=0))
    far = replace(block.contexts, number=block.contexts.number + 10**9)
    assert (steady.logits(far, block.ad).total == steady.logits(block.contexts, block.ad).total).all()


def test_daily_rhythm_peaks_in_the_evening() -> None:
    world = World(replace(CONFIG, events_per_second=0.5, rhythm=0.8, first_order=0, second_order=0))
    hours: dict[int, list[float]] = {}
    for example in world.examples(0, 43_200):
        assert example.truth is not None
        hours.setdefault(int(str(example.features["hour"])), []).append(example.truth)
    means = {hour: float(np.mean(values)) for hour, values in hours.items()}
    assert len(means) == 24
    assert max(means, key=lambda hour: means[hour]) in (19, 20)
    assert min(means, key=lambda hour: means[hour]) in (7, 8)


@pytest.mark.parametrize("delay", ["exponential", "lognormal"])
def test_delays_have_their_mean_and_their_bound(delay: str) -> None:
    config = replace(CONFIG, delay=delay, delay_seconds=4.0, longest_delay_seconds=100.0)
    delays = np.concatenate([block.delay_ms for block in _blocks(World(config), 10)])
    assert delays.mean() == pytest.approx(4000, rel=0.05)
    assert delays.min() >= 1
    assert delays.max() <= 100_000


def test_examples_hold_every_field_and_a_delay_only_with_a_click() -> None:
    examples = list(WORLD.examples(0, 3000))
    for example in examples:
        assert list(example.features) == [field.name for field in WORLD_FIELDS]
        assert (example.click_delay_ms is not None) == (example.label == 1)
        assert example.bid > 0
    times = [example.time_ms for example in examples]
    assert times == [CONFIG.start_ms + 1000 * n for n in range(3000)]
    interests = [example.features["interests"] for example in examples]
    assert {len(own) for own in interests if isinstance(own, list)} == {1, 2, 3, 4}


def test_users_and_ads_follow_a_zipf_law() -> None:
    users = np.bincount(np.concatenate([block.contexts.user for block in _blocks(WORLD, 20)]))
    ads = np.bincount(np.concatenate([block.ad for block in _blocks(WORLD, 20)]), minlength=CONFIG.ads)
    assert users.max() > 20 * np.median(users)
    expected = zipf(CONFIG.ads, 1.0, 5.0) * 20 * BLOCK
    assert (np.abs(ads - expected) < 5 * np.sqrt(expected) + 5).all()


def test_normal_draws_are_normal() -> None:
    draws = gauss(uniforms(1, "u", 0, 100_000), uniforms(1, "v", 0, 100_000))
    assert draws.mean() == pytest.approx(0, abs=0.02)
    assert draws.std() == pytest.approx(1, abs=0.02)
    assert (draws < 1.0).mean() == pytest.approx(0.8413, abs=0.005)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("seed", -1),
        ("users", 3),
        ("click_rate", 1.0),
        ("delay", "never"),
        ("events_per_second", float("nan")),
    ],
)
def test_invalid_world_settings_are_rejected(name: str, value: Any) -> None:
    with pytest.raises(UsageError, match=f"world: {name} = .*: must be "):
        replace(CONFIG, **{name: value})
