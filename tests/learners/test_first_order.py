"""First-order (wide) weights: the last column of a row, with its own norm and, if configured, rule."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from stream_ctr.config.optimizer import FirstOrderRule, OptimizerConfig
from stream_ctr.errors import ModelError, StateError
from stream_ctr.learners.torch.row_table import RowTable
from stream_ctr.learners.torch.step import Events, TorchStep
from stream_ctr.models.build import Network
from stream_ctr.models.layout import Parameter, Weights
from stream_ctr.optim.rules import FTRL, build_rule

FIELDS = 2
CPU = torch.device("cpu")
HELEN = OptimizerConfig(
    method="helen", rho=0.2, rho_dense=0.3, row_rule="sgd", row_rate=0.05, dense_rule="sgd", dense_rate=0.1
)


class WideAndLinear:
    """z_0 = sum of the first-order weights + a . concatenated embeddings + c."""

    row_blocks = (2, 1)

    def parameters(self) -> list[Parameter]:
        return [Parameter("linear.weight", (FIELDS * 2,), 0.5), Parameter("linear.bias", (1,))]

    def forward(self, p: Weights, x: Tensor, drop: object | None = None) -> tuple[Tensor, list[Tensor]]:
        wide, deep = x[..., 2].sum(-1), x[..., :2].flatten(-2)
        return wide + torch.matmul(deep, p["linear.weight"]) + p["linear.bias"], []


def make(optimizer: OptimizerConfig) -> TorchStep:
    step = TorchStep(Network(WideAndLinear(), None), optimizer, "mean", FIELDS, 3, CPU, torch.float64)
    step.rows.reserve(8)
    generator = torch.Generator().manual_seed(1)
    values = torch.randn((6, 3), generator=generator, dtype=torch.float64)
    values[:, 2] = 0.0
    step.rows.initialise(torch.arange(2, 8), values, 0)
    return step


def event(rows: list[int], ratio: list[float]) -> Events:
    field = torch.arange(FIELDS)
    return Events(1, torch.tensor(rows), field, torch.tensor(ratio, dtype=torch.float64), None, field, True)


STREAM = [([2 + e % 3, 5 + (e * e) % 3], [1.0 / (1 + e % 3), 0.5], float(e % 4 == 0)) for e in range(40)]


class Slow:
    """The same model under Helen with SGD, and FTRL or SGD for the first-order weights, by loops."""

    def __init__(self, step: TorchStep, ftrl: FTRL | None) -> None:
        self.ftrl = ftrl
        self.rows = {row: step.rows.weight[row].tolist() for row in range(8)}
        *self.a, self.c = step.dense.tolist()
        self.zn = {row: [0.0, 0.0] for row in range(8)}

    def gradients(
        self, rows: list[list[float]], a: list[float], c: float, label: float
    ) -> tuple[list[float], list[list[float]]]:
        z = c + sum(row[2] for row in rows)
        z += sum(a[2 * f + k] * rows[f][k] for f in range(FIELDS) for k in range(2))
        d = 1.0 / (1.0 + math.exp(-z)) - label
        dense = [d * rows[f][k] for f in range(FIELDS) for k in range(2)] + [d]
        return dense, [[d * a[2 * f], d * a[2 * f + 1], d] for f in range(FIELDS)]

    def learn(self, rows: list[int], ratio: list[float], label: float) -> None:
        own = [self.rows[row] for row in rows]
        dense, g = self.gradients(own, self.a, self.c, label)
        length = math.sqrt(sum(v * v for v in dense))
        moved = [w + 0.3 * v / length for w, v in zip([*self.a, self.c], dense, strict=True)]
        climbed = []
        for w, v, share in zip(own, g, ratio, strict=True):
            deep = math.hypot(v[0], v[1])
            # eq. 8 for the embedding, and for the first-order weight as a row of width 1
            lengths = (deep, deep, abs(v[2]))
            climbed.append([w[k] + 0.2 * share * v[k] / lengths[k] for k in range(3)])
        dense, g = self.gradients(climbed, moved[:-1], moved[-1], label)
        self.a = [w - 0.1 * v for w, v in zip(self.a, dense, strict=False)]
        self.c -= 0.1 * dense[-1]
        for row, v in zip(rows, g, strict=True):
            w = self.rows[row]
            self.rows[row] = [w[0] - 0.05 * v[0], w[1] - 0.05 * v[1], self.first_order(row, w[2], v[2])]

    def first_order(self, row: int, w: float, g: float) -> float:
        if self.ftrl is None:
            return w - 0.05 * g
        f, (z, n) = self.ftrl, self.zn[row]
        z += g - (math.sqrt(n + g * g) - math.sqrt(n)) / f.rate * w
        n += g * g
        self.zn[row] = [z, n]
        if abs(z) <= f.l1:
            return 0.0
        return -(z - math.copysign(f.l1, z)) / ((f.beta + math.sqrt(n)) / f.rate + f.l2)


@pytest.mark.parametrize("rule", ["rows", "ftrl"])
def test_first_order_weights_take_the_step_of_their_own_rule(rule: FirstOrderRule) -> None:
    optimizer = replace(
        HELEN, first_order_rule=rule, first_order_rate=0.3, ftrl_beta=0.5, ftrl_l1=0.3, ftrl_l2=0.1
    )
    step = make(optimizer)
    slow = Slow(step, FTRL(0.3, 0.5, 0.3, 0.1) if rule == "ftrl" else None)
    zero = 0
    for rows, ratio, label in STREAM:
        _, done = step.learn(event(rows, ratio), label, 1.0)
        slow.learn(rows, ratio, label)
        assert done
        expected = torch.tensor([slow.rows[row] for row in range(8)], dtype=torch.float64)
        torch.testing.assert_close(step.rows.weight[:8], expected, rtol=1e-9, atol=1e-12)
        zero += sum(slow.rows[row][2] == 0.0 for row in rows)
    assert (zero > 0) == (rule == "ftrl")
    torch.testing.assert_close(step.dense, torch.tensor([*slow.a, slow.c], dtype=torch.float64))
    assert (step.rows.weight[2:8, 2] != 0.0).any()


RULES: list[FirstOrderRule] = ["sgd", "adagrad", "rmsprop", "adam", "nadam", "radam", "ftrl"]


@pytest.mark.parametrize("rule", RULES)
def test_saved_rows_with_two_rules_resume_bit_for_bit(rule: FirstOrderRule) -> None:
    optimizer = replace(HELEN, row_rule="rmsprop", first_order_rule=rule, l2=0.01)
    whole, resumed = make(optimizer), make(optimizer)
    for rows, ratio, label in STREAM[:25]:
        whole.learn(event(rows, ratio), label, 1.0)
    saved = whole.rows.state()
    resumed.rows.load_state(saved)
    resumed.dense.copy_(whole.dense)
    resumed.learned = whole.learned
    for step in (whole, resumed):
        for rows, ratio, label in STREAM[25:]:
            step.learn(event(rows, ratio), label, 1.0)
    assert resumed.rows.state().equals(whole.rows.state())
    own = {name: array for name, array in saved.arrays.items() if name.startswith("first_order_")}
    expected = FTRL(0.1).accumulators if rule == "ftrl" else build_rule(rule, 0.1).accumulators
    assert own.keys() == {f"first_order_{name}" for name in expected}
    assert all(array.shape == (8, 1) for array in own.values())
    with pytest.raises(StateError, match="resume with the optimizer that saved them"):
        make(replace(optimizer, row_rule="adam")).rows.load_state(saved)


def test_rule_for_first_order_weights_needs_a_model_that_has_them() -> None:
    class Deep(WideAndLinear):
        row_blocks = (3, 3)

    with pytest.raises(ModelError, match=r"first_order_rule = 'ftrl': this model has no first-order weights"):
        TorchStep(
            Network(Deep(), None), replace(HELEN, first_order_rule="ftrl"), "mean", 2, 3, CPU, torch.float64
        )


def test_fresh_rows_start_with_the_accumulators_of_both_rules() -> None:
    first = build_rule("adagrad", 0.1, 0.7)
    table = RowTable(3, build_rule("adagrad", 0.1, 0.2), 2, CPU, torch.float32, first_order=first)
    table.reserve(5000)
    table.initialise(torch.tensor([4321]), torch.ones(1, 3), 9)
    arrays = table.state().arrays
    np.testing.assert_array_equal(arrays["square"][4321], np.full(2, 0.2, np.float32))
    np.testing.assert_array_equal(arrays["first_order_square"][4321], np.full(1, 0.7, np.float32))
    np.testing.assert_array_equal(arrays["weight"][4321], np.ones(3, np.float32))
