"""Helen, SAM and one pass as the papers write them: slow, float64, one torch.optim object for each row."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from stream_ctr.batch import LEARN, Batch
from stream_ctr.config.model import ModelConfig
from stream_ctr.config.optimizer import OptimizerConfig
from stream_ctr.models.initial_weights import row_values
from stream_ctr.state.state import Json


def transcribed_logit(model: ModelConfig, p: dict[str, Tensor], fields: Sequence[Sequence[Tensor]]) -> Tensor:
    """The logit of one event from the rows of each field; SML eq. 5, 10 and 16, one layer after the other."""
    pooled = []
    for rows in fields:
        total = torch.zeros(model.embedding, dtype=torch.float64)
        for row in rows:
            total = total + row
        pooled.append(total / len(rows) if rows and model.pooling == "mean" else total)
    x = torch.cat(pooled)
    skips = torch.zeros(1, dtype=torch.float64)
    for i in range(1, len(model.hidden) + 1):
        x = torch.relu(p[f"tower.{i}.weight"] @ x + p[f"tower.{i}.bias"])
        if model.sml:
            inner = p[f"sml.{i}.scale"] @ x.detach() + p[f"sml.{i}.beta"]
            s = torch.where(inner > 0.0, inner, model.slope * inner)
            skips = skips + (p[f"sml.{i}.weight"] * torch.tanh(s * x)).sum()
    return (p["output.weight"] * x).sum() + p["output.bias"] + skips


def make_rule(name: str, parameters: list[Tensor], rate: float, initial: float) -> torch.optim.Optimizer:
    """PyTorch's own optimizer of that name."""
    if name == "sgd":
        return torch.optim.SGD(parameters, lr=rate)
    if name == "adagrad":
        return torch.optim.Adagrad(parameters, lr=rate, initial_accumulator_value=initial)
    if name == "rmsprop":
        return torch.optim.RMSprop(parameters, lr=rate)
    if name == "nadam":
        return torch.optim.NAdam(parameters, lr=rate)
    if name == "radam":
        return torch.optim.RAdam(parameters, lr=rate)
    return torch.optim.Adam(parameters, lr=rate)


@dataclass(frozen=True)
class Example:
    """One event to learn: its rows, and the field and the ratio N / M of each."""

    rows: list[int]
    fields: list[int]
    ratios: list[float]
    label: float
    weight: float


class Oracle:
    """One learner in float64."""

    def __init__(
        self,
        model: ModelConfig,
        optimizer: OptimizerConfig,
        slot_field: Sequence[int],
        seed: int,
        layout: Json,
        dense: np.ndarray[tuple[int, ...], np.dtype[np.float64]],
    ) -> None:
        self.model, self.optimizer, self.seed = model, optimizer, seed
        self.slot_field = list(slot_field)
        self.fields = max(slot_field) + 1
        self.p: dict[str, Tensor] = {}
        start = 0
        assert isinstance(layout, list)
        for item in layout:
            assert isinstance(item, list)
            name, shape = item
            assert isinstance(name, str)
            assert isinstance(shape, list)
            size = math.prod(int(str(extent)) for extent in shape)
            values = torch.tensor(dense[start : start + size]).reshape([int(str(e)) for e in shape])
            self.p[name] = values.requires_grad_()
            start += size
        self.dense_rule = make_rule(
            optimizer.dense_rule, list(self.p.values()), optimizer.dense_rate, optimizer.dense_initial
        )
        self.row: dict[int, Tensor] = {}
        self.row_rule: dict[int, torch.optim.Optimizer] = {}
        self.touched: dict[int, int] = {}
        self.learned = 0
        self.started: dict[int, int] = {}
        self.past: list[tuple[Example, list[Tensor]]] = []
        for field in range(self.fields):
            self.start_row(field, np.zeros(model.embedding))

    def start_row(self, row: int, values: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> None:
        self.row[row] = torch.tensor(values).requires_grad_()
        self.row_rule[row] = make_rule(
            self.optimizer.row_rule, [self.row[row]], self.optimizer.row_rate, self.optimizer.row_initial
        )
        self.touched[row] = self.started[row] = self.learned

    def learn(self, batch: Batch) -> list[float]:
        """One step an event."""
        probabilities = []
        for b in range(len(batch)):
            self.start_rows(batch, b)
            example = self.example(batch, b)
            probabilities.append(float(torch.sigmoid(self.logit(example.rows, example.fields).detach())))
            if batch.action[b] & LEARN:
                before = [self.row[row].detach().clone() for row in example.rows]
                self.step([example])
                if self.optimizer.method == "revisit":
                    steps = [self.row[r].detach() - w for r, w in zip(example.rows, before, strict=True)]
                    self.past.append((example, steps))
                    if self.learned >= self.optimizer.revisit_after:
                        self.revisit(self.learned - self.optimizer.revisit_after)
        return probabilities

    def learn_batch(self, batch: Batch) -> list[float]:
        """One step of the mean loss of all events to learn, after every row change."""
        for b in range(len(batch)):
            self.start_rows(batch, b)
        examples = [self.example(batch, b) for b in range(len(batch))]
        p = [float(torch.sigmoid(self.logit(e.rows, e.fields).detach())) for e in examples]
        self.step([e for b, e in enumerate(examples) if batch.action[b] & LEARN])
        return p

    def start_rows(self, batch: Batch, b: int) -> None:
        for k in np.flatnonzero(batch.changes.event == b):
            values = row_values(
                self.seed,
                batch.changes.field[k : k + 1],
                batch.changes.key[k : k + 1],
                self.model.embedding,
                self.model.embedding_scale,
            )
            self.start_row(int(batch.changes.row[k]), values[0].astype(np.float64))

    def example(self, batch: Batch, b: int) -> Example:
        present = [slot for slot, row in enumerate(batch.rows[b]) if row >= 0]
        return Example(
            [int(batch.rows[b, slot]) for slot in present],
            [self.slot_field[slot] for slot in present],
            [float(batch.ratio[b, slot]) for slot in present],
            float(batch.label[b]),
            float(batch.weight[b]),
        )

    def revisit(self, number: int) -> None:
        """The second turn of learned event ``number``, where its own steps are taken out of its rows."""
        o = self.optimizer
        example, steps = self.past[number]
        rows, fields = example.rows, example.fields
        own = [k for k, row in enumerate(rows) if self.started[row] <= number]
        rows, fields, steps = [rows[k] for k in own], [fields[k] for k in own], [steps[k] for k in own]
        kept = [self.row[row].detach().clone() for row in rows]
        with torch.no_grad():
            for row, step in zip(rows, steps, strict=True):
                self.row[row] -= step
        own_rows = Example(rows, fields, [0.0] * len(rows), example.label, example.weight)
        g_dense, g_rows = self.gradients([own_rows], rows)
        with torch.no_grad():
            for row, w, g, step in zip(rows, kept, g_rows, steps, strict=True):
                new = -o.row_rate * g
                if o.row_rule == "adagrad":
                    state = self.row_rule[row].state[self.row[row]]
                    new = new / (state["sum"].sqrt() + 1e-10)
                self.row[row].copy_(w + o.revisit_rows * (new - step))
        if o.revisit_dense > 0.0:
            for w, g in zip(self.p.values(), g_dense, strict=True):
                w.grad = o.revisit_dense * g
            self.step_dense()

    def step_dense(self) -> None:
        """The dense rule's step under the gradients that the weights have."""
        self.dense_rule.step()

    def logit(self, rows: list[int], fields: list[int]) -> Tensor:
        of_field = [
            [self.row[r] for r, f in zip(rows, fields, strict=True) if f == j] for j in range(self.fields)
        ]
        return transcribed_logit(self.model, self.p, of_field)

    def gradients(self, examples: list[Example], rows: list[int]) -> tuple[list[Tensor], list[Tensor]]:
        """Of the mean of the examples' losses, each times its weight."""
        loss = torch.zeros(1, dtype=torch.float64)
        for e in examples:
            loss = loss + e.weight * torch.nn.functional.binary_cross_entropy_with_logits(
                self.logit(e.rows, e.fields), torch.tensor([e.label], dtype=torch.float64)
            )
        leaves = [*self.p.values(), *(self.row[row] for row in rows)]
        gradients = torch.autograd.grad(loss / len(examples), leaves)
        return list(gradients[: len(self.p)]), list(gradients[len(self.p) :])

    def ratios(self, examples: list[Example]) -> dict[int, float]:
        """N / M of each row that the examples use."""
        if self.optimizer.counts != "batch":
            return {row: ratio for e in examples for row, ratio in zip(e.rows, e.ratios, strict=True)}
        number: dict[int, int] = {}
        most: dict[int, int] = {}
        field_of: dict[int, int] = {}
        for e in examples:
            for row, field in zip(e.rows, e.fields, strict=True):
                number[row] = number.get(row, 0) + 1
                field_of[row] = field
                if row >= self.fields:
                    most[field] = max(most.get(field, 0), number[row])
        # The ratio travels in 32 bits, as the column of a batch does.
        return {
            row: float(np.float32(number[row] / most[field_of[row]])) if row >= self.fields else 0.0
            for row in number
        }

    def step(self, examples: list[Example]) -> None:
        field_of = {row: field for e in examples for row, field in zip(e.rows, e.fields, strict=True)}
        rows, ratio = list(field_of), self.ratios(examples)
        fields, ratios = [field_of[row] for row in rows], [ratio[row] for row in rows]
        dense, tables = list(self.p.values()), [self.row[row] for row in rows]
        g_dense, g_rows = self.gradients(examples, rows)
        eps_dense, eps_rows = self.perturbation(g_dense, g_rows, rows, fields, ratios)
        kept = [w.detach().clone() for w in (*dense, *tables)]
        with torch.no_grad():
            for w, eps in zip((*dense, *tables), (*eps_dense, *eps_rows), strict=True):
                w += eps
        g_dense, g_rows = self.gradients(examples, rows)
        with torch.no_grad():
            for w, old in zip((*dense, *tables), kept, strict=True):
                w.copy_(old)
        self.learned += 1
        for w, g in zip(dense, g_dense, strict=True):
            w.grad = g
        self.step_dense()
        of_row = dict(zip(rows, g_rows, strict=True))
        for row in self.row if self.optimizer.rows == "dense" else rows:
            g = of_row.get(row, torch.zeros_like(self.row[row]))
            elapsed = self.learned - self.touched[row]
            self.touched[row] = self.learned
            self.row[row].grad = g + self.optimizer.l2 * elapsed * self.row[row].detach()
            self.row_rule[row].step()

    def adaptive(
        self, g_dense: list[Tensor], g_rows: list[Tensor], rows: list[int], rho: float
    ) -> tuple[list[Tensor], list[Tensor]]:
        """ASAM: rho T^2 g / ||T g||, T = |w| + eta; of biases T = 1."""
        eta = self.optimizer.eta
        t = [
            torch.ones_like(w) if name.endswith((".bias", ".beta")) else w.detach().abs() + eta
            for name, w in self.p.items()
        ]
        t += [self.row[row].detach().abs() + eta for row in rows]
        g = g_dense + g_rows
        length = math.sqrt(sum(float(((a * b) ** 2).sum()) for a, b in zip(t, g, strict=True)))
        eps = [rho * a * a * b / length for a, b in zip(t, g, strict=True)]
        return eps[: len(g_dense)], eps[len(g_dense) :]

    def perturbation(
        self,
        g_dense: list[Tensor],
        g_rows: list[Tensor],
        rows: list[int],
        fields: list[int],
        ratios: list[float],
    ) -> tuple[list[Tensor], list[Tensor]]:
        o = self.optimizer
        warm = min(1.0, self.learned / o.warm_up_events) if o.warm_up_events else 1.0

        def norm(parts: list[Tensor]) -> float:
            return math.sqrt(sum(float((part**2).sum()) for part in parts))

        def scaled(g: Tensor, radius: float, length: float) -> Tensor:
            return radius * g / length if length > 0.0 else torch.zeros_like(g)

        if o.method in ("base", "revisit"):
            return [0.0 * g for g in g_dense], [0.0 * g for g in g_rows]
        if o.method == "asam":
            return self.adaptive(g_dense, g_rows, rows, warm * o.rho)
        if o.method == "sam":
            length = norm(g_dense + g_rows)
            return [scaled(g, warm * o.rho, length) for g in g_dense], [
                scaled(g, warm * o.rho, length) for g in g_rows
            ]
        rho_dense = 0.0 if o.perturb == "embedding" else o.rho_dense
        rho_rows = 0.0 if o.perturb == "dense" else o.rho
        length = norm(g_dense) if o.dense_norm == "dense" else norm(g_dense + g_rows)
        eps_dense = [scaled(g, warm * rho_dense, length) for g in g_dense]
        eps_rows = []
        for g, field, ratio in zip(g_rows, fields, ratios, strict=True):
            table = [other for other, f in zip(g_rows, fields, strict=True) if f == field]
            length = norm([g]) if o.row_norm == "row" else norm(table)
            eps_rows.append(scaled(g, warm * rho_rows * max(ratio, o.xi), length))
        return eps_dense, eps_rows
