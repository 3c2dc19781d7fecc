"""What the compiled learner's kernels are handed: sizes, settings and arrays, by name.

H hidden layers of widths h_1 to h_H stand over x_0, the pooled embeddings side by side (h_0 numbers).
Dense parameters lie in one vector, each from a multiple of 16 on; so do the units of all layers in a
vector of units. Both keep what is read together on whole cache lines.
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
"""float32; float64 where a test asks for exact arithmetic."""
Moments = NDArray[Any]
"""Accumulators: as the weights, or bfloat16 as its bits; see :mod:`stream_ctr.optim.moments`."""
Kind = type[np.float32] | type[np.float64]
Number = float | np.floating[Any]
Ints = NDArray[np.int64]

ALIGN: Final = 16
"""Numbers between the places where a parameter or a layer's units may start: 64 bytes of float32."""

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
    """The network."""

    width: Ints
    """[H + 1] h_0 to h_H."""
    start: Ints
    """[H + 1] where the units of layer i begin in a vector of units."""
    place: Ints
    """[H, 5] where A_i, b_i, w_i, beta_i, W_i begin in a dense vector."""
    output: Ints
    """[2] where v and c begin in a dense vector."""
    slot_field: Ints
    """[S] field of each slot."""
    mean: bool
    """Pool a field's rows by their mean; else by their sum."""
    sml: bool
    """Skip logits."""
    units: bool
    """A scale s_i per unit; else one per layer."""
    slope: np.floating[Any]
    """Negative slope of the leaky ReLU in s_i."""


class Method(NamedTuple):
    """Where the second gradient is taken."""

    sam: bool
    """One norm over all parameters, whatever the switches below say."""
    table_norm: bool
    """eq. 8 with the norm of the field's whole table; else of the row's own gradient."""
    global_norm: bool
    """The dense perturbation's norm is over all gradients; else over the dense one."""
    rho_rows: float
    rho_dense: float
    xi: float
    warm_up: int
    """Radii grow from 0 over this many learned events."""
    l2: float
    smallest: float
    """Squared norms below the smallest normal number of the weights' type count as 0, as denormals do."""
    largest: float
    """Squared norms beyond the largest number of the weights' type are not finite."""
    policy: int
    """Label policy, by its place among POLICIES."""
    keep: float
    """Share of the negatives that is learned."""
    revisit_after: int
    """Learned events until an event has its second turn; 0: it has none."""
    revisit_rows: float
    revisit_dense: float


class RulePlan(NamedTuple):
    """A base rule and its settings."""

    kind: int
    skip: bool
    """Adam: leave weights alone whose gradient is 0."""
    seed: int
    """Of the rounding of accumulators in 16 bits."""
    rate: float
    initial: float
    beta_1: float
    beta_2: float
    epsilon: float


class Parameters(NamedTuple):
    """The dense parameters P and their accumulators; an accumulator that the rule lacks is empty."""

    weight: Floats
    mean: Moments
    square: Moments


class Table(NamedTuple):
    """The R rows of width D and their accumulators; an accumulator that the rule lacks is empty."""

    weight: Floats
    """[R * D]."""
    mean: Moments
    square: Moments
    step: Ints
    """[R] steps of the row under its own count."""
    touched: Ints
    """[R] the learned event of the row's last touch."""


class Pass(NamedTuple):
    """One forward and backward pass of one event; each but ``z`` a vector of units."""

    x: Floats
    """x_0 to x_H."""
    inner: Floats
    """w_i x_i + beta_i, before the leaky ReLU; its first number where the layer has one scale."""
    t: Floats
    """tanh(s_i x_i)."""
    d: Floats
    """Loss gradient before the ReLU, i.e. at b_i; A_i has the gradient d x_(i-1)^T."""
    e: Floats
    """Loss gradient at beta_i; w_i has the gradient e x_i^T."""
    g: Floats
    """Loss gradient at x_i; that at x_0 divided among the field's rows."""
    z: Floats
    """[1] loss gradient at the logit."""


class Scratch(NamedTuple):
    """What a step needs beside the two passes."""

    factor: Floats
    """[S] c of eps = c g for each slot's row."""
    square: NDArray[np.float64]
    """[F] squared norm of the gradient of each of a field's rows: they are equal."""
    members: Ints
    """[F] rows of each field."""
    live: Ints
    """[max h] units with a gradient."""
    row: Floats
    """[D] gradient of one row with its L2 term."""
    one: Floats
    """[1] the number 1."""
    vectors: Floats
    """Gradients of the parameters that are vectors, as they lie at the end of the dense vector."""


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
    """A learner, as its kernels see it."""

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
    """[B, S] row of each slot, negative where it is empty."""
    ratio: NDArray[np.float32]
    """[B, S]."""
    label: NDArray[np.float32]
    """[B]."""
    weight: NDArray[np.float32]
    """[B]."""
    learns: NDArray[np.bool_]
    """[B]."""
    scores: NDArray[np.bool_]
    """[B] events that do not learn and ask for their probability."""
    first: Ints
    """[B + 1] the first change of each event."""
    changed: Ints
    """[K] row to initialise."""
    values: Floats
    """[K, D] what it starts at."""


def places(layout: Layout) -> tuple[dict[str, int], int, int]:
    """Where each parameter begins in the padded vector, where the vectors begin, and its length.

    Matrices, and what has more dimensions, come first, then all vectors together.
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
    """The place in the padded vector of each number of the flat vector, int64 [size]."""
    begin, _, _ = places(layout)
    own = zip(layout.parameters, layout.sizes, strict=True)
    return np.concatenate([np.zeros(0, np.int64)] + [begin[p.name] + np.arange(size) for p, size in own])


def plan_shape(
    model: ModelConfig, fields: int, slot_field: Sequence[int], place: dict[str, int], dtype: Kind
) -> Shape:
    """The network of a configuration whose parameters begin at ``place``."""
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
    """Radii and norms of a configuration (Helen eq. 7 to 10, or SAM, or none), and the labels' loss."""
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
    """The settings of a base rule; what it lacks is 0."""
    numbers = {
        key: float(getattr(rule, key, 0.0)) for key in ("rate", "initial", "beta_1", "beta_2", "epsilon")
    }
    return RulePlan(kind=RULES[name], skip=skip, seed=seed, **numbers)


def plan_pass(shape: Shape, dtype: Kind) -> Pass:
    """Memory of one pass."""
    units = int(shape.start[-1]) + -(-int(shape.width[-1]) // ALIGN) * ALIGN
    x, inner, t, d, e, g = (aligned(units, dtype) for _ in range(6))
    return Pass(x, inner, t, d, e, g, np.zeros(1, dtype))


def aligned(size: int, dtype: type[np.generic]) -> NDArray[Any]:
    """Zeros from the beginning of a cache line on."""
    room = np.zeros(size + 2 * ALIGN, dtype)
    skip = -room.ctypes.data % (ALIGN * 4) // room.itemsize
    return room[skip : skip + size]
