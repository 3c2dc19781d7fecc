"""Variance of the logit of untrained networks, compared with its equations (SML, eq. 6 and 12).

L is the number of added logits: the base logit and one for each of the H hidden layers, so L = H + 1.

    Var(z)  = L Var(x)             skip logits without tanh, all of them of one variance Var(x)    (eq. 6)
    Var(z) <= Var(x) + L - 1       with tanh, whose variance is at most 1                          (eq. 12)

Var(x) is the variance of the base logit over random initial weights. For the initial weights used here it
follows without free parameters. Inputs have mean square 1, which layers with He weights preserve,

    q = E x_ik^2 = 1,    Var(x) = Var(v . x_H) = c q,    c = 2 h / (h + 1)  (Xavier's weights v and W_i),

so eq. 6 holds in the mean. A skip logit of the full form has variance c E tanh^2(s x_ik), at most c. Eq. 12
assumes a weight of 1, so L - 1 becomes c (L - 1) here. In wide layers x_ik is the positive part of a normal
variable with variance 2 q, and s = leaky_relu(N(beta, q)) is independent of it. :func:`skip_variance`
computes the value that follows, which is tighter than the bound.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from stream_ctr.config.model import ModelConfig
from stream_ctr.models.build import build_network

Form = Literal["plain", "vanilla", "meta_tanh"]
FORMS: Final[tuple[Form, ...]] = ("plain", "vanilla", "meta_tanh")
"""No skip logits; W_i . x_i; the full form."""
FIELDS, EMBEDDING = 39, 16
"""The shape of Criteo's input."""
NODES: Final = 201
"""Quadrature nodes for expectations over a normal distribution."""


@dataclass(frozen=True, slots=True)
class VarianceResult:
    """Result for networks of one depth and form."""

    depth: int
    form: Form
    measured: float
    """Mean over seeds and inputs of the squared logit, whose mean over weights is 0."""
    error: float
    """Its standard error over seeds."""
    median: float
    """Median over seeds of each network's own mean square over inputs."""
    predicted: float
    """Prediction for wide layers with the initial weights used: eq. 6 or, with tanh, the mean-field value."""
    bound: float
    """Upper bound of eq. 12; infinite for forms to which it does not apply."""


def model_of(form: Form, depth: int, width: int) -> ModelConfig:
    """A tower of equal layers in this form, whose initial logit has mean 0."""
    hidden, sml = (width,) * depth, form != "plain"
    skip: Literal["vanilla", "meta_tanh"] = "vanilla" if form == "vanilla" else "meta_tanh"
    return ModelConfig(embedding=EMBEDDING, hidden=hidden, sml=sml, skip=skip, base_rate=0.5)


def weight_share(width: int) -> float:
    """c = h times the variance of a Xavier weight in a vector [h]: 2 h / (h + 1)."""
    return 2.0 * width / (width + 1.0)


def skip_variance(width: int, slope: float, beta: float) -> float:
    """c E tanh^2(s x) of one skip logit of wide layers, with q = 1.

    x = max(0, sqrt(2) a) and s = leaky_relu(beta + b) with independent standard normal a and b.
    """
    nodes, weights = np.polynomial.hermite_e.hermegauss(NODES)
    weights = weights / math.sqrt(2.0 * math.pi)
    x = np.maximum(0.0, math.sqrt(2.0) * nodes)
    inner = beta + nodes
    s = np.where(inner > 0.0, inner, slope * inner)
    square = np.tanh(s[:, None] * x[None, :]) ** 2
    return weight_share(width) * float(weights @ square @ weights)


def predicted(form: Form, depth: int, width: int) -> float:
    """Predicted variance of the logit, averaged over the initial weights of wide layers."""
    base = weight_share(width)
    if form == "plain":
        return base
    if form == "vanilla":
        return base * (depth + 1)  # eq. 6
    defaults = ModelConfig()
    return base + depth * skip_variance(width, defaults.slope, defaults.beta)


def bound(form: Form, depth: int, width: int) -> float:
    """Var(x) + c (L - 1): eq. 12 for the initial weights used."""
    return weight_share(width) * (1 + depth) if form == "meta_tanh" else math.inf


def unit_inputs(samples: int, seed: int) -> NDArray[np.float64]:
    """Inputs [samples, F, d] in random directions, each with mean square 1."""
    x = np.random.default_rng(seed).standard_normal((samples, FIELDS, EMBEDDING))
    scale = np.sqrt((x * x).mean(axis=(1, 2), keepdims=True))
    return np.asarray(x / scale)


def measure(
    form: Form,
    depth: int,
    width: int,
    seeds: int,
    samples: int,
    first_seed: int = 1,
    progress: Callable[[int], None] = lambda seed: None,
) -> VarianceResult:
    """Measure the variance over ``seeds`` networks, each with its own ``samples`` inputs.

    Raises:
        ModelError: depth or width is out of range.
    """
    network = build_network(model_of(form, depth, width), FIELDS)
    squares = np.empty(seeds)
    for number in range(seeds):
        seed = first_seed + number
        p = network.layout.views(torch.from_numpy(network.layout.initial(seed)).double())
        with torch.no_grad():
            z = network.logit(p, torch.from_numpy(unit_inputs(samples, seed)))
        squares[number] = float(z.square().mean())
        progress(number + 1)
    error = float(squares.std(ddof=1) / math.sqrt(seeds)) if seeds > 1 else math.nan
    return VarianceResult(
        depth,
        form,
        float(squares.mean()),
        error,
        float(np.median(squares)),
        predicted(form, depth, width),
        bound(form, depth, width),
    )


def growth(results: list[VarianceResult]) -> float:
    """Least-squares slope of ln Var(z) over ln L: 1 is linear in depth, 0 is constant. NaN for one depth."""
    if len(results) < 2 or any(result.measured <= 0.0 for result in results):
        return math.nan
    x = np.log([result.depth + 1 for result in results])
    y = np.log([result.measured for result in results])
    x = x - x.mean()
    return float(x @ (y - y.mean()) / (x @ x))
