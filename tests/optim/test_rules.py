"""Base rules in float64 against PyTorch's own optimizers and against the papers, one number at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import pytest
import torch

from stream_ctr.config.optimizer import BaseRule, OptimizerConfig
from stream_ctr.optim.rules import FTRL, AdaGrad, Rule, build_first_order_rule, build_rule

RULES: list[BaseRule] = ["sgd", "adagrad", "rmsprop", "adam", "nadam", "radam"]
RATE = 0.05
INITIAL = 0.3


@pytest.fixture(autouse=True)
def _peers_in_float64() -> Iterator[None]:
    """PyTorch's NAdam keeps its product of momenta in the default type."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def peer(name: BaseRule, weight: torch.Tensor) -> torch.optim.Optimizer:
    if name == "adagrad":
        return torch.optim.Adagrad([weight], lr=RATE, initial_accumulator_value=INITIAL)
    kinds: dict[str, Callable[..., torch.optim.Optimizer]] = {
        "sgd": torch.optim.SGD,
        "rmsprop": torch.optim.RMSprop,
        "adam": torch.optim.Adam,
        "nadam": torch.optim.NAdam,
        "radam": torch.optim.RAdam,
    }
    return kinds[name]([weight], lr=RATE)


class Scalar:
    """One weight under a rule as its paper writes it, in Python's own floating point."""

    def __init__(self, name: str, weight: float) -> None:
        self.name, self.w, self.t = name, weight, 0
        self.m = self.v = self.z = 0.0
        self.product = 1.0
        if name == "adagrad":
            self.v = INITIAL

    def step(self, g: float) -> None:
        self.t += 1
        if self.name == "sgd":
            self.w -= RATE * g
        elif self.name == "adagrad":
            self.v += g * g
            self.w -= RATE * g / (math.sqrt(self.v) + 1e-10)
        elif self.name == "rmsprop":
            self.v = 0.99 * self.v + 0.01 * g * g
            self.w -= RATE * g / (math.sqrt(self.v) + 1e-8)
        elif self.name == "ftrl":
            self.ftrl(g)
        else:
            self.moments(g)

    def ftrl(self, g: float) -> None:
        """McMahan et al. 2013, algorithm 1, with beta 0.5, L1 0.1 and L2 0.2."""
        sigma = (math.sqrt(self.v + g * g) - math.sqrt(self.v)) / RATE
        self.z += g - sigma * self.w
        self.v += g * g
        if abs(self.z) <= 0.1:
            self.w = 0.0
        else:
            rate = 1.0 / ((0.5 + math.sqrt(self.v)) / RATE + 0.2)
            self.w = -rate * (self.z - math.copysign(0.1, self.z))

    def moments(self, g: float) -> None:
        """Adam (algorithm 1), NAdam (Dozat's algorithm 8 with his schedule), RAdam (Liu's algorithm 2)."""
        t = self.t
        self.m = 0.9 * self.m + 0.1 * g
        self.v = 0.999 * self.v + 0.001 * g * g
        root = math.sqrt(self.v / (1.0 - 0.999**t))
        if self.name == "adam":
            self.w -= RATE * self.m / (1.0 - 0.9**t) / (root + 1e-8)
        elif self.name == "nadam":
            mu, mu_next = (0.9 * (1.0 - 0.5 * 0.96 ** (0.004 * i)) for i in (t, t + 1))
            self.product *= mu
            nesterov = mu_next * self.m / (1.0 - self.product * mu_next) + (1.0 - mu) * g / (
                1.0 - self.product
            )
            self.w -= RATE * nesterov / (root + 1e-8)
        else:
            longest = 2.0 / (1.0 - 0.999) - 1.0
            length = longest - 2.0 * t * 0.999**t / (1.0 - 0.999**t)
            m = self.m / (1.0 - 0.9**t)
            if length > 5.0:
                share = (length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length)
                adaptive = math.sqrt(1.0 - 0.999**t) / (math.sqrt(self.v) + 1e-8)
                self.w -= RATE * m * math.sqrt(share) * adaptive
            else:
                self.w -= RATE * m


def rule_of(name: str) -> Rule:
    return FTRL(RATE, beta=0.5, l1=0.1, l2=0.2) if name == "ftrl" else build_rule(name, RATE, INITIAL)


def start(rule: Rule, shape: tuple[int, ...], seed: int) -> tuple[torch.Tensor, list[torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(shape, generator=generator, dtype=torch.float64)
    return weight, [torch.full_like(weight, rule.initial) for _ in rule.accumulators]


@pytest.mark.parametrize("name", RULES)
def test_vector_takes_the_steps_of_the_published_rule(name: BaseRule) -> None:
    rule = build_rule(name, RATE, INITIAL)
    weight, accumulators = start(rule, (7,), 1)
    expected = weight.clone().requires_grad_()
    optimizer = peer(name, expected)
    generator = torch.Generator().manual_seed(2)
    for step in range(1, 30):
        gradient = torch.randn(7, generator=generator, dtype=torch.float64) * 10.0 ** (step % 5 - 2)
        rule.apply(weight, gradient, accumulators, step)
        expected.grad = gradient.clone()
        optimizer.step()
        torch.testing.assert_close(weight, expected.detach(), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", RULES)
def test_rows_with_their_own_step_counts_step_as_if_alone(name: BaseRule) -> None:
    rule = build_rule(name, RATE, INITIAL)
    weight, accumulators = start(rule, (4, 3), 3)
    steps = torch.zeros((4, 1), dtype=torch.int64)
    alone = [row.clone().requires_grad_() for row in weight]
    optimizers = [peer(name, row) for row in alone]
    generator = torch.Generator().manual_seed(4)
    for event in range(40):
        touched = torch.tensor([row for row in range(4) if event % (row + 1) == 0])
        gradient = torch.randn((len(touched), 3), generator=generator, dtype=torch.float64)
        steps[touched] += 1
        gathered = [weight[touched], *(a[touched] for a in accumulators)]
        rule.apply(gathered[0], gradient, gathered[1:], steps[touched])
        for array, part in zip((weight, *accumulators), gathered, strict=True):
            array[touched] = part
        for row, g in zip(touched.tolist(), gradient, strict=True):
            alone[row].grad = g.clone()
            optimizers[row].step()
    torch.testing.assert_close(weight, torch.stack([row.detach() for row in alone]), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", [*RULES, "ftrl"])
def test_rows_with_gaps_step_as_the_paper_writes_one_weight(name: str) -> None:
    rule = rule_of(name)
    weight, accumulators = start(rule, (3, 2), 6)
    if name == "ftrl":
        weight.zero_()
    steps = torch.zeros((3, 1), dtype=torch.int64)
    alone = [[Scalar(name, float(w)) for w in row] for row in weight]
    generator = torch.Generator().manual_seed(7)
    were_zero = 0
    for event in range(420):  # beyond the 356 steps after which NAdam's product of momenta is 0 to a double
        touched = torch.tensor([row for row in range(3) if event % (3 * row + 1) == 0])
        gradient = torch.randn((len(touched), 2), generator=generator) * (0.0 if event % 9 == 4 else 0.4)
        steps[touched] += 1
        gathered = [weight[touched], *(a[touched] for a in accumulators)]
        rule.apply(gathered[0], gradient, gathered[1:], steps[touched])
        for array, part in zip((weight, *accumulators), gathered, strict=True):
            array[touched] = part
        for row, g in zip(touched.tolist(), gradient, strict=True):
            for scalar, slope in zip(alone[row], g, strict=True):
                scalar.step(float(slope))
        if event % 20 == 0 or event > 400:
            expected = torch.tensor([[scalar.w for scalar in row] for row in alone])
            torch.testing.assert_close(weight, expected, rtol=1e-9, atol=1e-12)
            were_zero += int((expected == 0.0).sum())
    assert (were_zero > 0) == (name == "ftrl")  # L1 was in force


@pytest.mark.parametrize("name", ["nadam", "radam"])
def test_vector_and_rows_take_the_same_steps(name: str) -> None:
    rule = rule_of(name)
    weight, accumulators = start(rule, (1, 4), 8)
    other, others = weight.clone()[0], [a.clone()[0] for a in accumulators]
    for step in range(1, 12):
        gradient = torch.full((1, 4), 0.1 * step)
        rule.apply(weight, gradient, accumulators, torch.tensor([[step]]))
        rule.apply(other, gradient[0], others, step)
        assert torch.equal(weight[0], other)


def test_ftrl_without_regularisation_is_adagrad_from_zero() -> None:
    # McMahan et al. 2013, section 3.1: the same as online gradient descent with the same rates
    ftrl, adagrad = FTRL(RATE, beta=0.0), AdaGrad(RATE, epsilon=0.0)
    one, of_one = torch.zeros(5), [torch.zeros(5), torch.zeros(5)]
    two, of_two = torch.zeros(5), [torch.zeros(5)]
    generator = torch.Generator().manual_seed(9)
    for step in range(1, 200):
        gradient = torch.randn(5, generator=generator)
        ftrl.apply(one, gradient, of_one, step)
        adagrad.apply(two, gradient, of_two, step)
    torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-12)


def test_ftrl_that_never_saw_a_gradient_is_zero() -> None:
    weight, accumulators = torch.zeros(3), [torch.zeros(3), torch.zeros(3)]
    FTRL(RATE, beta=0.0).apply(weight, torch.zeros(3), accumulators, 1)
    assert torch.equal(weight, torch.zeros(3))


def test_first_order_weights_use_their_configured_rule() -> None:
    assert build_first_order_rule(OptimizerConfig()) is None
    named = OptimizerConfig(first_order_rule="ftrl", first_order_rate=0.3, ftrl_l1=0.2, ftrl_l2=0.1)
    assert build_first_order_rule(named) == FTRL(0.3, beta=1.0, l1=0.2, l2=0.1)
    adagrad = OptimizerConfig(first_order_rule="adagrad", first_order_rate=0.3, first_order_initial=0.5)
    assert build_first_order_rule(adagrad) == AdaGrad(0.3, 0.5)


@pytest.mark.parametrize("name", RULES)
def test_zero_gradient_on_a_fresh_weight_moves_nothing(name: BaseRule) -> None:
    rule = build_rule(name, RATE, INITIAL)
    weight, accumulators = start(rule, (5,), 5)
    before = weight.clone()
    rule.apply(weight, torch.zeros_like(weight), accumulators, 1)
    assert torch.equal(weight, before)
