"""Dense parameters as views of one vector, so that one operation on the vector updates all of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from stream_ctr.models.initial_weights import dense_values
from stream_ctr.state.state import Json

if TYPE_CHECKING:  # layouts are also used without torch; only the views of a tensor need it
    from torch import Tensor

Weights = dict[str, "Tensor"]
"""Dense parameters by name."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """One dense parameter: name, shape and distribution of its initial values."""

    name: str
    shape: tuple[int, ...]
    deviation: float = 0.0
    """Standard deviation of the initial values."""
    mean: float = 0.0
    """Mean of the initial values."""


def he(fan_in: int) -> float:
    """Standard deviation that preserves the variance through a ReLU layer (He et al. 2015)."""
    return math.sqrt(2.0 / fan_in)


def xavier(fan_in: int, fan_out: int) -> float:
    """Standard deviation that preserves the variance through a linear layer (Glorot and Bengio 2010)."""
    return math.sqrt(2.0 / (fan_in + fan_out))


class Layout:
    """Positions of named parameters in one flat vector, in declaration order.

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
        """Each parameter as a view of ``flat`` [size]; both share memory."""
        parts = flat.split_with_sizes(list(self.sizes))
        return {
            parameter.name: part.view(parameter.shape)
            for parameter, part in zip(self.parameters, parts, strict=True)
        }

    def leaves(self, flat: Tensor) -> Weights:
        """The views as leaves of the autograd graph, for gradients with respect to them."""
        return {name: view.detach().requires_grad_() for name, view in self.views(flat).items()}

    def initial(self, seed: int) -> NDArray[np.float32]:
        """Initial vector float32 [size], before the first event."""
        parts = [np.zeros(0, np.float32)]
        for parameter, size in zip(self.parameters, self.sizes, strict=True):
            values = np.full(size, parameter.mean, np.float32)
            if parameter.deviation > 0.0:
                values += dense_values(seed, parameter.name, (size,), parameter.deviation)
            parts.append(values)
        return np.concatenate(parts)

    def describe(self) -> Json:
        """Names and shapes as stored in a state: [[name, [extent, ...]], ...]."""
        return [[parameter.name, list(parameter.shape)] for parameter in self.parameters]
