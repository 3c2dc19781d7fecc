"""Arguments of the compiled learner's kernels: sizes, settings and arrays, by name.

H hidden layers of widths h_1 to h_H follow x_0, the concatenated pooled embeddings (h_0 numbers). All dense
parameters are stored in one vector, each at a multiple of 16; so are the units of all layers in a vector of
units. Data that is read together thus starts on a cache line.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stream_ctr.config.label_policy import POLICIES, LabelLoss
from stream_ctr.config.model import ModelConfig
from stream_ctr.config.optimizer import OptimizerConfig
from stream_ctr.models.layout import Layout
from stream_ctr.optim.rules import Rule

Floats = NDArray[np.floating[Any]]
"""float32; float64 in tests that need exact arithmetic."""
Moments = NDArray[Any]
"""Accumulators: in the type of the weights, or the bits of bfloat16; see :mod:`stream_ctr.optim.moments`."""
Kind = type[np.float32] | type[np.float64]
Number = float | np.floating[Any]
Ints = NDArray[np.int64]

ALIGN: Final = 16
"""Parameters and layers start at multiples of this many numbers: 64 bytes of float32."""

SGD: Final = 0
ADAGRAD: Final = 1
ADAM: Final = 2
RULES: Final = {"sgd": SGD, "adagrad": ADAGRAD, "adam": ADAM}

TOWER: Final = 0
BIAS: Final = 1
SCALE: Final = 2
BETA: Final = 3
SKIP: Final = 4
"""Columns of ``Shape.place``: A_i, b_i, and w_i, beta_i, W_i of the skip logit."""


class Shape(NamedTuple):
    """The network: sizes, offsets and switches."""

    width: Ints
    """[H + 1] h_0 to h_H."""
    start: Ints
    """[H + 1] offset of the units of each layer in a vector of units."""
    place: Ints
    """[H, 5] offsets of A_i, b_i, w_i, beta_i, W_i in a dense vector."""
    output: Ints
    """[2] offsets of v and c in a dense vector."""
    slot_field: Ints
    """[S] field of each slot."""
    mean: bool
    """Pool the rows of a field by their mean; otherwise by their sum."""
    sml: bool
    """With skip logits."""
    units: bool
    """One scale s_i per unit; otherwise one per layer."""
    slope: np.floating[Any]
    """Negative slope of the leaky ReLU in s_i."""


class Method(NamedTuple):
    """Optimizer method: perturbation, L2, label policy and replay."""

    sam: bool
    """One norm over all parameters; overrides ``table_norm`` and ``global_norm``."""
    table_norm: bool
    """Helen eq. 8 with the norm over the whole table of the field; otherwise over the row."""
    global_norm: bool
    """The norm of the dense perturbation covers all gradients; otherwise only the dense ones."""
    rho_rows: float
    rho_dense: float
    xi: float
    warm_up: int
    """Learned events over which the radii grow from 0 to their full value."""
    l2: float
    smallest: float
    """The smallest normal number of the weights' type; smaller squared norms count as 0, like denormals."""
    largest: float
    """The largest number of the weights' type; larger squared norms count as non-finite."""
    policy: int
    """Label policy, as its index in POLICIES."""
    keep: float
    """Share of the negatives that are learned."""
    revisit_after: int
    """Learned events until an event is replayed; 0: no replay."""
    revisit_rows: float
    revisit_dense: float


class RulePlan(NamedTuple):
    """A base rule and its settings."""

    kind: int
    skip: bool
    """Adam: do not move weights whose gradient is 0."""
    seed: int
    """Seed for the rounding of accumulators in 16 bits."""
    rate: float
    initial: float
    beta_1: float
    beta_2: float
    epsilon: float


class Parameters(NamedTuple):
    """The dense parameters [P] and their accumulators; those that the rule does not use are empty."""

    weight: Floats
    mean: Moments
    square: Moments


class Table(NamedTuple):
    """The R rows of width D and their accumulators; those that the rule does not use are empty."""

    weight: Floats
    """[R * D]."""
    mean: Moments
    square: Moments
    step: Ints
    """[R] number of steps of the row."""
    touched: Ints
    """[R] number of learned events at the row's last touch."""


class Pass(NamedTuple):
    """One forward and backward pass of one event; all fields except ``z`` are vectors of units."""

    x: Floats
    """x_0 to x_H."""
    inner: Floats
    """w_i x_i + beta_i, before the leaky ReLU; only the first number is used if a layer has one scale."""
    t: Floats
    """tanh(s_i x_i)."""
    d: Floats
    """Loss gradient before the ReLU, i.e. at b_i; the gradient of A_i is d x_(i-1)^T."""
    e: Floats
    """Loss gradient at beta_i; the gradient of w_i is e x_i^T."""
    g: Floats
    """Loss gradient at x_i; at x_0 it is divided by the number of rows if fields are pooled by their mean."""
    z: Floats
    """[1] loss gradient at the logit."""


class Scratch(NamedTuple):
    """Temporary memory of a step, besides the two passes."""

    factor: Floats
    """[S] c of eps = c g for the row of each slot."""
    square: NDArray[np.float64]
    """[F] squared gradient norm of one row of each field; all rows of a field have the same gradient."""
    members: Ints
    """[F] number of rows of each field."""
    live: Ints
    """[max h] units with a gradient."""
    row: Floats
    """[D] gradient of one row with its L2 term."""
    one: Floats
    """[1] the number 1."""
    vectors: Floats
    """Gradients of the vector parameters, in their order at the end of the dense vector."""


class Past(NamedTuple):
    """The last L learned events; see :class:`stream_ctr.learners.revisit.PastEvents`."""

    rows: Ints
    """[L, S]."""
    trace: Floats
    """[L, S, D]."""
    label: NDArray[np.float32]
    """[L]."""
    weight: NDArray[np.float32]
    """[L]."""


class Workspace(NamedTuple):
    """All data of a learner that its kernels use."""

    table: Table
    dense: Parameters
    shape: Shape
    method: Method
    row_rule: RulePlan
    dense_rule: RulePlan
    first: Pass
    second: Pass
    scratch: Scratch
    past: Past


class Chunk(NamedTuple):
    """B events with their K row changes."""

    rows: Ints
    """[B, S] row of each slot, negative if the slot is empty."""
    ratio: NDArray[np.float32]
    """[B, S]."""
    label: NDArray[np.float32]
    """[B]."""
    weight: NDArray[np.float32]
    """[B]."""
    learns: NDArray[np.bool_]
    """[B]."""
    scores: NDArray[np.bool_]
    """[B] events to score; read only for events that are not learned."""
    first: Ints
    """[B + 1] the first change of each event."""
    changed: Ints
    """[K] rows to initialise."""
    values: Floats
    """[K, D] their initial values."""


def places(layout: Layout) -> tuple[dict[str, int], int, int]:
    """Offset of each parameter in the padded vector, offset of the first vector parameter, and total length.

    Parameters with two or more dimensions come first, then all vectors.
    """
    begin: dict[str, int] = {}
    at = vectors = 0
    for is_vector in (False, True):
        vectors = at
        for parameter, size in zip(layout.parameters, layout.sizes, strict=True):
            if (len(parameter.shape) < 2) == is_vector:
                begin[parameter.name] = at
                at += -(-size // ALIGN) * ALIGN
    return begin, vectors, at


def flat_places(layout: Layout) -> Ints:
    """Index in the padded vector of each number of the flat vector, int64 [size]."""
    begin, _, _ = places(layout)
    own = zip(layout.parameters, layout.sizes, strict=True)
    return np.concatenate([np.zeros(0, np.int64)] + [begin[p.name] + np.arange(size) for p, size in own])


def plan_shape(
    model: ModelConfig, fields: int, slot_field: Sequence[int], place: dict[str, int], dtype: Kind
) -> Shape:
    """The shape of a configured network whose parameters have the offsets ``place``."""
    width = np.array([fields * model.embedding, *model.hidden], np.int64)
    padded = -(-width // ALIGN) * ALIGN
    names = ["tower.{}.weight", "tower.{}.bias"]
    if model.sml:
        names += ["sml.{}.scale", "sml.{}.beta", "sml.{}.weight"]
    of_layer = np.zeros((len(model.hidden), SKIP + 1), np.int64)
    for i in range(len(model.hidden)):
        of_layer[i, : len(names)] = [place[name.format(i + 1)] for name in names]
    return Shape(
        width=width,
        start=np.cumsum(padded) - padded,
        place=of_layer,
        output=np.array([place["output.weight"], place["output.bias"]], np.int64),
        slot_field=np.array(list(slot_field), np.int64),
        mean=model.pooling == "mean",
        sml=model.sml,
        units=model.scale == "unit",
        slope=dtype(model.slope),
    )


def plan_method(config: OptimizerConfig, dtype: Kind, labels: LabelLoss) -> Method:
    """Radii and norms of a configured optimizer (Helen eq. 7 to 10, SAM or none), and the label loss."""
    helen, base = config.method == "helen", config.method in ("auto", "base", "revisit")
    rho_dense = config.rho_dense if helen else config.rho
    limits = np.finfo(dtype)
    return Method(
        sam=config.method == "sam",
        table_norm=config.row_norm == "table",
        global_norm=config.method == "sam" or config.dense_norm == "global",
        rho_rows=0.0 if base or (helen and config.perturb == "dense") else float(config.rho),
        rho_dense=0.0 if base or (helen and config.perturb == "embedding") else float(rho_dense),
        xi=float(config.xi),
        warm_up=int(config.warm_up_events),
        l2=float(config.l2),
        smallest=float(limits.tiny),
        largest=float(limits.max),
        policy=POLICIES.index(labels.policy),
        keep=float(labels.keep_negatives),
        revisit_after=int(config.revisit_after) if config.method == "revisit" else 0,
        revisit_rows=float(config.revisit_rows),
        revisit_dense=float(config.revisit_dense),
    )


def plan_rule(name: str, rule: Rule, skip: bool, seed: int) -> RulePlan:
    """The settings of a base rule; settings that the rule does not have are 0."""
    numbers = {
        key: float(getattr(rule, key, 0.0)) for key in ("rate", "initial", "beta_1", "beta_2", "epsilon")
    }
    return RulePlan(kind=RULES[name], skip=skip, seed=seed, **numbers)


def plan_pass(shape: Shape, dtype: Kind) -> Pass:
    """Allocate the memory of one pass."""
    units = int(shape.start[-1]) + -(-int(shape.width[-1]) // ALIGN) * ALIGN
    x, inner, t, d, e, g = (aligned(units, dtype) for _ in range(6))
    return Pass(x, inner, t, d, e, g, np.zeros(1, dtype))


def aligned(size: int, dtype: type[np.generic]) -> NDArray[Any]:
    """Zeros [size] that start on a cache line."""
    room = np.zeros(size + 2 * ALIGN, dtype)
    skip = -room.ctypes.data % (ALIGN * 4) // room.itemsize
    return room[skip : skip + size]
