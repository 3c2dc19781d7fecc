"""Dense parameters as views of one vector: what is done to all of them is done to the vector at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from stream_ctr.models.initial_weights import dense_values
from stream_ctr.state.state import Json

if TYPE_CHECKING:  # a layout is needed where torch is not: only views of a tensor need it
    from torch import Tensor

Weights = dict[str, "Tensor"]
"""Dense parameters by name."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """One dense parameter: its name, shape and how it starts."""

    name: str
    shape: tuple[int, ...]
    deviation: float = 0.0
    """Standard deviation of the initial values."""
    mean: float = 0.0
    """Mean of the initial values."""


def he(fan_in: int) -> float:
    """Standard deviation that keeps the variance through a ReLU layer (He et al. 2015)."""
    return math.sqrt(2.0 / fan_in)


def xavier(fan_in: int, fan_out: int) -> float:
    """Standard deviation that keeps the variance through a linear layer (Glorot and Bengio 2010)."""
    return math.sqrt(2.0 / (fan_in + fan_out))


class Layout:
    """Places of named parameters in one flat vector, in the order in which they are declared.

    >>> layout = Layout([Parameter("weight", (2, 3)), Parameter("bias", (2,))])
    >>> layout.size
    8
    >>> layout.describe()
    [['weight', [2, 3]], ['bias', [2]]]
    """

    def __init__(self, parameters: Sequence[Parameter]) -> None:
        self.parameters = tuple(parameters)
        self.sizes = tuple(math.prod(parameter.shape) for parameter in self.parameters)
        self.size = sum(self.sizes)

    def views(self, flat: Tensor) -> Weights:
        """Each parameter as a view of ``flat`` [size]: writing to one writes to the other."""
        parts = flat.split_with_sizes(list(self.sizes))
        return {
            parameter.name: part.view(parameter.shape)
            for parameter, part in zip(self.parameters, parts, strict=True)
        }

    def leaves(self, flat: Tensor) -> Weights:
        """The views as leaves of the autograd graph, to take gradients at."""
        return {name: view.detach().requires_grad_() for name, view in self.views(flat).items()}

    def initial(self, seed: int) -> NDArray[np.float32]:
        """The vector before the first event, float32 [size]."""
        parts = [np.zeros(0, np.float32)]
        for parameter, size in zip(self.parameters, self.sizes, strict=True):
            values = np.full(size, parameter.mean, np.float32)
            if parameter.deviation > 0.0:
                values += dense_values(seed, parameter.name, (size,), parameter.deviation)
            parts.append(values)
        return np.concatenate(parts)

    def describe(self) -> Json:
        """Names and shapes, as they are written into a state: [[name, [extent, ...]], ...]."""
        return [[parameter.name, list(parameter.shape)] for parameter in self.parameters]
