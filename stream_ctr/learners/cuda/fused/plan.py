"""Memory layout of the fused step: offsets of parameters, buffers of a pass, tiles of an update."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stream_ctr.config.model import ModelConfig
from stream_ctr.learners.compiled.workspace import RULES
from stream_ctr.models.layout import Layout
from stream_ctr.optim.rules import build_rule

MOST_NUMBERS = 4096
"""Maximum size of a tile that one program holds at a time."""


@dataclass(frozen=True)
class Blocks:
    """Block sizes of the kernels; powers of 2.

    Small blocks give many programs, so that a matrix of a few hundred rows occupies a GPU with more than a
    hundred multiprocessors.
    """

    units: int = 1024
    """head: units."""
    up_rows: int = 4
    up_columns: int = 512
    """forward: rows and columns of a matrix."""
    down_rows: int = 512
    down_columns: int = 8
    """backward: 8 columns of single precision are 32 bytes, the smallest memory transaction."""
    tile_rows: int = 8
    tile_columns: int = 256
    """update."""
    fields: int = 64
    """gather and ascend: fields, unless their rows are long."""


@dataclass(frozen=True)
class Plan:
    """Offsets of the network: H layers over x_0, which is layer 0."""

    starts: tuple[int, ...]
    """[H + 2] offset of the units of each layer in a vector of units; last: the total number of units."""
    towers: tuple[tuple[int, int], ...]
    """[H] offsets of A_i and b_i in the dense vector."""
    scales: tuple[tuple[int, int], ...]
    """[H] offsets of w_i and beta_i; empty without skip logits."""
    skips: tuple[int, ...]
    """[H] offsets of W_i; empty without skip logits."""
    output: tuple[int, int]
    """Offsets of v and c."""
    per_unit: bool

    @property
    def layers(self) -> int:
        """H."""
        return len(self.towers)

    def width(self, layer: int) -> int:
        """h_i; x_0 is layer 0."""
        return self.starts[layer + 1] - self.starts[layer]

    def scale_rows(self, layer: int) -> int:
        """Rows of w_i; 0 for layer 0 and without skip logits."""
        if layer == 0 or not self.scales:
            return 0
        return self.width(layer) if self.per_unit else 1


def plan_network(model: ModelConfig, layout: Layout, fields: int) -> Plan:
    """The offsets of a network of the dnn family in the vector of ``layout``."""
    ends = np.cumsum(layout.sizes).tolist()
    begin = {p.name: end - size for p, size, end in zip(layout.parameters, layout.sizes, ends, strict=True)}
    layers = range(1, len(model.hidden) + 1)
    skips = layers if model.sml else range(0)
    widths = [fields * model.embedding, *model.hidden]
    return Plan(
        starts=(0, *np.cumsum(widths).tolist()),
        towers=tuple((begin[f"tower.{i}.weight"], begin[f"tower.{i}.bias"]) for i in layers),
        scales=tuple((begin[f"sml.{i}.scale"], begin[f"sml.{i}.beta"]) for i in skips),
        skips=tuple(begin[f"sml.{i}.weight"] for i in skips),
        output=(begin["output.weight"], begin["output.bias"]),
        per_unit=model.scale == "unit",
    )


class PassMemory:
    """Buffers of one forward and backward pass: six vectors of units, the number 1, the logit gradient.

    Names as in :mod:`~stream_ctr.learners.cuda.fused.pass_kernels`. ``norms`` float64 [2 H + 2] are the
    squared norms of :func:`~stream_ctr.learners.cuda.fused.kernel_parts.squared_norms`.
    """

    def __init__(self, plan: Plan, device: torch.device, dtype: torch.dtype) -> None:
        units = plan.starts[-1]
        self.all = torch.zeros(6 * units + 2, device=device, dtype=dtype)
        self.x, self.inner, self.t, self.d, self.e, self.g = self.all[: 6 * units].view(6, units)
        self.one, self.z = self.all[6 * units : 6 * units + 1], self.all[6 * units + 1 :]
        self.one.fill_(1.0)
        self.norms = torch.zeros(2 * plan.layers + 2, device=device, dtype=torch.float64)


def plan_tiles(plan: Plan, blocks: Blocks) -> NDArray[np.int64]:
    """The tiles [T, 6] of all dense parameters; see
    :func:`~stream_ctr.learners.cuda.fused.update_kernels.update_dense`.

    Vectors are matrices of one row: their gradient is a number times a vector of the pass.
    """
    units, layers = plan.starts[-1], plan.layers
    x, _, t, d, e, _ = (i * units for i in range(6))
    one, z = 6 * units, 6 * units + 1
    tiles: list[tuple[int, int, int, int, int, int]] = []

    def matrix(begin: int, rows: int, columns: int, d_at: int, x_at: int) -> None:
        for o in range(0, rows, blocks.tile_rows):
            for k in range(0, columns, blocks.tile_columns):
                part = min(blocks.tile_rows, rows - o), min(blocks.tile_columns, columns - k)
                tiles.append((begin + o * columns + k, columns, *part, d_at + o, x_at + k))

    for i in range(1, layers + 1):
        here, width, (tower, bias) = plan.starts[i], plan.width(i), plan.towers[i - 1]
        matrix(tower, width, plan.width(i - 1), d + here, x + plan.starts[i - 1])
        matrix(bias, 1, width, one, d + here)
        if plan.skips:
            (scale, beta), rows = plan.scales[i - 1], plan.scale_rows(i)
            matrix(scale, rows, width, e + here, x + here)
            matrix(beta, 1, rows, one, e + here)
            matrix(plan.skips[i - 1], 1, width, z, t + here)
    matrix(plan.output[0], 1, plan.width(layers), z, x + plan.starts[layers])
    matrix(plan.output[1], 1, 1, z, one)
    return np.array(tiles, np.int64)


def plan_fields(slot_field: Sequence[int], fields: int) -> NDArray[np.int32]:
    """The slots of each field [F, most], padded with -1.

    >>> plan_fields([0, 1, 1], 3).tolist()
    [[0, -1], [1, 2], [-1, -1]]
    """
    own = [[slot for slot, of in enumerate(slot_field) if of == field] for field in range(fields)]
    most = max(1, *(len(slots) for slots in own))
    return np.array([slots + [-1] * (most - len(slots)) for slots in own], np.int32)


def power_of_2(number: int) -> int:
    """The smallest power of 2 that is at least ``number``.

    >>> power_of_2(1), power_of_2(39)
    (1, 64)
    """
    return 1 << max(number - 1, 0).bit_length()


def as_indices(array: NDArray[np.integer], device: torch.device) -> Tensor:
    """The array on the device."""
    return torch.from_numpy(np.ascontiguousarray(array)).to(device)


def rule_settings(name: str, rate: float) -> dict[str, float]:
    """Number and settings of a base rule for the kernels; settings that the rule lacks are neutral."""
    rule = build_rule(name, rate)
    beta_1, beta_2 = (float(getattr(rule, key, 0.5)) for key in ("beta_1", "beta_2"))
    return {
        "rule": RULES[name],
        "rate": float(rate),
        "epsilon": float(getattr(rule, "epsilon", 0.0)),
        "beta_1": beta_1,
        "beta_2": beta_2,
        "log_beta_1": math.log(beta_1),
        "log_beta_2": math.log(beta_2),
    }
