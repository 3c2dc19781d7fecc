"""Accumulators in 16 bits, against a slow transcription and by their statistics; idle weights."""

from __future__ import annotations

import struct
from dataclasses import replace
from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stream_ctr.config.optimizer import BaseRule, OptimizerConfig
from stream_ctr.errors import ModelError
from stream_ctr.learners.torch.step import SkipIdle, build_dense_rule
from stream_ctr.optim.moments import (
    DENSE,
    MOST,
    ROWS,
    SECOND_TURN,
    narrowed,
    rounding_key,
    widened,
)
from stream_ctr.optim.rules import Adam, Rule, build_rule
from stream_ctr.optim.torch_accumulators import Accumulators
from stream_ctr.optim.validation import check_optimizer
from tests.support.splitmix64 import splitmix64

HALF = Accumulators("bfloat16", 7, torch.float32)
positive = st.floats(2.0**-126, 2.0**127, width=32)


def bits_of(value: float) -> int:
    """A float32 number as an integer."""
    return int(struct.unpack("<I", struct.pack("<f", value))[0])


def number_of(stored: int) -> float:
    """The number of the upper 16 bits of a float32."""
    return float(struct.unpack("<f", struct.pack("<I", stored << 16))[0])


def slow_key(seed: int, step: int, kind: int) -> int:
    return splitmix64(splitmix64(splitmix64(seed) ^ step) ^ kind) >> 32


def close(name: str, values: torch.Tensor, step: int, first: int = 0) -> torch.Tensor:
    place = torch.arange(first, first + values.numel()).view(values.shape)
    (kept,) = HALF.encoded([name], [values], place, step, DENSE)
    return kept


@given(positive)
def test_initial_values_round_to_nearest(value: float) -> None:
    stored = int(narrowed(np.array([value]))[0])
    beside = [number_of(each) for each in (stored - 1, stored, stored + 1) if 0 <= each < 0x7F80]
    assert abs(number_of(stored) - value) == min(abs(each - value) for each in beside)
    assert float(widened(np.array([stored], np.uint16))[0]) == number_of(stored)


@pytest.mark.parametrize("kind", [DENSE, ROWS, SECOND_TURN])
@pytest.mark.parametrize("name", ["mean", "square", "linear", "first_order_square"])
def test_rounding_is_that_of_its_definition(name: str, kind: int) -> None:
    rng = np.random.default_rng(3)
    values = torch.from_numpy(rng.normal(size=(5, 4)).astype(np.float32) * np.float32(1e-3))
    values = values.abs() if name.endswith("square") else values
    place = torch.from_numpy(rng.integers(0, 2**36, (5, 4)))
    (kept,) = HALF.encoded([name], [values], place, 41, kind)
    for value, at, stored in zip(
        values.ravel().tolist(), place.ravel().tolist(), kept.ravel().tolist(), strict=True
    ):
        weyl = (slow_key(7, 41, kind) + at * 0x9E3779B1) % 2**32
        r = weyl >> 16 if name.endswith("square") else weyl % 2**16
        assert stored == (bits_of(value) + r) >> 16


def test_exact_numbers_are_kept_and_others_round_up_in_proportion() -> None:
    value = torch.tensor([1.0 + 3 / 1024, -(1.0 + 3 / 1024), 1.5])  # 3/8 of the way from 1 to 1 + 1/128
    steps = 4000
    kept = torch.stack([HALF.decoded([close("mean", value, step)])[0] for step in range(steps)])
    assert kept[:, 2].eq(1.5).all()
    for column, sign in ((0, 1.0), (1, -1.0)):
        assert set(kept[:, column].tolist()) == {sign, sign * (1.0 + 1 / 128)}
        share = float((kept[:, column] != sign).double().mean())
        assert abs(share - 3 / 8) < 4 * np.sqrt(3 / 8 * 5 / 8 / steps)


def test_rounding_is_independent_over_steps_and_even_over_places() -> None:
    halfway, steps = torch.full((8,), 1.0 + 1 / 256), 4000
    up = torch.stack([close("square", halfway, step) != 0x3F80 for step in range(steps)]).double()
    for lag in (1, 2, 50):
        both = float((up[lag:] * up[:-lag]).mean())
        assert abs(both - 0.25) < 4 * 0.25 / np.sqrt(steps)
    many = torch.full((3001,), 1.0 + 1 / 256)
    for step in range(5):
        assert abs(float((close("square", many, step, first=99 * step) != 0x3F80).sum()) - 1500) < 20


def test_sums_of_squares_stall_with_rounding_to_nearest_but_not_with_stochastic_rounding() -> None:
    square, count, steps = 1e-4, 200, 3000
    nearest, by_chance = np.zeros(count, np.uint16), HALF.start([count], 0.0, torch.device("cpu"))
    for step in range(steps):
        nearest = narrowed(widened(nearest) + np.float32(square))
        by_chance = close("square", HALF.decoded([by_chance])[0] + square, step)
    true = steps * square
    assert widened(nearest).max() < 0.2 * true
    (found,) = HALF.decoded([by_chance])
    assert abs(float(found.mean()) / true - 1.0) < 0.03
    assert float((found / true - 1.0).abs().max()) < 0.4  # a single sum, within five deviations of 8 %


def test_averages_of_squares_stall_with_rounding_to_nearest_but_not_with_stochastic_rounding() -> None:
    # Adam's second moment: gradients become ten times smaller, and the average must follow
    count, steps, keep = 200, 3000, 0.999
    nearest, by_chance = np.full(count, 0x3F80, np.uint16), HALF.start([count], 1.0, torch.device("cpu"))
    for step in range(steps):
        nearest = narrowed(widened(nearest) * np.float32(keep) + np.float32((1 - keep) * 0.01))
        by_chance = close("square", HALF.decoded([by_chance])[0] * keep + (1 - keep) * 0.01, step)
    true = 0.01 + 0.99 * keep**steps
    assert widened(nearest).min() > 10 * true
    assert abs(float(HALF.decoded([by_chance])[0].mean()) / true - 1.0) < 0.05


@pytest.mark.parametrize("value", [MOST, 3.4e38, float("inf")])
def test_no_sum_of_squares_becomes_infinite(value: float) -> None:
    kept = HALF.decoded([close("square", torch.full((64,), value), 5)])[0]
    assert kept.eq(MOST).all()


def test_keys_of_seeds_steps_and_kinds_differ() -> None:
    keys = {
        int(rounding_key(seed, step, kind)) for seed in range(4) for step in range(500) for kind in range(3)
    }
    assert len(keys) == 6000
    assert max(keys) < 2**32
    assert int(rounding_key(9, 12345, ROWS)) == slow_key(9, 12345, ROWS)


@pytest.mark.parametrize("name", get_args(BaseRule))
def test_idle_weights_keep_every_bit_and_others_follow_the_rule(name: BaseRule) -> None:
    generator = torch.Generator().manual_seed(2)
    config = OptimizerConfig(method="base", dense_rule=name, dense_rate=0.01, dense_idle="skip")
    skipping, plain = build_dense_rule(config), build_rule(name, 0.01, config.dense_initial)
    weight = torch.randn(300, generator=generator)
    state = [torch.rand(300, generator=generator) for _ in plain.accumulators]
    gradient = torch.randn(300, generator=generator)
    gradient[::3] = 0.0
    results = []
    for rule in (skipping, plain):
        arrays = [array.clone() for array in (weight, *state)]
        rule.apply(arrays[0], gradient, arrays[1:], 7)
        results.append(arrays)
    for new, full, old in zip(*results, (weight, *state), strict=True):
        assert new[::3].equal(old[::3])
        assert new[1::3].equal(full[1::3])
    if name in ("adam", "nadam", "radam", "rmsprop"):
        assert isinstance(skipping, SkipIdle)
        assert not results[1][1][::3].equal(state[0][::3])  # the rule without SkipIdle moves them


def test_by_default_a_rule_steps_every_weight() -> None:
    rule: Rule = build_dense_rule(replace(OptimizerConfig(), dense_rule="adam", dense_idle="step"))
    assert isinstance(rule, Adam)


@pytest.mark.parametrize(("name", "value"), [("moments", "float16"), ("dense_idle", "drop")])
def test_unknown_names_are_rejected(name: str, value: str) -> None:
    changed: dict[str, Any] = {name: value}
    with pytest.raises(ModelError, match=f"optimizer.{name} = '{value}' is unknown; choose"):
        check_optimizer(replace(OptimizerConfig(), **changed))
