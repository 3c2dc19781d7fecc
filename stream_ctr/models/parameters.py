"""Declarations of dense parameters: names, shapes and initial distributions; no arithmetic."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from stream_ctr.config.model import ModelConfig, SkipForm
from stream_ctr.models.layout import Layout, Parameter, he, xavier


def hidden_parameters(inputs: int, hidden: Sequence[int], prefix: str = "tower") -> list[Parameter]:
    """A_i and b_i of hidden ReLU layers over ``inputs`` numbers."""
    parameters = []
    for i, width in enumerate(hidden, start=1):
        parameters.append(Parameter(f"{prefix}.{i}.weight", (width, inputs), he(inputs)))
        parameters.append(Parameter(f"{prefix}.{i}.bias", (width,)))
        inputs = width
    return parameters


def output_parameters(inputs: int, base_logit: float) -> list[Parameter]:
    """v and c of z = v . x + c. c starts at ``base_logit``, the prediction before the first update."""
    parameters = [Parameter("output.bias", (1,), mean=base_logit)]
    if inputs:
        parameters.insert(0, Parameter("output.weight", (inputs,), xavier(inputs, 1)))
    return parameters


def tower_parameters(inputs: int, hidden: Sequence[int], base_logit: float = 0.0) -> list[Parameter]:
    """A_i, b_i, v and c of a tower over ``inputs`` numbers with its output layer."""
    last = hidden[-1] if hidden else inputs
    return hidden_parameters(inputs, hidden) + output_parameters(last, base_logit)


def parallel_tower_parameters(inputs: int, hidden: Sequence[int], base_logit: float) -> list[Parameter]:
    """The same for a tower in parallel with another part: only c if ``hidden`` is empty."""
    return tower_parameters(inputs if hidden else 0, hidden, base_logit)


def skip_parameters(
    hidden: Sequence[int],
    form: SkipForm,
    scale: Literal["unit", "scalar", "low_rank"],
    rank: int,
    beta: float,
) -> list[Parameter]:
    """Parameters of Skip Meta Logit per layer: w_i, beta_i and W_i [h].

    w_i is [h, h] or [1, h] (low rank: [h, r] and [r, h]), beta_i is [h] or [1]. Forms without a meta network
    have no w_i; forms without a scale have no beta_i.
    """
    meta = form.startswith("meta_")
    parameters = []
    for i, width in enumerate(hidden, start=1):
        scales = 1 if scale == "scalar" else width
        if meta and scale == "low_rank":
            parameters.append(Parameter(f"sml.{i}.up", (width, rank), xavier(rank, width)))
            parameters.append(Parameter(f"sml.{i}.down", (rank, width), xavier(width, rank)))
        elif meta:
            parameters.append(Parameter(f"sml.{i}.scale", (scales, width), xavier(width, scales)))
        if meta or form == "learned_scale":
            parameters.append(Parameter(f"sml.{i}.beta", (scales,), mean=beta))
        parameters.append(Parameter(f"sml.{i}.weight", (width,), xavier(width, 1)))
    return parameters


def base_logit(config: ModelConfig) -> float:
    """The logit of ``model.base_rate``."""
    return math.log(config.base_rate) - math.log1p(-config.base_rate)


def tower_layout(config: ModelConfig, fields: int) -> Layout:
    """The layout of the plain deep network, ``model.backbone = "dnn"``, with or without skip logits.

    >>> config = ModelConfig(embedding=4, hidden=(8,), sml=False)
    >>> [parameter.name for parameter in tower_layout(config, 3).parameters]
    ['tower.1.weight', 'tower.1.bias', 'output.weight', 'output.bias']
    """
    parameters = tower_parameters(fields * config.embedding, config.hidden, base_logit(config))
    if config.sml:
        parameters += skip_parameters(
            config.hidden, config.skip, config.scale, config.scale_rank, config.beta
        )
    return Layout(parameters)
